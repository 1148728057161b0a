"""The calls of the service FleetAdmin: fleets and their instances."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Final, Literal, TypeAlias, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from blockyard._allocator import PAGE_SIZE
from blockyard._arguments import mapped, not_empty
from blockyard._call import AGAIN, LOOK, Call, Listing, Method, Page
from blockyard._codec import (
    decode_fleet,
    decode_fleets_page,
    decode_instance,
    decode_instances_page,
    encode_duration,
    encode_instance_state,
    encode_strategy,
)
from blockyard._names import fleet_name, instance_name, short
from blockyard.enums import InstanceState, PlacementStrategy
from blockyard.reasons import Reason
from blockyard.types import Fleet, Instance, Seconds
from blockyard.v1 import fleet_admin_pb2 as pb
from blockyard.v1 import resources_pb2

T = TypeVar("T")


class Unset(Enum):
    """The type of UNSET."""

    UNSET = auto()


UNSET: Final = Unset.UNSET
"""An update's field that is left as it is; None would mean "none"."""
Maybe: TypeAlias = T | Literal[Unset.UNSET]
"""A value, or UNSET."""

_SERVICE = "/blockyard.v1.FleetAdmin"
CREATE_FLEET = Method(f"{_SERVICE}/CreateFleet", pb.CreateFleetRequest, resources_pb2.Fleet)
GET_FLEET = Method(f"{_SERVICE}/GetFleet", pb.GetFleetRequest, resources_pb2.Fleet)
LIST_FLEETS = Method(f"{_SERVICE}/ListFleets", pb.ListFleetsRequest, pb.ListFleetsResponse)
UPDATE_FLEET = Method(f"{_SERVICE}/UpdateFleet", pb.UpdateFleetRequest, resources_pb2.Fleet)
DELETE_FLEET = Method(f"{_SERVICE}/DeleteFleet", pb.DeleteFleetRequest, Empty)
CREATE_INSTANCE = Method(f"{_SERVICE}/CreateInstance", pb.CreateInstanceRequest, resources_pb2.Instance)
GET_INSTANCE = Method(f"{_SERVICE}/GetInstance", pb.GetInstanceRequest, resources_pb2.Instance)
LIST_INSTANCES = Method(f"{_SERVICE}/ListInstances", pb.ListInstancesRequest, pb.ListInstancesResponse)
UPDATE_INSTANCE = Method(f"{_SERVICE}/UpdateInstance", pb.UpdateInstanceRequest, resources_pb2.Instance)
DELETE_INSTANCE = Method(f"{_SERVICE}/DeleteInstance", pb.DeleteInstanceRequest, Empty)
CORDON_INSTANCE = Method(f"{_SERVICE}/CordonInstance", pb.CordonInstanceRequest, resources_pb2.Instance)
UNCORDON_INSTANCE = Method(f"{_SERVICE}/UncordonInstance", pb.UncordonInstanceRequest, resources_pb2.Instance)


def create_fleet(
    fleet: str,
    *,
    labels: Mapping[str, str] | None = None,
    default_placement_strategy: PlacementStrategy | None = None,
    default_ttl: Seconds | None = None,
    max_ttl: Seconds | None = None,
    timeout_s: float | None = None,
) -> Call[Fleet]:
    """Makes a fleet. Making it again with the same fields answers the fleet as it is.

    Args:
        fleet: Its id: 1..63 lower-case letters, digits, `.`, `_`, `-`, beginning and ending with a letter or digit.
        labels: Up to 64.
        default_placement_strategy: For an acquire that names none. None: BEST_FIT.
        default_ttl: The lease of an acquire that asks for none. None: held until released.
        max_ttl: The longest lease that is granted. None: 366 days.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        FleetExists: It is there with other fields.
        CallFailed: Any other refusal.
        OutcomeUnknown: No answer came; it may be called again.
    """
    request = pb.CreateFleetRequest(
        fleet_id=short(fleet_name(fleet)),
        fleet=resources_pb2.Fleet(
            labels=mapped(labels, "labels"),
            default_placement_strategy=encode_strategy(default_placement_strategy),
            default_ttl=encode_duration(default_ttl),
            max_ttl=encode_duration(max_ttl),
        ),
    )
    return CREATE_FLEET.call(request, decode_fleet, timeout_s, if_unknown=AGAIN)


def get_fleet(fleet: str, *, timeout_s: float | None = None) -> Call[Fleet]:
    """One fleet.

    Args:
        fleet: Which fleet.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        FleetNotFound: There is no such fleet.
        CallFailed: Any other refusal.
    """
    return GET_FLEET.call(pb.GetFleetRequest(name=fleet_name(fleet)), decode_fleet, timeout_s)


def list_fleets(*, page_size: int = PAGE_SIZE, timeout_s: float | None = None) -> Listing[Fleet]:
    """All fleets by name, read page by page as you iterate.

    Args:
        page_size: How many to ask for at a time, up to 1000.
        timeout_s: How long each page may take, retries included. None: as the client says.

    Raises:
        CallFailed: Any refusal.
    """

    def page(page_token: str) -> Call[Page[Fleet]]:
        request = pb.ListFleetsRequest(page_size=page_size, page_token=page_token)
        return LIST_FLEETS.call(request, decode_fleets_page, timeout_s)

    return Listing(page)


