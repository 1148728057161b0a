"""Rows to values and back: the columns' order, and which fields are JSON inside of a column.

A column of its own is for what SQL itself checks, joins or sorts by. What is only kept of a fleet or an instance is in
the column `spec`, and what is only kept of an event in `body`, both by `record_codec`: so a new field of one of them is
no matter of this package. `labels` and `resources` are columns for the sake of servers of release 0.1.0
(docs/adr/0022).

JSON is canonical (no spaces, keys in the order of the value): the reader finds an instance in it by text.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

import msgspec

from blockyard_server.domain.allocation import Allocation, AllocationState
from blockyard_server.domain.answers import FleetRecord, InstanceRecord
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.events import Event, Granted
from blockyard_server.domain.requests import FleetFields, InstanceFields, InstanceState, PlacementStrategy
from blockyard_server.domain.retention import FleetAge, Mark
from blockyard_server.engine.store_protocol import InvariantBroken
from blockyard_server.store.record_codec import RecordCodec, encode_json

Row = Sequence[Any]
"""One row as a driver gives it, in the order of the columns named below."""

_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, KeyError, TypeError, AttributeError)
"""What decoding raises over text that is not what was written."""

FLEET_FIELD_COLUMNS: Final = ("labels", "default_placement_strategy", "default_ttl_us", "max_ttl_us", "spec")
"""What operators set of a fleet: what `encode_fleet_fields` gives."""
INSTANCE_FIELD_COLUMNS: Final = ("total_blocks", "labels", "resources", "state", "spec")
"""What operators set of an instance: what `encode_instance_fields` gives."""
FLEET_COLUMNS: Final = (
    "fleet",
    "revision",
    *FLEET_FIELD_COLUMNS,
    "config_revision",
    "create_time_us",
    "update_time_us",
    "halted",
    "format",
)
INSTANCE_COLUMNS: Final = (
    "fleet",
    "instance",
    "instance_order",
    *INSTANCE_FIELD_COLUMNS,
    "busy_blocks",
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

_FLEET_SPEC: Final = RecordCodec(FleetFields, FLEET_FIELD_COLUMNS[:-1])
_INSTANCE_SPEC: Final = RecordCodec(InstanceFields, INSTANCE_FIELD_COLUMNS[:-1])
_EVENTS: Final = {
    event.kind: RecordCodec(event, [name for name in EVENT_COLUMNS if name in event.__dataclass_fields__])
    for event in get_args(Event)
}
_decode_strings: Final = msgspec.json.Decoder(dict[str, str]).decode
_decode_quantities: Final = msgspec.json.Decoder(dict[str, int]).decode
_decode_placements: Final = msgspec.json.Decoder(Placements).decode
_decode_names: Final = msgspec.json.Decoder(tuple[str, ...]).decode
_decode_marks: Final = msgspec.json.Decoder(tuple[Mark, ...]).decode


def encode_map(pairs: Mapping[str, str] | Mapping[str, int]) -> str:
    """Labels, resources or annotations as a JSON object, sorted by key."""
    return encode_json(dict(sorted(pairs.items()))).decode() if pairs else "{}"


def encode_placements(placements: Placements) -> str:
    """Placements as JSON: `[["node-1",[0,1]]]`."""
    return encode_json(placements).decode()


def placement_pattern(instance: str) -> str:
    """The text that the JSON of placements has if they name this instance, and only then.

    Inside of a JSON string its quotes would be escaped.
    """
    return f'["{instance}",['


def encode_keys(keys: Sequence[tuple[str, str]] | Sequence[int]) -> str:
    """What to look up, for a join with `json_each`."""
    return encode_json(keys).decode()


def encode_age(age: FleetAge) -> Row:
    """A fleet's age as (age_us, marks)."""
    return age.age_us, encode_json(age.marks).decode()


