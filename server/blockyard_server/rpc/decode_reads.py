"""The requests that only read: names, filters and pages. Every function raises InvalidRequest, naming all bad fields.

A paged read becomes a `ReadPage`: what to read, after which row, how many rows, and the scope that its
page tokens belong to.
"""

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from blockyard.v1 import allocator_pb2, fleet_admin_pb2, ledger_pb2
from blockyard_server.domain.answers import AllocationFilter, EventFilter
from blockyard_server.domain.events import KINDS
from blockyard_server.domain.journal import Watch
from blockyard_server.domain.limits import DEFAULT_PROGRESS_INTERVAL_US
from blockyard_server.rpc.enums import ALLOCATION_STATES
from blockyard_server.rpc.fields import (
    Violations,
    decode_guard_holder,
    decode_page_size,
    decode_progress_interval_us,
    raise_if_any,
)
from blockyard_server.rpc.names import decode_allocation, decode_fleet, decode_instance, decode_instance_of
from blockyard_server.rpc.page_tokens import decode_id_token, decode_number_token

Where = TypeVar("Where")
_Filtered = ledger_pb2.ListEventsRequest | allocator_pb2.WatchRequest
_OfAllocations = _Filtered | allocator_pb2.ListAllocationsRequest

MAX_KINDS: Final = 32
_KINDS: Final[dict[int, str]] = {ledger_pb2.Event.Kind.Value(kind): kind for kind in KINDS}
_VIEWS: Final = (allocator_pb2.DESCRIBE_VIEW_UNSPECIFIED, allocator_pb2.BASIC, allocator_pb2.FULL)


@dataclass(frozen=True, slots=True)
class ReadPage(Generic[Where]):
    """One page of a fleet's rows: those that match `where`, `limit` at most, that come after the row `after`."""

    fleet: str
    where: Where
    after: int
    limit: int
    scope: tuple[object, ...]
    """What makes this list the one that it is: its page tokens are of no use for another."""


@dataclass(frozen=True, slots=True)
class ReadFleets:
    """One page of the fleets that come after the name `after`."""

    after: str
    limit: int
    scope: tuple[object, ...]


def decode_fleet_only(name: str, path: str) -> str:
    """A request that names a fleet and nothing else."""
    bad: Violations = []
    fleet = decode_fleet(name, path, bad)
    raise_if_any(bad)
    return fleet


def decode_instance_only(name: str) -> tuple[str, str]:
    """A request that names an instance and nothing else."""
    bad: Violations = []
    names = decode_instance(name, "name", bad)
    raise_if_any(bad)
    return names


def decode_allocation_only(name: str) -> tuple[str, int]:
    """A request that names an allocation and nothing else."""
    bad: Violations = []
    names = decode_allocation(name, "name", bad)
    raise_if_any(bad)
    return names


def decode_describe(request: allocator_pb2.DescribeRequest) -> ReadPage[bool]:
    """A Describe; `where` is whether the view is FULL."""
    bad: Violations = []
    fleet = decode_fleet(request.fleet, "fleet", bad)
    if request.view not in _VIEWS:
        bad.append(("view", "must be BASIC or FULL, or unspecified"))
    full = request.view == allocator_pb2.FULL
    limit = decode_page_size(request.page_size, bad)
    scope = ("Describe", fleet, full)
    after = decode_number_token(scope, request.page_token, 0, bad)
    raise_if_any(bad)
    return ReadPage(fleet, full, after, limit, scope)