def update_fleet(
    fleet: str,
    *,
    labels: Maybe[Mapping[str, str]] = UNSET,
    default_placement_strategy: Maybe[PlacementStrategy] = UNSET,
    default_ttl: Maybe[Seconds | None] = UNSET,
    max_ttl: Maybe[Seconds | None] = UNSET,
    etag: str | None = None,
    timeout_s: float | None = None,
) -> Call[Fleet]:
    """Changes the fields that are given, each wholly. Leases that were granted before keep their time.

    Args:
        fleet: Which fleet.
        labels: All its labels from now on.
        default_placement_strategy: For an acquire that names none.
        default_ttl: The lease of an acquire that asks for none. None: held until released.
        max_ttl: The longest lease that is granted. None: 366 days.
        etag: If given, must be the current one, so that nobody's change is overwritten.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        FleetNotFound: There is no such fleet.
        EtagMismatch: Somebody changed it first.
        OutcomeUnknown: No answer came; read the fleet to see.
        CallFailed: Any other refusal.
        ValueError: No field is given, or an empty `etag`.
    """
    change = resources_pb2.Fleet(
        name=fleet_name(fleet),
        labels=mapped(_given(labels), "labels"),
        default_placement_strategy=encode_strategy(_given(default_placement_strategy)),
        default_ttl=encode_duration(_given(default_ttl)),
        max_ttl=encode_duration(_given(max_ttl)),
        etag=not_empty(etag, "etag"),
    )
    mask = _mask(
        labels=labels,
        default_placement_strategy=default_placement_strategy,
        default_ttl=default_ttl,
        max_ttl=max_ttl,
    )
    request = pb.UpdateFleetRequest(fleet=change, update_mask=mask)
    return UPDATE_FLEET.guarded_call(request, decode_fleet, timeout_s, etag=etag)


def delete_fleet(
    fleet: str, *, etag: str | None = None, force: bool = False, timeout_s: float | None = None
) -> Call[None]:
    """Deletes a fleet. Its journal stays, and a fleet of the same name goes on from its revision.

    Args:
        fleet: Which fleet.
        etag: If given, must be the current one.
        force: Also delete its instances, 4096 at most. Never deletes a fleet with held blocks.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        FleetNotFound: There is no such fleet.
        FleetInUse: Blocks are held, or it has instances and `force` is not set.
        LimitExceeded: It has more instances than are deleted at once: call `delete_instance` for them first.
        EtagMismatch: Somebody changed it first.
        OutcomeUnknown: No answer came; read the fleet to see.
        CallFailed: Any other refusal.
    """
    request = pb.DeleteFleetRequest(name=fleet_name(fleet), etag=not_empty(etag, "etag"), force=force)
    gone = frozenset({Reason.FLEET_NOT_FOUND})
    return DELETE_FLEET.call(request, _nothing, timeout_s, if_unknown=LOOK, reasons_after_lost_attempt=gone)


def create_instance(
    fleet: str,
    instance: str,
    *,
    total_blocks: int,
    labels: Mapping[str, str] | None = None,
    resources: Mapping[str, int] | None = None,
    state: InstanceState | None = None,
    timeout_s: float | None = None,
) -> Call[Instance]:
    """Registers an instance. Registering it again with the same shape answers the instance as it is.

    Args:
        fleet: Which fleet.
        instance: Its id, of the same form as a fleet's.
        total_blocks: How many blocks it is divided into, 1..4096.
        labels: Up to 64, for selectors.
        resources: What the whole instance has, such as `{"gpu": 8}`, for demands with requirements.
        state: Whether it takes new grants. None: ACTIVE.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        FleetNotFound: There is no such fleet.
        InstanceExists: It is there with other blocks, labels or resources.
        OutcomeUnknown: No answer came; it may be called again.
        CallFailed: Any other refusal.
    """
    request = pb.CreateInstanceRequest(
        parent=fleet_name(fleet),
        instance_id=short(instance_name(fleet, instance)),
        instance=resources_pb2.Instance(
            total_blocks=total_blocks,
            labels=mapped(labels, "labels"),
            resources=mapped(resources, "resources"),
            state=encode_instance_state(state),
        ),
    )
    return CREATE_INSTANCE.call(request, decode_instance, timeout_s, if_unknown=AGAIN)


def get_instance(fleet: str, instance: str, *, timeout_s: float | None = None) -> Call[Instance]:
    """One instance.

    Args:
        fleet: Which fleet.
        instance: Which instance.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        NotFound: There is no such fleet, or no such instance.
        CallFailed: Any other refusal.
    """
    request = pb.GetInstanceRequest(name=instance_name(fleet, instance))
    return GET_INSTANCE.call(request, decode_instance, timeout_s)


