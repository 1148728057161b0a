"""Between the public values and protobuf, in both directions. Nothing else of the SDK reads a message's fields."""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from blockyard._arguments import several, some
from blockyard._call import Page
from blockyard._names import fleet_of, instance_name, short
from blockyard.credentials import Identity, RoleGrant
from blockyard.enums import (
    AllocationState,
    Check,
    CorrectionKind,
    DescribeView,
    EventKind,
    InstanceState,
    Operator,
    Permission,
    PlacementStrategy,
    ReleaseOutcome,
)
from blockyard.errors import UnexpectedAnswer
from blockyard.types import (
    Allocation,
    BlockCounts,
    Correction,
    Demand,
    Discrepancy,
    Event,
    Fleet,
    FleetPage,
    Grant,
    Hold,
    Instance,
    InstanceBlocks,
    Placement,
    ReleaseResult,
    Renewal,
    RepairReport,
    Seconds,
    Selector,
    VerifyReport,
    WatchUpdate,
)
from blockyard.v1 import access_pb2, allocator_pb2, fleet_admin_pb2, ledger_pb2, resources_pb2

E = TypeVar("E", bound=StrEnum)
V = TypeVar("V", bound=int)


# Values to messages.


def encode_duration(duration: Seconds | None) -> Duration | None:
    """A duration; a number counts seconds."""
    if duration is None:
        return None
    span = duration if isinstance(duration, timedelta) else timedelta(seconds=duration)
    message = Duration()
    message.FromTimedelta(span)
    return message


def encode_strategy(strategy: PlacementStrategy | None) -> resources_pb2.PlacementStrategy.ValueType:
    """None says: the default."""
    word = "PLACEMENT_STRATEGY_UNSPECIFIED" if strategy is None else PlacementStrategy(strategy)
    return resources_pb2.PlacementStrategy.Value(word)


def encode_allocation_state(state: AllocationState | None) -> resources_pb2.Allocation.State.ValueType | None:
    """None says: any."""
    return None if state is None else resources_pb2.Allocation.State.Value(AllocationState(state))


def encode_instance_state(state: InstanceState | None) -> resources_pb2.Instance.State.ValueType:
    """None says: the default."""
    return resources_pb2.Instance.State.Value("STATE_UNSPECIFIED" if state is None else InstanceState(state))


def encode_view(view: DescribeView) -> allocator_pb2.DescribeView.ValueType:
    """A view."""
    return allocator_pb2.DescribeView.Value(DescribeView(view))


def encode_permission(permission: Permission) -> access_pb2.Permission.ValueType:
    """A permission."""
    return access_pb2.Permission.Value(Permission(permission))


def encode_event_kinds(kinds: Iterable[EventKind] | None) -> list[ledger_pb2.Event.Kind.ValueType]:
    """Kinds of events, for a filter. None says: all.

    Raises:
        TypeError: It is one kind.
        ValueError: It is empty, or names UNKNOWN, which only an answer may be.
    """
    chosen = [EventKind(kind) for kind in some(kinds, "kinds")]
    if EventKind.UNKNOWN in chosen:
        raise ValueError("UNKNOWN is not a kind of event to ask for")
    return [ledger_pb2.Event.Kind.Value(kind) for kind in chosen]


def encode_demand(fleet: str, demand: Demand) -> allocator_pb2.Demand:
    """A demand on this fleet."""
    if not isinstance(demand, Demand):
        raise TypeError(f"demands takes values of Demand, and not {demand!r}")
    return allocator_pb2.Demand(
        instances=demand.instances,
        blocks=demand.blocks or 0,
        requirements=demand.requirements,
        exclusive=demand.exclusive,
        selector=None if demand.selector is None else _encode_selector(demand.selector),
        instance_names=[instance_name(fleet, name) for name in some(demand.instance_names, "instance_names")],
    )


def _encode_selector(selector: Selector | Mapping[str, str]) -> allocator_pb2.LabelSelector:
    terms = selector if isinstance(selector, Selector) else Selector(match_labels=selector)
    return allocator_pb2.LabelSelector(
        match_labels=terms.match_labels,
        match_expressions=[
            allocator_pb2.LabelExpression(
                key=term.key,
                operator=allocator_pb2.LabelExpression.Operator.Value(Operator(term.operator)),
                values=term.values,
            )
            for term in terms.match_expressions
        ],
    )


def encode_placement(fleet: str, placement: Placement) -> resources_pb2.Placement:
    """Blocks of an instance of this fleet."""
    return resources_pb2.Placement(
        instance=instance_name(fleet, placement.instance), blocks=several(placement.blocks, "blocks")
    )


# Messages to values.


