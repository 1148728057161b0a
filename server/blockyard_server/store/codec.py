"""Rows to values and back: the JSON inside of columns, and the columns' order.

JSON is canonical (no spaces, keys in the order of the value): the reader finds an instance in it by text.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from blockyard_server.domain.allocation import Allocation, AllocationState
from blockyard_server.domain.answers import FleetRecord, InstanceRecord
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.events import Event, JournalRow, decode_event, decode_placements
from blockyard_server.domain.requests import FleetFields, InstanceFields, InstanceState, PlacementStrategy
from blockyard_server.domain.retention import FleetAge, Mark
from blockyard_server.engine.store_protocol import InvariantBroken

Row = Sequence[Any]
"""One row as a driver gives it, in the order of the columns named below."""

_UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError)
"""What decoding raises over text that is not what was written."""

_encode: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode

FLEET_COLUMNS: Final = (
    "fleet",
    "revision",
    "labels",
    "default_placement_strategy",
    "default_ttl_us",
    "max_ttl_us",
    "config_revision",
    "create_time_us",
    "update_time_us",
    "halted",
)
INSTANCE_COLUMNS: Final = (
    "fleet",
    "instance",
    "instance_order",
    "total_blocks",
    "busy_blocks",
    "labels",
    "resources",
    "state",
    "config_revision",
    "create_time_us",
    "update_time_us",
    "exclusive_to",
)
ALLOCATION_COLUMNS: Final = (
    "allocation",
    "live",
    "state",
    "holder",
    "caller",
    "token",
    "granted",
    "remaining",
    "ttl_us",
    "grant_time_us",
    "expire_time_us",
    "end_time_us",
    "annotations",
    "revision",
    "exclusive",
)
EVENT_COLUMNS: Final = ("revision", "time_us", "kind", "allocation", "instance", "holder", "body")


def encode_map(
    pairs: tuple[tuple[str, str | int], ...] | tuple[tuple[str, str], ...] | tuple[tuple[str, int], ...],
) -> str:
    """Labels, resources or annotations as a JSON object."""
    return _encode(dict(pairs)) if pairs else "{}"


def decode_map(text: str) -> tuple[tuple[str, Any], ...]:
    """Labels, resources or annotations out of their JSON, sorted by key."""
    return tuple(sorted(json.loads(text).items())) if text != "{}" else ()


def encode_placements(placements: Placements) -> str:
    """Placements as JSON: `[["node-1",[0,1]]]`."""
    return _encode(placements)


def placement_pattern(instance: str) -> str:
    """The text that the JSON of placements has if they name this instance, and only then.

    Inside of a JSON string its quotes would be escaped.
    """
    return f'["{instance}",['


def encode_keys(keys: Sequence[tuple[str, str]] | Sequence[int]) -> str:
    """What to look up, for a join with `json_each`."""
    return _encode(keys)


def encode_age(age: FleetAge) -> Row:
    """A fleet's age as (age_us, marks)."""
    return age.age_us, _encode(age.marks)


def decode_age(row: Row) -> FleetAge:
    """A fleet's age out of (age_us, marks). Raises InvariantBroken for a row that cannot be read."""
    age_us, marks = row
    try:
        return FleetAge(age_us, tuple(Mark(*mark) for mark in json.loads(marks)))
    except _UNREADABLE as unreadable:
        raise InvariantBroken("the row of a fleet's age cannot be read") from unreadable


def decode_fleet(row: Row) -> FleetRecord:
    """A fleet out of FLEET_COLUMNS. Raises InvariantBroken for a row that cannot be read."""
    fleet, revision, labels, strategy, default_ttl_us, max_ttl_us, config_revision, created_us, updated_us, halted = row
    try:
        fields = FleetFields(decode_map(labels), PlacementStrategy(strategy), default_ttl_us, max_ttl_us)
    except _UNREADABLE as unreadable:
        raise InvariantBroken(f"the row of fleet {fleet} cannot be read") from unreadable
    return FleetRecord(fleet, fields, revision, config_revision, created_us, updated_us, bool(halted))


def decode_instance(row: Row) -> InstanceRecord:
    """An instance out of INSTANCE_COLUMNS. Raises InvariantBroken for a row that cannot be read."""
    (fleet, instance, order, total, busy, labels, resources, state, config_revision, created_us, updated_us,
     exclusive_to) = row  # fmt: skip
    try:
        fields = InstanceFields(total, decode_map(labels), decode_map(resources), InstanceState(state))
    except _UNREADABLE as unreadable:
        raise InvariantBroken(f"the row of instance {instance} cannot be read") from unreadable
    return InstanceRecord(fleet, instance, order, fields, busy, config_revision, created_us, updated_us, exclusive_to)


def encode_allocation(allocation: Allocation) -> Row:
    """An allocation as ALLOCATION_COLUMNS."""
    a = allocation
    return (
        a.allocation,
        int(a.state is AllocationState.HELD),
        a.state.value,
        a.holder,
        a.caller,
        a.token,
        encode_placements(a.granted),
        encode_remaining(a),
        a.ttl_us,
        a.grant_time_us,
        a.expire_time_us,
        a.end_time_us,
        encode_map(a.annotations),
        a.revision,
        _encode(a.exclusive) if a.exclusive else None,
    )


def encode_remaining(allocation: Allocation) -> str | None:
    """The column `remaining`: None as long as nothing was released partially, which is nearly always."""
    if allocation.placements == allocation.granted:
        return None
    return encode_placements(allocation.placements)


def decode_allocation(row: Row) -> Allocation:
    """An allocation out of ALLOCATION_COLUMNS. Raises InvariantBroken for a row that cannot be read."""
    try:
        return _decode_allocation(row)
    except _UNREADABLE as unreadable:
        raise InvariantBroken(f"the row of allocation {row[0]} cannot be read") from unreadable


def _decode_allocation(row: Row) -> Allocation:
    (allocation, _, state, holder, caller, token, granted_text, remaining_text, ttl_us, granted_us, expire_us, ended_us,
     annotations, revision, exclusive) = row  # fmt: skip
    granted = decode_placements(json.loads(granted_text))
    return Allocation(
        allocation=allocation,
        holder=holder,
        caller=caller,
        token=token,
        granted=granted,
        placements=granted if remaining_text is None else decode_placements(json.loads(remaining_text)),
        ttl_us=ttl_us,
        grant_time_us=granted_us,
        expire_time_us=expire_us,
        annotations=decode_map(annotations),
        state=AllocationState(state),
        end_time_us=ended_us,
        revision=revision,
        exclusive=() if exclusive is None else tuple(json.loads(exclusive)),
    )


def decode_journal(row: Row) -> Event:
    """An event out of EVENT_COLUMNS. Raises InvariantBroken for a row that cannot be read."""
    try:
        return decode_event(JournalRow(*row))
    except _UNREADABLE as unreadable:
        raise InvariantBroken(f"event {row[0]} cannot be read") from unreadable