def list_instances(fleet: str, *, page_size: int = PAGE_SIZE, timeout_s: float | None = None) -> Listing[Instance]:
    """A fleet's instances in the order of registration, read page by page as you iterate.

    Args:
        fleet: Which fleet.
        page_size: How many to ask for at a time, up to 1000.
        timeout_s: How long each page may take, retries included. None: as the client says.

    Raises:
        FleetNotFound: There is no such fleet.
        CallFailed: Any other refusal.
    """
    parent = fleet_name(fleet)

    def page(page_token: str) -> Call[Page[Instance]]:
        request = pb.ListInstancesRequest(parent=parent, page_size=page_size, page_token=page_token)
        return LIST_INSTANCES.call(request, decode_instances_page, timeout_s)

    return Listing(page)


def update_instance(
    fleet: str,
    instance: str,
    *,
    total_blocks: Maybe[int] = UNSET,
    labels: Maybe[Mapping[str, str]] = UNSET,
    resources: Maybe[Mapping[str, int]] = UNSET,
    state: Maybe[InstanceState] = UNSET,
    etag: str | None = None,
    timeout_s: float | None = None,
) -> Call[Instance]:
    """Changes the fields that are given, each wholly. What is held stays held.

    Args:
        fleet: Which fleet.
        instance: Which instance.
        total_blocks: Growing is always possible; shrinking only if no block that would go is held.
        labels: All its labels from now on.
        resources: All its resources from now on.
        state: Whether it takes new grants.
        etag: If given, must be the current one, so that nobody's change is overwritten.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        NotFound: There is no such fleet, or no such instance.
        InstanceInUse: A block that would go is held.
        EtagMismatch: Somebody changed it first.
        OutcomeUnknown: No answer came; read the instance to see.
        CallFailed: Any other refusal.
        ValueError: No field is given, or an empty `etag`.
    """
    change = resources_pb2.Instance(
        name=instance_name(fleet, instance),
        total_blocks=_given(total_blocks) or 0,
        labels=mapped(_given(labels), "labels"),
        resources=mapped(_given(resources), "resources"),
        state=encode_instance_state(_given(state)),
        etag=not_empty(etag, "etag"),
    )
    mask = _mask(total_blocks=total_blocks, labels=labels, resources=resources, state=state)
    request = pb.UpdateInstanceRequest(instance=change, update_mask=mask)
    return UPDATE_INSTANCE.guarded_call(request, decode_instance, timeout_s, etag=etag)


def delete_instance(
    fleet: str, instance: str, *, etag: str | None = None, timeout_s: float | None = None
) -> Call[None]:
    """Removes an instance.

    Args:
        fleet: Which fleet.
        instance: Which instance.
        etag: If given, must be the current one.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        NotFound: There is no such fleet, or no such instance.
        InstanceInUse: Blocks are held.
        EtagMismatch: Somebody changed it first.
        OutcomeUnknown: No answer came; read the instance to see.
        CallFailed: Any other refusal.
    """
    request = pb.DeleteInstanceRequest(name=instance_name(fleet, instance), etag=not_empty(etag, "etag"))
    gone = frozenset({Reason.INSTANCE_NOT_FOUND})
    return DELETE_INSTANCE.call(request, _nothing, timeout_s, if_unknown=LOOK, reasons_after_lost_attempt=gone)


def cordon_instance(
    fleet: str, instance: str, *, etag: str | None = None, timeout_s: float | None = None
) -> Call[Instance]:
    """Stops new grants on an instance: state CORDONED. What is held stays held.

    Args:
        fleet: Which fleet.
        instance: Which instance.
        etag: If given, must be the current one.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        NotFound: There is no such fleet, or no such instance.
        EtagMismatch: Somebody changed it first.
        OutcomeUnknown: No answer came; read the instance to see.
        CallFailed: Any other refusal.
    """
    request = pb.CordonInstanceRequest(name=instance_name(fleet, instance), etag=not_empty(etag, "etag"))
    return CORDON_INSTANCE.guarded_call(request, decode_instance, timeout_s, etag=etag)


def uncordon_instance(
    fleet: str, instance: str, *, etag: str | None = None, timeout_s: float | None = None
) -> Call[Instance]:
    """Allows new grants on an instance again: state ACTIVE, from CORDONED or OFFLINE.

    Args:
        fleet: Which fleet.
        instance: Which instance.
        etag: If given, must be the current one.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        NotFound: There is no such fleet, or no such instance.
        EtagMismatch: Somebody changed it first.
        OutcomeUnknown: No answer came; read the instance to see.
        CallFailed: Any other refusal.
    """
    request = pb.UncordonInstanceRequest(name=instance_name(fleet, instance), etag=not_empty(etag, "etag"))
    return UNCORDON_INSTANCE.guarded_call(request, decode_instance, timeout_s, etag=etag)


def _nothing(_: Empty) -> None:
    return None


def _given(value: Maybe[T]) -> T | None:
    return None if value is UNSET else value


def _mask(**fields: object) -> FieldMask:
    """The mask of the fields that are given."""
    paths = [name for name, value in fields.items() if value is not UNSET]
    if not paths:
        raise ValueError(f"nothing to change: give at least one of {', '.join(fields)}")
    return FieldMask(paths=paths)
