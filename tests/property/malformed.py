"""Requests that are wrong by themselves, and the field that each is wrong in."""

from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import fleet_admin_pb2 as admin_pb
from blockyard.v1 import ledger_pb2, resources_pb2

_FLEET: Final = "fleets/gpu"
_NODE: Final = f"{_FLEET}/instances/n1"
_HELD: Final = f"{_FLEET}/allocations/1"
_DEMAND: Final = pb.Demand(blocks=1)


def _acquire(**fields: object) -> pb.AcquireRequest:
    good: dict[str, object] = {"fleet": _FLEET, "idempotency_token": "t", "holder": "h", "demands": [_DEMAND]}
    return pb.AcquireRequest(**good | fields)  # type: ignore[arg-type]  # each field is the right type by its name


MALFORMED: Final[list[tuple[str, Message, list[str]]]] = [
    ("Acquire", _acquire(fleet="gpu"), ["fleet"]),
    ("Acquire", _acquire(idempotency_token="é"), ["idempotency_token"]),
    ("Acquire", _acquire(holder="a\nb", demands=[]), ["demands", "holder"]),
    ("Acquire", _acquire(demands=[pb.Demand()]), ["demands[0].blocks"]),
    ("Acquire", _acquire(demands=[_DEMAND, pb.Demand(blocks=4097)]), ["demands[1].blocks"]),
    ("Acquire", _acquire(demands=[pb.Demand(blocks=1, instances=-1)]), ["demands[0].instances"]),
    ("Acquire", _acquire(demands=[pb.Demand(blocks=1, requirements={"gpu": 1})]), ["demands[0].requirements"]),
    ("Acquire", _acquire(demands=[pb.Demand(requirements={"gpu": 0})]), ["demands[0].requirements[gpu]"]),
    (
        "Acquire",
        _acquire(demands=[pb.Demand(blocks=1, instance_names=["fleets/cpu/instances/n1"])]),
        ["demands[0].instance_names[0]"],
    ),
    ("Acquire", _acquire(demands=[pb.Demand(blocks=4096, instances=5)]), ["demands"]),
    ("Acquire", _acquire(ttl=Duration(nanos=99_999_000)), ["ttl"]),
    ("Acquire", _acquire(annotations={"": "x"}), ["annotations"]),
    ("Release", pb.ReleaseRequest(), ["target"]),
    ("Release", pb.ReleaseRequest(name=_HELD, fleet="fleets/cpu"), ["fleet"]),
    ("Release", pb.ReleaseRequest(name=f"{_FLEET}/allocations/01"), ["name"]),
    ("Release", pb.ReleaseRequest(name=_HELD, fencing_token=-1), ["fencing_token"]),
    ("Release", pb.ReleaseRequest(name=_HELD, holder="", fencing_token=0), ["fencing_token", "holder"]),
    (
        "Release",
        pb.ReleaseRequest(name=_HELD, placements=[resources_pb2.Placement(instance=_NODE)]),
        ["placements[0].blocks"],
    ),
    (
        "Release",
        pb.ReleaseRequest(
            name=_HELD,
            placements=[
                resources_pb2.Placement(instance=_NODE, blocks=[0]),
                resources_pb2.Placement(instance=_NODE, blocks=[4096]),
            ],
        ),
        ["placements[1].blocks", "placements[1].instance"],
    ),
    ("Renew", pb.RenewRequest(name=_FLEET), ["name"]),
    ("Renew", pb.RenewRequest(name=_HELD, ttl=Duration(seconds=367 * 86_400)), ["ttl"]),
    ("Batch", pb.BatchRequest(), ["operations"]),
    ("Describe", pb.DescribeRequest(fleet=_FLEET, page_size=-1), ["page_size"]),
    ("Describe", pb.DescribeRequest(fleet=_FLEET, page_token="AAAA"), ["page_token"]),
    ("GetAllocation", pb.GetAllocationRequest(name=_NODE), ["name"]),
    ("ListAllocations", pb.ListAllocationsRequest(parent=_FLEET, instance="fleets/cpu/instances/n1"), ["instance"]),
    ("CreateFleet", admin_pb.CreateFleetRequest(fleet_id="Gpu"), ["fleet_id"]),
    (
        "CreateFleet",
        admin_pb.CreateFleetRequest(fleet_id="gpu", fleet=resources_pb2.Fleet(name="fleets/cpu")),
        ["fleet.name"],
    ),
    (
        "UpdateFleet",
        admin_pb.UpdateFleetRequest(fleet=resources_pb2.Fleet(name=_FLEET), update_mask=FieldMask(paths=["etag"])),
        ["update_mask"],
    ),
    ("GetFleet", admin_pb.GetFleetRequest(), ["name"]),
    ("ListFleets", admin_pb.ListFleetsRequest(page_token="?"), ["page_token"]),
    ("CreateInstance", admin_pb.CreateInstanceRequest(parent=_FLEET, instance_id="n1"), ["instance.total_blocks"]),
    ("DeleteInstance", admin_pb.DeleteInstanceRequest(name=_NODE, etag="é"), ["etag"]),
    ("DeleteInstance", admin_pb.DeleteInstanceRequest(name=_NODE, etag=""), ["etag"]),
    ("ListEvents", ledger_pb2.ListEventsRequest(parent=_FLEET, from_revision=-1), ["from_revision"]),
    ("Verify", ledger_pb2.VerifyRequest(fleet="fleets/"), ["fleet"]),
]
"""(RPC, request, the wrong fields in alphabetical order)."""
