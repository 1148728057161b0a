"""How a client comes by each refusal that is its own doing: one story for each reason."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from blockyard.reasons import Reason
from tests.clients.real_client import Json, Refusal
from tests.clients.stage import BLOCKS, Stage


@dataclass(frozen=True)
class Seen:
    """What a story led to, and what its error must say."""

    refusal: Refusal
    metadata: Json = field(default_factory=dict)
    """At least this, of the ErrorInfo's metadata."""
    detail: str | None = None
    """The type of the detail beside the ErrorInfo."""


Story = Callable[[Stage], Seen]


def a_field_is_malformed(stage: Stage) -> Seen:
    return Seen(stage.refused("Allocator/Describe", fleet="no fleet's name"), detail="google.rpc.BadRequest")


def more_blocks_than_an_instance_has(stage: Stage) -> Seen:
    refusal = stage.client.refusal("Allocator/Acquire", stage.acquiring(BLOCKS + 1))
    metadata = {"demand": "0", "instances_needed": "1", "instances_fitting": "0"}
    return Seen(refusal, metadata, "google.rpc.PreconditionFailure")


def more_blocks_than_are_idle(stage: Stage) -> Seen:
    stage.acquire(6)
    refusal = stage.client.refusal("Allocator/Acquire", stage.acquiring(3))
    metadata = {"demand": "0", "instances_needed": "1", "instances_found": "0", "idle_blocks": "2"}
    return Seen(refusal, metadata, "google.rpc.QuotaFailure")


def a_token_with_another_request(stage: Stage) -> Seen:
    allocation = stage.acquire(1, idempotency_token="mine")
    refusal = stage.client.refusal("Allocator/Acquire", stage.acquiring(2, idempotency_token="mine"))
    return Seen(refusal, {"fields": "demands", "allocation": allocation["name"]})


def a_release_before_its_acquire(stage: Stage) -> Seen:
    target = {"fleet": stage.fleet, "idempotency_token": "mine"}
    assert stage.client.call("Allocator/Release", target)["outcome"] == "CANCELLED_BEFORE_GRANT"
    refusal = stage.client.refusal("Allocator/Acquire", stage.acquiring(1, idempotency_token="mine"))
    return Seen(refusal, {}, "google.rpc.PreconditionFailure")


def an_acquire_again_after_the_release(stage: Stage) -> Seen:
    name = stage.acquire(1, idempotency_token="mine")["name"]
    stage.client.call("Allocator/Release", {"name": name})
    refusal = stage.client.refusal("Allocator/Acquire", stage.acquiring(1, idempotency_token="mine"))
    return Seen(refusal, {"allocation": name, "idempotency_token": "mine"}, "google.rpc.PreconditionFailure")


def a_renewal_after_the_lease(stage: Stage) -> Seen:
    name = stage.acquire(1, ttl=stage.client.duration(100))["name"]
    while stage.client.call("Allocator/GetAllocation", {"name": name})["state"] != "EXPIRED":
        pass  # each look is a call to the server; the lease is the shortest that there is
    return Seen(stage.refused("Allocator/Renew", name=name), {"allocation": name}, "google.rpc.PreconditionFailure")


def a_release_with_an_old_fencing_token(stage: Stage) -> Seen:
    allocation = stage.acquire(1)
    name, fencing_token = allocation["name"], allocation["fencing_token"]
    refusal = stage.refused("Allocator/Release", name=name, fencing_token=str(int(fencing_token) - 1))
    metadata = {"allocation": name, "fencing_token": fencing_token}
    return Seen(refusal, metadata, "google.rpc.PreconditionFailure")


def a_fleet_that_is_not_there(stage: Stage) -> Seen:
    return Seen(
        stage.refused("Allocator/Describe", fleet="fleets/nowhere"),
        {"fleet": "fleets/nowhere"},
        "google.rpc.ResourceInfo",
    )


def an_instance_that_is_not_there(stage: Stage) -> Seen:
    name = f"{stage.fleet}/instances/nowhere"
    return Seen(stage.refused("FleetAdmin/CordonInstance", name=name), {"instance": name}, "google.rpc.ResourceInfo")


def an_allocation_that_is_not_there(stage: Stage) -> Seen:
    name = f"{stage.fleet}/allocations/999"
    return Seen(stage.refused("Allocator/Release", name=name), {"allocation": name}, "google.rpc.ResourceInfo")


def a_fleet_made_again_with_other_fields(stage: Stage) -> Seen:
    refusal = stage.refused("FleetAdmin/CreateFleet", fleet_id=stage.fleet_id, fleet={"labels": {"a": "b"}})
    return Seen(refusal, {"fleet": stage.fleet, "fields": "labels"}, "google.rpc.ResourceInfo")


