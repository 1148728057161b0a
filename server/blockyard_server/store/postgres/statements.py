"""What the writer says to PostgreSQL, as text: those of SQLite where only the placeholder differs, and its own.

Each statement names the fleet, so that a database which spreads the rows by it needs one shard for a transaction.
Changes of many rows take an array for each column, so that one text serves any number of them.
"""

# The columns' names are constants of this package, and nothing else is put into a text; values are always parameters.
# ruff: noqa: S608

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sqlalchemy import BigInteger, Integer, LargeBinary, Text

from blockyard_server.store import changes
from blockyard_server.store.changes import Change
from blockyard_server.store.codec import ALLOCATION_COLUMNS, INSTANCE_COLUMNS
from blockyard_server.store.schema import metadata
from blockyard_server.store.sqlite import statements


def numbered(text: str) -> str:
    """A text with PostgreSQL's placeholders, `$1` and so on, in the place of `?`."""
    first, *rest = text.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))


ONE: Final = "one"
"""In the place of a type: the same value in every row, sent once."""

_SQL_TYPES: Final = MappingProxyType({BigInteger: "bigint", Integer: "int", Text: "text", LargeBinary: "bytea"})
_TYPES: Final = MappingProxyType(
    {column.name: _SQL_TYPES[type(column.type)] for table in metadata.sorted_tables for column in table.columns}
    | {"fleet": ONE, "first": "int", "last": "int"}  # of one fleet, and the ends of a `rows.Run`
)
_kinds: Final[dict[str, tuple[str, ...]]] = {}


def _bulk(text: str, columns: tuple[str, ...]) -> str:
    """A text that takes the rows of `columns` as arrays, all of one fleet: `{rows}` in it is a table `k` of them.

    OFFSET 0 hides from the planner that the fleet is one value. Knowing it, it would rather walk all rows of the fleet,
    whose number it underestimates, than look each key up (docs/adr/0006). For the same reason a column that is compared
    besides the key has a `+`: no index is chosen for its sake.
    """
    kinds = tuple(_TYPES[column] for column in columns)
    arrays = [f"${number}::{kind}[]" for number, kind in enumerate(kinds, 1) if kind != ONE]
    names = [column for column in columns if column != "fleet"]
    fleet = f"${columns.index('fleet') + 1}::text AS fleet"
    rows = f"(SELECT {fleet}, * FROM unnest({', '.join(arrays)}) AS u ({', '.join(names)}) OFFSET 0) AS k"
    made = text.format(rows=rows)
    _kinds[made] = kinds
    return made


def _many(change: Change) -> str:
    return _bulk(change.for_many(), change.columns)


_NOW_US: Final = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
NOW: Final = f"SELECT {_NOW_US}"
# The clock is read outside of what locks the row: so it is read after it.
HEAD: Final = f"SELECT {_NOW_US}, locked.* FROM ({numbered(statements.HEAD)} FOR UPDATE) locked"
FLEET_COUNT: Final = statements.FLEET_COUNT
FLEET_SIZES: Final = statements.FLEET_SIZES

LOAD_INSTANCES: Final = f"""
SELECT (SELECT string_agg(block::text, ',') FROM held_blocks h WHERE h.fleet = i.fleet AND h.instance = i.instance),
  {", ".join(INSTANCE_COLUMNS)}
FROM instances i WHERE fleet = $1 ORDER BY instance_order"""
EVENTS_AFTER: Final = numbered(statements.EVENTS_AFTER)
LATEST_TIME: Final = numbered(statements.LATEST_TIME)
TOKENS: Final = _bulk(
    """
SELECT t.caller, t.token, t.allocation, t.fingerprint, t.revision
FROM {rows} JOIN tokens t ON t.fleet = k.fleet AND t.caller = k.caller AND t.token = k.token""",
    ("caller", "token", "fleet"),
)
ALLOCATIONS: Final = _bulk(
    f"""
SELECT {", ".join(f"a.{name}" for name in ALLOCATION_COLUMNS)}
FROM {{rows}} JOIN allocations a ON a.fleet = k.fleet AND a.allocation = k.allocation""",
    ("allocation", "fleet"),
)
DUE_LEASES: Final = numbered(statements.DUE_LEASES)
NEXT_EXPIRE_TIME: Final = numbered(statements.NEXT_EXPIRE_TIME)