def decode_age(row: Row) -> FleetAge:
    """A fleet's age out of (age_us, marks). Raises InvariantBroken for a row that cannot be read."""
    age_us, marks = row
    try:
        return FleetAge(age_us, _decode_marks(marks))
    except _UNREADABLE as unreadable:
        raise InvariantBroken("the row of a fleet's age cannot be read") from unreadable


def encode_fleet_fields(fields: FleetFields) -> Row:
    """A fleet's own fields as FLEET_FIELD_COLUMNS."""
    return (
        encode_map(fields.labels),
        fields.default_placement_strategy.value,
        fields.default_ttl_us,
        fields.max_ttl_us,
        _FLEET_SPEC.encode(fields),
    )


def decode_fleet(row: Row) -> FleetRecord:
    """A fleet out of FLEET_COLUMNS. Raises InvariantBroken for a row that cannot be read."""
    (fleet, revision, labels, strategy, default_ttl_us, max_ttl_us, spec, config_revision, created_us, updated_us,
     halted, format_) = row  # fmt: skip
    try:
        columns = _decode_strings(labels), PlacementStrategy(strategy), default_ttl_us, max_ttl_us
        fields = _FLEET_SPEC.decode(spec, *columns)
    except _UNREADABLE as unreadable:
        raise InvariantBroken(f"the row of fleet {fleet} cannot be read") from unreadable
    return FleetRecord(fleet, fields, revision, config_revision, created_us, updated_us, bool(halted), format_)


def encode_instance_fields(fields: InstanceFields) -> Row:
    """An instance's own fields as INSTANCE_FIELD_COLUMNS."""
    return (
        fields.total_blocks,
        encode_map(fields.labels),
        encode_map(fields.resources),
        fields.state.value,
        _INSTANCE_SPEC.encode(fields),
    )


def decode_instance(row: Row) -> InstanceRecord:
    """An instance out of INSTANCE_COLUMNS. Raises InvariantBroken for a row that cannot be read."""
    (fleet, instance, order, total, labels, resources, state, spec, busy, config_revision, created_us, updated_us,
     exclusive_to) = row  # fmt: skip
    try:
        columns = total, _decode_strings(labels), _decode_quantities(resources), InstanceState(state)
        fields = _INSTANCE_SPEC.decode(spec, *columns)
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
        encode_json(a.exclusive).decode() if a.exclusive else None,
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
    granted = _decode_placements(granted_text)
    return Allocation(
        allocation=allocation,
        holder=holder,
        caller=caller,
        token=token,
        granted=granted,
        placements=granted if remaining_text is None else _decode_placements(remaining_text),
        ttl_us=ttl_us,
        grant_time_us=granted_us,
        expire_time_us=expire_us,
        annotations=_decode_strings(annotations),
        state=AllocationState(state),
        end_time_us=ended_us,
        revision=revision,
        exclusive=() if exclusive is None else _decode_names(exclusive),
    )


def encode_journal(event: Event) -> Row:
    """An event as EVENT_COLUMNS. A grant's allocation is its revision."""
    return (
        event.revision,
        event.time_us,
        event.kind,
        event.revision if isinstance(event, Granted) else getattr(event, "allocation", None),
        getattr(event, "instance", None),
        getattr(event, "holder", None),
        _EVENTS[event.kind].encode(event),
    )


def decode_journal(row: Row) -> Event:
    """An event out of EVENT_COLUMNS. Raises InvariantBroken for a row that cannot be read, or is of an unknown kind."""
    named = dict(zip(EVENT_COLUMNS, row, strict=True))
    codec = _EVENTS.get(named["kind"])
    if codec is None:
        raise InvariantBroken(f"event {row[0]} is of kind {named['kind']!r}, which this version does not know")
    try:
        event: Event = codec.decode(named["body"], *(_expected(named[name]) for name in codec.columns))
    except _UNREADABLE as unreadable:
        raise InvariantBroken(f"event {row[0]} cannot be read") from unreadable
    return event


def _expected(column: Any) -> Any:
    """A column's value, which an event of its kind has. Raises ValueError."""
    if column is None:
        raise ValueError("a column that this kind of event has is NULL")
    return column
