"""Decides what operators do to fleets."""

from dataclasses import fields as dataclass_fields
from dataclasses import replace
from typing import Any

from blockyard_server.domain import limits
from blockyard_server.domain.answers import Deleted, FleetRecord, etag_of
from blockyard_server.domain.errors import EtagMismatch, FleetExists, FleetInUse, InvalidRequest, LimitExceeded
from blockyard_server.domain.events import FleetCreated, FleetDeleted, FleetUpdated
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.records import Records
from blockyard_server.domain.requests import CreateFleet, DeleteFleet, FleetFields, UpdateFleet


def decide_create_fleet(
    state: FleetState, records: Records, request: CreateFleet, now_us: int
) -> tuple[FleetRecord, FleetCreated | None]:
    """Makes a fleet; a no-op if it is there with the same fields. Raises FleetExists, LimitExceeded, InvalidRequest."""
    _check_ttls(request.fields)
    if state.record is not None:
        differing = differing_names(state.record.fields, request.fields)
        if differing:
            message = f"fleet {state.fleet} exists with other fields ({differing}); update it instead"
            raise FleetExists(message, fleet=f"fleets/{state.fleet}", fields=differing)
        return state.record, None
    if records.fleet_count >= limits.MAX_FLEETS:
        message = f"there are {limits.MAX_FLEETS} fleets, the most that a server keeps; delete one first"
        raise LimitExceeded(message, limit="fleets", maximum=limits.MAX_FLEETS)
    event = FleetCreated(state.revision + 1, now_us, request.fields)
    return FleetRecord(state.fleet, request.fields, event.revision, event.revision, now_us, now_us), event


def decide_update_fleet(
    state: FleetState, _records: Records, request: UpdateFleet, now_us: int
) -> tuple[FleetRecord, FleetUpdated | None]:
    """Changes a fleet's own fields. Raises FleetNotFound, EtagMismatch, InvalidRequest."""
    record = state.existing()
    check_etag(f"fleets/{state.fleet}", record.config_revision, request.etag)
    changes: dict[str, Any] = dict(request.changes)
    fields = replace(record.fields, **changes)
    if fields == record.fields:
        return record, None
    _check_ttls(fields)
    event = FleetUpdated(state.revision + 1, now_us, fields)
    after = replace(
        record, fields=fields, revision=event.revision, config_revision=event.revision, update_time_us=now_us
    )
    return after, event


def decide_delete_fleet(
    state: FleetState, _records: Records, request: DeleteFleet, now_us: int
) -> tuple[Deleted, FleetDeleted]:
    """Deletes a fleet that holds nothing. Raises FleetNotFound, EtagMismatch, FleetInUse, LimitExceeded."""
    record = state.existing()
    check_etag(f"fleets/{state.fleet}", record.config_revision, request.etag)
    held, instances = state.held_blocks(), len(state.index.by_name)
    if held or (instances and not request.force):
        remedy = "release them first" if held else "delete them first, or set force"
        raise FleetInUse(
            f"fleet {state.fleet} has {instances} instance(s) and {held} held block(s); {remedy}",
            fleet=f"fleets/{state.fleet}",
            held_blocks=held,
            instances=instances,
        )
    if instances > limits.MAX_INSTANCES_DELETED_WITH_FLEET:
        most = limits.MAX_INSTANCES_DELETED_WITH_FLEET
        message = f"fleet {state.fleet} has {instances} instances, and {most} at most are deleted with their fleet"
        raise LimitExceeded(
            f"{message}; delete instances one by one first", limit="instances_deleted_with_fleet", maximum=most
        )
    return Deleted(), FleetDeleted(state.revision + 1, now_us)


def check_etag(resource: str, config_revision: int, etag: str | None) -> None:
    """Refuses a change that was made out of an older reading. Raises EtagMismatch."""
    current = etag_of(config_revision)
    if etag is not None and etag != current:
        message = f"{resource} was changed by somebody else; read it again and repeat the change"
        raise EtagMismatch(message, resource=resource, etag=current)


def differing_names(one: object, other: object) -> str:
    """The names of the fields in which two values of one dataclass differ, comma-separated, as the API spells them."""
    return ", ".join(
        field.name.removesuffix("_us")  # the unit is in our name; the API has a Duration
        for field in dataclass_fields(one)  # type: ignore[arg-type]  # any dataclass instance will do
        if getattr(one, field.name) != getattr(other, field.name)
    )


def _check_ttls(fields: FleetFields) -> None:
    if (
        fields.default_ttl_us is not None
        and fields.max_ttl_us is not None
        and fields.default_ttl_us > fields.max_ttl_us
    ):
        raise InvalidRequest(("fleet.default_ttl", "must not be longer than max_ttl"))