def an_instance_registered_again_with_another_shape(stage: Stage) -> Seen:
    refusal = stage.refused(
        "FleetAdmin/CreateInstance", parent=stage.fleet, instance_id="node-1", instance={"total_blocks": 4}
    )
    return Seen(refusal, {"instance": stage.instance, "fields": "total_blocks"}, "google.rpc.ResourceInfo")


def an_instance_shrunk_below_what_is_held(stage: Stage) -> Seen:
    stage.acquire(3)
    refusal = stage.refused("FleetAdmin/UpdateInstance", instance={"name": stage.instance, "total_blocks": 2})
    return Seen(refusal, {"instance": stage.instance, "held_blocks": "1"}, "google.rpc.PreconditionFailure")


def a_fleet_deleted_while_it_is_held(stage: Stage) -> Seen:
    stage.acquire(3)
    refusal = stage.refused("FleetAdmin/DeleteFleet", name=stage.fleet, force=True)
    metadata = {"fleet": stage.fleet, "held_blocks": "3", "instances": "1"}
    return Seen(refusal, metadata, "google.rpc.PreconditionFailure")


def an_etag_that_is_not_the_current_one(stage: Stage) -> Seen:
    etag = stage.client.call("FleetAdmin/GetFleet", {"name": stage.fleet})["etag"]
    refusal = stage.refused("FleetAdmin/DeleteFleet", name=stage.fleet, etag="old", force=True)
    return Seen(refusal, {"resource": stage.fleet, "etag": etag})


def a_release_by_another_holder(stage: Stage) -> Seen:
    name = stage.acquire(1)["name"]
    return Seen(stage.refused("Allocator/Release", name=name, holder="somebody-else"), {"allocation": name})


def a_block_that_was_never_granted(stage: Stage) -> Seen:
    name = stage.acquire(2)["name"]
    placements = [{"instance": stage.instance, "blocks": [1, 2]}]
    refusal = stage.refused("Allocator/Release", name=name, placements=placements)
    metadata = {"allocation": name, "instance": stage.instance, "block": "2"}
    return Seen(refusal, metadata, "google.rpc.PreconditionFailure")


def more_blocks_than_a_request_may_have(stage: Stage) -> Seen:
    for number in range(5):
        stage.add_instance(f"large-{number}", blocks=4096)
    demands = [
        {"instances": 5, "exclusive": True, "instance_names": [f"{stage.fleet}/instances/large-{n}" for n in range(5)]}
    ]
    refusal = stage.client.refusal("Allocator/Acquire", stage.acquiring(0, demands=demands))
    return Seen(refusal, {"limit": "blocks_per_request", "maximum": "16384"}, "google.rpc.QuotaFailure")


REFUSALS: Final[dict[Reason, Story]] = {
    Reason.INVALID_REQUEST: a_field_is_malformed,
    Reason.UNSATISFIABLE: more_blocks_than_an_instance_has,
    Reason.NO_CAPACITY: more_blocks_than_are_idle,
    Reason.TOKEN_MISMATCH: a_token_with_another_request,
    Reason.TOKEN_CANCELLED: a_release_before_its_acquire,
    Reason.ALLOCATION_ENDED: an_acquire_again_after_the_release,
    Reason.LEASE_EXPIRED: a_renewal_after_the_lease,
    Reason.STALE_FENCING_TOKEN: a_release_with_an_old_fencing_token,
    Reason.FLEET_NOT_FOUND: a_fleet_that_is_not_there,
    Reason.INSTANCE_NOT_FOUND: an_instance_that_is_not_there,
    Reason.ALLOCATION_NOT_FOUND: an_allocation_that_is_not_there,
    Reason.FLEET_EXISTS: a_fleet_made_again_with_other_fields,
    Reason.INSTANCE_EXISTS: an_instance_registered_again_with_another_shape,
    Reason.INSTANCE_IN_USE: an_instance_shrunk_below_what_is_held,
    Reason.FLEET_IN_USE: a_fleet_deleted_while_it_is_held,
    Reason.ETAG_MISMATCH: an_etag_that_is_not_the_current_one,
    Reason.NOT_HOLDER: a_release_by_another_holder,
    Reason.BLOCK_NOT_GRANTED: a_block_that_was_never_granted,
    Reason.LIMIT_EXCEEDED: more_blocks_than_a_request_may_have,
}
"""Reasons that a client meets by what it sends."""