# Another server may be creating it: this waits until that is over, and then inserts nothing if it is there.
INSERT_FLEET: Final = numbered(f"{changes.INSERT_FLEET.for_one()} ON CONFLICT (fleet) DO NOTHING")
RECREATE_FLEET: Final = numbered(changes.RECREATE_FLEET.for_one())
UPDATE_FLEET: Final = numbered(changes.UPDATE_FLEET.for_one())
DELETE_FLEET: Final = numbered(changes.DELETE_FLEET.for_one())
SET_FORMAT: Final = numbered(statements.SET_FORMAT)
SET_HALTED: Final = numbered(statements.SET_HALTED)
AGE: Final = numbered(statements.AGE)
SET_AGE: Final = numbered(statements.SET_AGE)
SET_CLOCK_OFFSET: Final = numbered(statements.SET_CLOCK_OFFSET)
ADVANCE_FLEET: Final = """
UPDATE fleets SET revision = $1, next_order = greatest(next_order, $2) WHERE fleet = $3 AND revision = $4"""

INSERT_INSTANCE: Final = _many(changes.INSERT_INSTANCE)
UPDATE_INSTANCE: Final = _many(changes.UPDATE_INSTANCE)
DELETE_INSTANCE: Final = _many(changes.DELETE_INSTANCE)
DELETE_ALL_INSTANCES: Final = numbered(statements.DELETE_ALL_INSTANCES)

INSERT_ALLOCATION: Final = _many(changes.INSERT_ALLOCATION)
KEEP_ALLOCATION: Final = _many(changes.KEEP_ALLOCATION)
END_ALLOCATION: Final = _many(changes.END_ALLOCATION)
EXTEND_LEASES: Final = """
UPDATE allocations SET expire_time_us = greatest(expire_time_us, least($1::bigint + ttl_us, $2::bigint))
WHERE fleet = $3 AND live = 1 AND expire_time_us < $4"""

HOLD_RUN: Final = _bulk(
    """
INSERT INTO held_blocks (fleet, instance, block, allocation)
SELECT k.fleet, k.instance, generate_series(k.first, k.last), k.allocation FROM {rows}""",
    ("fleet", "instance", "allocation", "first", "last"),
)
FREE_RUN: Final = _bulk(
    """
DELETE FROM held_blocks h USING {rows}
WHERE h.fleet = k.fleet AND h.instance = k.instance AND h.block BETWEEN k.first AND k.last
  AND +h.allocation = k.allocation""",
    ("fleet", "instance", "allocation", "first", "last"),
)
HOLD_EXCLUSIVELY: Final = _bulk(
    """
UPDATE instances i SET exclusive_to = k.allocation
FROM {rows} WHERE i.fleet = k.fleet AND i.instance = k.instance AND +i.busy_blocks = k.busy_blocks
  AND i.exclusive_to IS NULL""",
    ("allocation", "fleet", "instance", "busy_blocks"),
)
INSERT_TOKEN: Final = _many(changes.INSERT_TOKEN)
INSERT_EVENT: Final = _many(changes.INSERT_EVENT)

ENDED_UPTO: Final = numbered(statements.ENDED_UPTO)
CANCELLED_UPTO: Final = numbered(statements.CANCELLED_UPTO)
FORGET_TOKEN: Final = _many(changes.FORGET_TOKEN)
FORGET_CANCELLED: Final = _many(changes.FORGET_CANCELLED)
FORGET_ALLOCATION: Final = _many(changes.FORGET_ALLOCATION)
COMPACTED_REVISION: Final = numbered(statements.COMPACTED_REVISION)
FIRST_REVISION: Final = statements.FIRST_REVISION
ORIGIN: Final = statements.ORIGIN
SET_ORIGIN: Final = numbered(statements.SET_ORIGIN)
ALL_REVISIONS: Final = statements.ALL_REVISIONS
SYSTEM: Final = "SELECT system_identifier, timeline FROM origin"
SET_SYSTEM: Final = "UPDATE origin SET system_identifier = $1, timeline = $2"
SYSTEM_IDENTIFIER: Final = "SELECT system_identifier::text FROM pg_control_system()"
TIMELINE: Final = "SELECT timeline_id::bigint FROM pg_control_checkpoint()"
COMPACT_FLEET: Final = numbered(statements.COMPACT_FLEET)
COMPACT_JOURNAL: Final = numbered(statements.COMPACT_JOURNAL)

KINDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(_kinds)
"""The types of the arrays that a statement of many rows takes, by its text."""