def decode_allocation(message: resources_pb2.Allocation) -> Allocation:
    """An allocation."""
    return Allocation(
        name=message.name,
        fleet=fleet_of(message.name),
        holder=message.holder,
        state=_word(AllocationState, resources_pb2.Allocation.State.Name, message.state),
        placements=_decode_placements(message.placements),
        fencing_token=message.fencing_token,
        revision=message.revision,
        ttl=message.ttl.ToTimedelta() if message.HasField("ttl") else None,
        grant_time=_decode_time(message.grant_time),
        expire_time=_decode_time(message.expire_time) if message.HasField("expire_time") else None,
        end_time=_decode_time(message.end_time) if message.HasField("end_time") else None,
        annotations=dict(message.annotations),
        idempotency_token=message.idempotency_token,
        offline_instances=tuple(short(name) for name in message.offline_instances),
        exclusive_instances=tuple(short(name) for name in message.exclusive_instances),
    )


def decode_grant(message: allocator_pb2.AcquireResponse) -> Grant:
    """The answer to an acquire."""
    return Grant(
        allocation=decode_allocation(message.allocation),
        revision=message.revision,
        server_time=_decode_time(message.server_time),
        replayed=message.replayed,
    )


def decode_release(message: allocator_pb2.ReleaseResponse) -> ReleaseResult:
    """The answer to a release."""
    return ReleaseResult(
        outcome=_word(ReleaseOutcome, allocator_pb2.ReleaseResponse.Outcome.Name, message.outcome),
        allocation=decode_allocation(message.allocation) if message.HasField("allocation") else None,
        revision=message.revision,
        server_time=_decode_time(message.server_time),
    )


def decode_renewal(message: allocator_pb2.RenewResponse) -> Renewal:
    """The answer to a renewal."""
    return Renewal(
        allocation=decode_allocation(message.allocation),
        revision=message.revision,
        server_time=_decode_time(message.server_time),
    )


def decode_fleet_page(message: allocator_pb2.DescribeResponse) -> FleetPage:
    """A page of a snapshot."""
    return FleetPage(
        fleet=fleet_of(message.fleet),
        revision=message.revision,
        totals=BlockCounts(
            instances=message.totals.instances,
            total_blocks=message.totals.total_blocks,
            busy_blocks=message.totals.busy_blocks,
            idle_blocks=message.totals.idle_blocks,
            acquirable_blocks=message.totals.acquirable_blocks,
        ),
        instances=tuple(_decode_instance_blocks(instance) for instance in message.instances),
        server_time=_decode_time(message.server_time),
        next_page_token=message.next_page_token,
    )


def decode_allocations_page(message: allocator_pb2.ListAllocationsResponse) -> Page[Allocation]:
    """A page of allocations."""
    return Page([decode_allocation(allocation) for allocation in message.allocations], message.next_page_token)


def decode_fleet(message: resources_pb2.Fleet) -> Fleet:
    """A fleet."""
    return Fleet(
        name=message.name,
        labels=dict(message.labels),
        default_placement_strategy=_word(
            PlacementStrategy, resources_pb2.PlacementStrategy.Name, message.default_placement_strategy
        ),
        default_ttl=message.default_ttl.ToTimedelta() if message.HasField("default_ttl") else None,
        max_ttl=message.max_ttl.ToTimedelta() if message.HasField("max_ttl") else None,
        etag=message.etag,
        revision=message.revision,
        create_time=_decode_time(message.create_time),
        update_time=_decode_time(message.update_time),
        halted=message.halted,
    )


def decode_fleets_page(message: fleet_admin_pb2.ListFleetsResponse) -> Page[Fleet]:
    """A page of fleets."""
    return Page([decode_fleet(fleet) for fleet in message.fleets], message.next_page_token)


def decode_instance(message: resources_pb2.Instance) -> Instance:
    """An instance."""
    return Instance(
        name=message.name,
        fleet=fleet_of(message.name),
        total_blocks=message.total_blocks,
        labels=dict(message.labels),
        resources=dict(message.resources),
        state=_word(InstanceState, resources_pb2.Instance.State.Name, message.state),
        etag=message.etag,
        busy_blocks=message.busy_blocks,
        idle_blocks=message.idle_blocks,
        order=message.order,
        create_time=_decode_time(message.create_time),
        update_time=_decode_time(message.update_time),
    )


def decode_instances_page(message: fleet_admin_pb2.ListInstancesResponse) -> Page[Instance]:
    """A page of instances."""
    return Page([decode_instance(instance) for instance in message.instances], message.next_page_token)


def decode_events_page(message: ledger_pb2.ListEventsResponse) -> Page[Event]:
    """A page of the journal."""
    return Page([_decode_event(event) for event in message.events], message.next_page_token)


