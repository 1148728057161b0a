"""For every RPC, requests that are right in every field: what the bad-input test spoils."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from blockyard.v1 import access_pb2, allocator_pb2, fleet_admin_pb2, ledger_pb2, resources_pb2
from tests.rpc.wire import Blockyard

pb = allocator_pb2
LABELS = {"zone": "a", "gpu": "a100"}


@dataclass(frozen=True)
class World:
    """A fleet with two instances, of which one has two blocks held; and an empty fleet."""

    fleet: str
    allocation: resources_pb2.Allocation
    fleet_etag: str
    empty_etag: str
    busy_etag: str
    idle_etag: str

    @property
    def name(self) -> str:
        """The fleet's full name."""
        return f"fleets/{self.fleet}"

    @property
    def empty(self) -> str:
        """The empty fleet's full name."""
        return f"{self.name}-empty"

    @property
    def busy(self) -> str:
        """The instance with held blocks."""
        return f"{self.name}/instances/busy"

    @property
    def idle(self) -> str:
        """The instance without."""
        return f"{self.name}/instances/idle"


async def make_world(blockyard: Blockyard, fleet: str) -> World:
    """Makes the fleets of a world, whose names begin with `fleet`."""
    admin = blockyard.admin
    made = await admin.CreateFleet(fleet_admin_pb2.CreateFleetRequest(fleet_id=fleet))
    empty = await admin.CreateFleet(fleet_admin_pb2.CreateFleetRequest(fleet_id=f"{fleet}-empty"))
    instances = [
        await admin.CreateInstance(
            fleet_admin_pb2.CreateInstanceRequest(parent=made.name, instance_id=instance, instance=_shape())
        )
        for instance in ("busy", "idle")
    ]
    grant = await blockyard.allocator.Acquire(
        pb.AcquireRequest(
            fleet=made.name,
            idempotency_token="held",
            holder="job-1",
            demands=[pb.Demand(blocks=2, instance_names=[instances[0].name])],
            ttl=Duration(seconds=3600),
        )
    )
    return World(fleet, grant.allocation, made.etag, empty.etag, instances[0].etag, instances[1].etag)


def _shape(**fields: Any) -> resources_pb2.Instance:
    return resources_pb2.Instance(
        total_blocks=8,
        labels=LABELS,
        resources={"gpu": 8},
        state=resources_pb2.Instance.ACTIVE,
        create_time=Timestamp(seconds=1, nanos=1),
        update_time=Timestamp(seconds=1, nanos=1),
        **fields,
    )


def _acquire(world: World, demand: pb.Demand) -> pb.AcquireRequest:
    return pb.AcquireRequest(
        fleet=world.name,
        idempotency_token="new",
        holder="job-2",
        demands=[demand],
        placement_strategy=resources_pb2.BEST_FIT,
        ttl=Duration(seconds=60, nanos=500_000_000),
        annotations={"run": "42"},
    )


def _plain_demand(world: World) -> pb.Demand:
    expression = pb.LabelExpression(key="gpu", operator=pb.LabelExpression.IN, values=["a100"])
    return pb.Demand(
        instances=1,
        blocks=2,
        selector=pb.LabelSelector(match_labels={"zone": "a"}, match_expressions=[expression]),
        instance_names=[world.busy],
    )


def _release(world: World) -> pb.ReleaseRequest:
    return pb.ReleaseRequest(
        name=world.allocation.name,
        fleet=world.name,
        placements=[resources_pb2.Placement(instance=world.busy, blocks=[0])],
        holder="job-1",
        fencing_token=world.allocation.fencing_token,
    )


def _release_by_token(world: World) -> pb.ReleaseRequest:
    return pb.ReleaseRequest(idempotency_token="held", fleet=world.name, holder="job-1")


def _renew(world: World) -> pb.RenewRequest:
    return pb.RenewRequest(
        name=world.allocation.name,
        ttl=Duration(seconds=60, nanos=500_000_000),
        holder="job-1",
        fencing_token=world.allocation.fencing_token,
    )


def _fleet(**fields: Any) -> resources_pb2.Fleet:
    return resources_pb2.Fleet(
        labels={"zone": "a"},
        default_placement_strategy=resources_pb2.FIRST_FIT,
        default_ttl=Duration(seconds=60),
        max_ttl=Duration(seconds=3600),
        create_time=Timestamp(seconds=1, nanos=1),
        update_time=Timestamp(seconds=1, nanos=1),
        **fields,
    )