def decode_list_allocations(request: allocator_pb2.ListAllocationsRequest) -> ReadPage[AllocationFilter]:
    """A list of allocations."""
    bad: Violations = []
    fleet = decode_fleet(request.parent, "parent", bad)
    if request.HasField("state") and request.state not in ALLOCATION_STATES:
        bad.append(("state", "must be HELD, RELEASED or EXPIRED, or be absent"))
    where = AllocationFilter(
        holder=_decode_holder(request, bad),
        state=ALLOCATION_STATES.get(request.state),
        instance=_decode_instance(fleet, request, bad),
    )
    limit = decode_page_size(request.page_size, bad)
    scope = ("ListAllocations", fleet, where.holder, where.state, where.instance)
    after = decode_number_token(scope, request.page_token, 0, bad)
    raise_if_any(bad)
    return ReadPage(fleet, where, after, limit, scope)


def decode_list_fleets(request: fleet_admin_pb2.ListFleetsRequest) -> ReadFleets:
    """A list of fleets."""
    bad: Violations = []
    scope = ("ListFleets",)
    limit = decode_page_size(request.page_size, bad)
    after = decode_id_token(scope, request.page_token, bad)
    raise_if_any(bad)
    return ReadFleets(after, limit, scope)


def decode_list_instances(request: fleet_admin_pb2.ListInstancesRequest) -> ReadPage[None]:
    """A list of instances."""
    bad: Violations = []
    fleet = decode_fleet(request.parent, "parent", bad)
    limit = decode_page_size(request.page_size, bad)
    scope = ("ListInstances", fleet)
    after = decode_number_token(scope, request.page_token, 0, bad)
    raise_if_any(bad)
    return ReadPage(fleet, None, after, limit, scope)


def decode_list_events(request: ledger_pb2.ListEventsRequest) -> ReadPage[EventFilter]:
    """A list of events."""
    bad: Violations = []
    fleet = decode_fleet(request.parent, "parent", bad)
    if request.from_revision < 0:
        bad.append(("from_revision", "must not be negative"))
    where = _decode_event_filter(fleet, request, bad)
    limit = decode_page_size(request.page_size, bad)
    scope = ("ListEvents", fleet, request.from_revision, where.kinds, where.holder, where.instance)
    # -1 for `from_revision` 0: from the first that is kept, whichever that is.
    after = decode_number_token(scope, request.page_token, request.from_revision - 1, bad)
    raise_if_any(bad)
    return ReadPage(fleet, where, after, limit, scope)


def decode_watch(request: allocator_pb2.WatchRequest) -> Watch:
    """A watch."""
    bad: Violations = []
    fleet = decode_fleet(request.fleet, "fleet", bad)
    if request.from_revision < 0:
        bad.append(("from_revision", "must not be negative"))
    where = _decode_event_filter(fleet, request, bad)
    interval_us = DEFAULT_PROGRESS_INTERVAL_US
    if request.HasField("progress_interval"):
        interval_us = decode_progress_interval_us(request.progress_interval, "progress_interval", bad)
    raise_if_any(bad)
    return Watch(fleet, request.from_revision, where, interval_us)


def _decode_event_filter(fleet: str, request: _Filtered, bad: Violations) -> EventFilter:
    return EventFilter(
        kinds=_decode_kinds(request, bad),
        holder=_decode_holder(request, bad),
        instance=_decode_instance(fleet, request, bad),
    )


def _decode_holder(request: _OfAllocations, bad: Violations) -> str | None:
    return decode_guard_holder(request.holder if request.HasField("holder") else None, bad)


def _decode_instance(fleet: str, request: _OfAllocations, bad: Violations) -> str | None:
    return decode_instance_of(fleet, request.instance, "instance", bad) if request.HasField("instance") else None


def _decode_kinds(request: _Filtered, bad: Violations) -> tuple[str, ...]:
    if len(request.kinds) > MAX_KINDS:
        bad.append(("kinds", f"has {len(request.kinds)} entries; at most {MAX_KINDS} are allowed"))
        return ()
    unknown = [i for i, kind in enumerate(request.kinds) if kind not in _KINDS]
    bad.extend((f"kinds[{i}]", "is not a kind of event") for i in unknown)
    if unknown:
        return ()
    return tuple(sorted({_KINDS[kind] for kind in request.kinds}))