def decode_update(message: allocator_pb2.WatchResponse) -> WatchUpdate:
    """An answer of a watch."""
    return WatchUpdate(
        events=tuple(_decode_event(event) for event in message.events),
        revision=message.revision,
        server_time=_decode_time(message.server_time),
    )


def decode_report(message: ledger_pb2.VerifyResponse) -> VerifyReport:
    """What a check found."""
    return VerifyReport(
        clean=message.clean,
        revision=message.revision,
        discrepancies=_decode_discrepancies(message.discrepancies),
        truncated=message.truncated,
        instances_checked=message.instances_checked,
        held_blocks_checked=message.held_blocks_checked,
        allocations_checked=message.allocations_checked,
        events_replayed=message.events_replayed,
    )


def _decode_event(message: ledger_pb2.Event) -> Event:
    return Event(
        revision=message.revision,
        time=_decode_time(message.time),
        kind=_word(EventKind, ledger_pb2.Event.Kind.Name, message.kind),
        backup_revision=message.backup_revision if message.epoch else None,
        epoch=message.epoch or None,
        allocation=message.allocation or None,
        instance=short(message.instance) or None,
        holder=message.holder or None,
        placements=_decode_placements(message.placements),
        expire_time=_decode_time(message.expire_time) if message.HasField("expire_time") else None,
        idempotency_token=message.idempotency_token or None,
        ended=message.ended,
        fleet=decode_fleet(message.fleet) if message.HasField("fleet") else None,
        instance_after=decode_instance(message.instance_after) if message.HasField("instance_after") else None,
        corrections=_decode_corrections(message.corrections),
        actor=message.actor or None,
        via=message.via or None,
    )


def decode_repair_report(message: ledger_pb2.RepairResponse) -> RepairReport:
    """What a repair did, or would do."""
    return RepairReport(
        applied=message.applied,
        revision=message.revision,
        corrections=_decode_corrections(message.corrections),
        unrepaired=_decode_discrepancies(message.unrepaired),
        truncated=message.truncated,
        halted=message.halted,
    )


def _decode_corrections(messages: Iterable[ledger_pb2.Correction]) -> tuple[Correction, ...]:
    return tuple(
        Correction(
            kind=_word(CorrectionKind, ledger_pb2.Correction.Kind.Name, each.kind),
            instance=short(each.instance) or None,
            allocation=each.allocation or None,
            block=each.block,
            before=each.before,
            after=each.after,
        )
        for each in messages
    )


def _decode_discrepancies(messages: Iterable[ledger_pb2.Discrepancy]) -> tuple[Discrepancy, ...]:
    return tuple(
        Discrepancy(
            check=_word(Check, ledger_pb2.Discrepancy.Check.Name, each.check),
            instance=short(each.instance) or None,
            allocation=each.allocation or None,
            expected=each.expected,
            actual=each.actual,
        )
        for each in messages
    )


def _decode_instance_blocks(message: allocator_pb2.InstanceBlocks) -> InstanceBlocks:
    return InstanceBlocks(
        instance=short(message.instance),
        state=_word(InstanceState, resources_pb2.Instance.State.Name, message.state),
        total_blocks=message.total_blocks,
        busy_blocks=message.busy_blocks,
        idle_blocks=message.idle_blocks,
        holds=tuple(
            Hold(allocation=hold.allocation, holder=hold.holder, blocks=tuple(hold.blocks)) for hold in message.holds
        ),
    )


def _decode_placements(messages: Iterable[resources_pb2.Placement]) -> tuple[Placement, ...]:
    return tuple(Placement(instance=short(each.instance), blocks=tuple(each.blocks)) for each in messages)


def decode_identity(message: access_pb2.WhoAmIResponse) -> Identity:
    """Who the caller is."""
    return Identity(
        principal=message.principal,
        tenant=message.tenant,
        via=message.via,
        grants=tuple(RoleGrant(grant.role, tuple(grant.fleets)) for grant in message.grants),
        expire_time=_decode_time(message.expire_time) if message.HasField("expire_time") else None,
    )


def decode_can_i(message: access_pb2.CanIResponse) -> bool:
    """Whether the caller has the permission."""
    return message.permitted


def _decode_time(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)


def _word(words: type[E], name: Callable[[V], str], value: V) -> E:
    """The word for an enum's number. A newer server may send one that this version has no word for."""
    try:
        return words(name(value))
    except ValueError:
        if "UNKNOWN" in words.__members__:
            return words("UNKNOWN")
        raise UnexpectedAnswer(f"the server answered {words.__name__} {value}, which only a newer SDK knows") from None
