"""The Ledger's answers as messages."""

from collections.abc import Iterator
from typing import Final

from blockyard.v1 import allocator_pb2, resources_pb2
from blockyard.v1 import ledger_pb2 as pb
from blockyard_server.domain.answers import Check, Discrepancy, EventPage, RepairReport, VerifyReport
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.corrections import Correction, CorrectionKind
from blockyard_server.domain.events import (
    KINDS,
    Event,
    Expired,
    FleetCreated,
    FleetDeleted,
    FleetUpdated,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceEvent,
    InstanceUpdated,
    LeasesExtended,
    Released,
    Renewed,
    Repaired,
    Restored,
    TokenWasCancelled,
)
from blockyard_server.domain.journal import WatchPage
from blockyard_server.rpc.encode_fleet_admin import fill_fleet_fields, fill_instance_fields
from blockyard_server.rpc.names import encode_allocation_name, encode_instance_name
from blockyard_server.rpc.page_tokens import encode_page_token
from blockyard_server.rpc.pages import fill_page
from blockyard_server.rpc.times import fill_timestamp

SYSTEM: Final = "system"
"""The actor of what the server does by itself."""
_OF_SYSTEM: Final = (Expired, LeasesExtended, Restored)
_KINDS: Final = {kind: pb.Event.Kind.Value(kind) for kind in KINDS}
_CORRECTIONS: Final = {kind: pb.Correction.Kind.Value(kind.value) for kind in CorrectionKind}
_CHECKS: Final = {check: pb.Discrepancy.Check.Value(check.value) for check in Check}


def fill_event(message: pb.Event, fleet: str, event: Event) -> None:
    """Sets an event: the fields that its kind has."""
    message.revision = event.revision
    fill_timestamp(message.time, event.time_us)
    message.kind = _KINDS[event.kind]
    message.actor, message.via = (SYSTEM, "") if isinstance(event, _OF_SYSTEM) else (event.actor, event.via)
    match event:
        case Granted() | Released() | Renewed() | Expired():
            _fill_allocation_event(message, fleet, event)
        case InstanceCreated() | InstanceUpdated() | InstanceDeleted():
            _fill_instance_event(message, fleet, event)
        case FleetCreated() | FleetUpdated():
            fill_fleet_fields(message.fleet, fleet, event.fields)
        case FleetDeleted():
            pass  # its kind and revision say it all
        case TokenWasCancelled():
            message.idempotency_token = event.token
        case LeasesExtended():
            fill_timestamp(message.expire_time, event.expire_time_us)
        case Restored():
            message.backup_revision, message.epoch = event.backup_revision, event.epoch
        case Repaired():
            message.corrections.extend(_encode_correction(fleet, each) for each in event.corrections)


def _fill_instance_event(message: pb.Event, fleet: str, event: InstanceEvent) -> None:
    message.instance = encode_instance_name(fleet, event.instance)
    match event:
        case InstanceCreated() | InstanceUpdated():
            fill_instance_fields(message.instance_after, fleet, event.instance, event.fields)
            if isinstance(event, InstanceCreated):
                message.instance_after.order = event.order
        case InstanceDeleted():
            pass


def _fill_allocation_event(message: pb.Event, fleet: str, event: Granted | Released | Renewed | Expired) -> None:
    allocation = event.revision if isinstance(event, Granted) else event.allocation
    message.allocation = encode_allocation_name(fleet, allocation)
    message.holder = event.holder
    match event:
        case Granted():
            message.idempotency_token = event.token
            _add_placements(message, fleet, event.placements)
            if event.expire_time_us is not None:
                fill_timestamp(message.expire_time, event.expire_time_us)
        case Released():
            _add_placements(message, fleet, event.freed)
            message.ended = not event.left
        case Expired():
            _add_placements(message, fleet, event.freed)
            message.ended = True
        case Renewed():
            fill_timestamp(message.expire_time, event.expire_time_us)


def _encode_correction(fleet: str, correction: Correction) -> pb.Correction:
    return pb.Correction(
        kind=_CORRECTIONS[correction.kind],
        instance="" if correction.instance is None else encode_instance_name(fleet, correction.instance),
        allocation="" if correction.allocation is None else encode_allocation_name(fleet, correction.allocation),
        block=correction.block or 0,
        before=correction.before or 0,
        after=correction.after or 0,
    )


def _add_placements(message: pb.Event, fleet: str, placements: Placements) -> None:
    message.placements.extend(
        [
            resources_pb2.Placement(instance=encode_instance_name(fleet, instance), blocks=blocks)
            for instance, blocks in placements
        ]
    )


def encode_event_page(fleet: str, page: EventPage, scope: tuple[object, ...]) -> pb.ListEventsResponse:
    """A page of events."""
    message = pb.ListEventsResponse(revision=page.revision)
    last = fill_page(message.events, page.events, lambda into, event: fill_event(into, fleet, event))
    message.next_page_token = encode_page_token(scope, page.next_after if last is None else last.revision)
    return message


def encode_watch_page(fleet: str, page: WatchPage) -> Iterator[allocator_pb2.WatchResponse]:
    """Events of a watch, or a mark without any: in more than one answer if one would weigh too much."""
    events = page.events
    while True:
        message = allocator_pb2.WatchResponse()
        fill_timestamp(message.server_time, page.time_us)
        last = fill_page(message.events, events, lambda into, event: fill_event(into, fleet, event))
        message.revision = page.revision if last is None else last.revision
        yield message
        if last is None:
            return
        events = events[len(message.events) :]


def encode_repair_report(fleet: str, report: RepairReport) -> pb.RepairResponse:
    """What Repair did, or would do."""
    return pb.RepairResponse(
        applied=report.applied,
        revision=report.revision,
        corrections=[_encode_correction(fleet, each) for each in report.corrections],
        unrepaired=[_encode_discrepancy(fleet, each) for each in report.unrepaired],
        truncated=report.truncated,
        halted=report.halted,
    )


def _encode_discrepancy(fleet: str, found: Discrepancy) -> pb.Discrepancy:
    return pb.Discrepancy(
        check=_CHECKS[found.check],
        instance="" if found.instance is None else encode_instance_name(fleet, found.instance),
        allocation="" if found.allocation is None else encode_allocation_name(fleet, found.allocation),
        expected=found.expected,
        actual=found.actual,
    )


def encode_verify_report(fleet: str, report: VerifyReport) -> pb.VerifyResponse:
    """What Verify found."""
    return pb.VerifyResponse(
        clean=report.clean,
        revision=report.revision,
        discrepancies=[_encode_discrepancy(fleet, found) for found in report.discrepancies],
        truncated=report.truncated,
        instances_checked=report.instances_checked,
        held_blocks_checked=report.held_blocks_checked,
        allocations_checked=report.allocations_checked,
        events_replayed=report.events_replayed,
    )