Make = Callable[[World], Message]

REQUESTS: dict[str, Make] = {
    "Acquire": lambda world: _acquire(world, _plain_demand(world)),
    "Acquire by requirements": lambda world: _acquire(world, pb.Demand(requirements={"gpu": 2})),
    "Acquire exclusively": lambda world: _acquire(world, pb.Demand(exclusive=True, blocks=4)),
    "Release": _release,
    "Release by token": _release_by_token,
    "Renew": _renew,
    "Describe": lambda world: pb.DescribeRequest(fleet=world.name, view=pb.FULL, page_size=5),
    "GetAllocation": lambda world: pb.GetAllocationRequest(name=world.allocation.name),
    "ListAllocations": lambda world: pb.ListAllocationsRequest(
        parent=world.name, page_size=5, holder="job-1", state=resources_pb2.Allocation.HELD, instance=world.busy
    ),
    "Batch of acquires": lambda world: pb.BatchRequest(
        operations=[pb.BatchOperation(acquire=_acquire(world, _plain_demand(world)))]
    ),
    "Batch of releases": lambda world: pb.BatchRequest(operations=[pb.BatchOperation(release=_release(world))]),
    "Batch of renewals": lambda world: pb.BatchRequest(operations=[pb.BatchOperation(renew=_renew(world))]),
    "Watch": lambda world: pb.WatchRequest(
        fleet=world.name,
        from_revision=1,
        kinds=[ledger_pb2.Event.GRANTED],
        holder="job-1",
        instance=world.busy,
        progress_interval=Duration(seconds=60, nanos=500_000_000),
    ),
    "CreateFleet": lambda world: fleet_admin_pb2.CreateFleetRequest(
        fleet_id=f"{world.fleet}-new", fleet=_fleet(name=f"{world.name}-new")
    ),
    "GetFleet": lambda world: fleet_admin_pb2.GetFleetRequest(name=world.name),
    "ListFleets": lambda _world: fleet_admin_pb2.ListFleetsRequest(page_size=5),
    "UpdateFleet": lambda world: fleet_admin_pb2.UpdateFleetRequest(
        fleet=_fleet(name=world.name, etag=world.fleet_etag), update_mask=FieldMask(paths=["*"])
    ),
    "DeleteFleet": lambda world: fleet_admin_pb2.DeleteFleetRequest(name=world.empty, etag=world.empty_etag),
    "CreateInstance": lambda world: fleet_admin_pb2.CreateInstanceRequest(
        parent=world.name, instance_id="new", instance=_shape(name=f"{world.name}/instances/new")
    ),
    "GetInstance": lambda world: fleet_admin_pb2.GetInstanceRequest(name=world.busy),
    "ListInstances": lambda world: fleet_admin_pb2.ListInstancesRequest(parent=world.name, page_size=5),
    "UpdateInstance": lambda world: fleet_admin_pb2.UpdateInstanceRequest(
        instance=_shape(name=world.busy, etag=world.busy_etag), update_mask=FieldMask(paths=["*"])
    ),
    "DeleteInstance": lambda world: fleet_admin_pb2.DeleteInstanceRequest(name=world.idle, etag=world.idle_etag),
    "CordonInstance": lambda world: fleet_admin_pb2.CordonInstanceRequest(name=world.busy, etag=world.busy_etag),
    "UncordonInstance": lambda world: fleet_admin_pb2.UncordonInstanceRequest(name=world.busy, etag=world.busy_etag),
    "ListEvents": lambda world: ledger_pb2.ListEventsRequest(
        parent=world.name,
        page_size=5,
        from_revision=1,
        kinds=[ledger_pb2.Event.GRANTED],
        holder="job-1",
        instance=world.busy,
    ),
    "Verify": lambda world: ledger_pb2.VerifyRequest(fleet=world.name),
    "Repair": lambda world: ledger_pb2.RepairRequest(fleet=world.name, apply=True),
    "WhoAmI": lambda _world: access_pb2.WhoAmIRequest(),
    "CanI": lambda world: access_pb2.CanIRequest(permission=access_pb2.READ, fleet=world.name),
}
"""By the name of the RPC, and words that tell its requests apart."""
