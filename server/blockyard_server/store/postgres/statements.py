"""What the writer says to PostgreSQL, as text: those of SQLite where only the placeholder differs, and its own.

Each statement names the fleet, so that a database which spreads the rows by it needs one shard for a transaction.
Changes of many rows take an array for each column, so that one text serves any number of them.
"""

# The columns' names are constants of this package, and nothing else is put into a text; values are always parameters.
# ruff: noqa: S608

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from blockyard_server.store.codec import ALLOCATION_COLUMNS, EVENT_COLUMNS, INSTANCE_COLUMNS
from blockyard_server.store.sqlite import statements


def numbered(text: str) -> str:
    """A text with PostgreSQL's placeholders, `$1` and so on, in the place of `?`."""
    first, *rest = text.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))


ONE: Final = "one"
"""In the place of a type: the same value in every row, sent once."""

_TYPES: Final = MappingProxyType(
    {
        "fleet": ONE,
        "instance": "text",
        "instance_order": "bigint",
        "total_blocks": "int",
        "busy_blocks": "int",
        "labels": "text",
        "resources": "text",
        "state": "text",
        "config_revision": "bigint",
        "create_time_us": "bigint",
        "update_time_us": "bigint",
        "allocation": "bigint",
        "live": "int",
        "holder": "text",
        "caller": "text",
        "token": "text",
        "granted": "text",
        "remaining": "text",
        "ttl_us": "bigint",
        "grant_time_us": "bigint",
        "expire_time_us": "bigint",
        "end_time_us": "bigint",
        "annotations": "text",
        "revision": "bigint",
        "first": "int",
        "last": "int",
        "fingerprint": "bytea",
        "time_us": "bigint",
        "kind": "text",
        "exclusive": "text",
        "exclusive_to": "bigint",
        "body": "text",
    }
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


def _insert(table: str, columns: tuple[str, ...]) -> str:
    values = ", ".join(f"k.{column}" for column in columns)
    return _bulk(f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {{rows}}", columns)


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
INSERT_FLEET: Final = numbered(f"{statements.INSERT_FLEET} ON CONFLICT (fleet) DO NOTHING")
RECREATE_FLEET: Final = numbered(statements.RECREATE_FLEET)
UPDATE_FLEET: Final = numbered(statements.UPDATE_FLEET)
DELETE_FLEET: Final = numbered(statements.DELETE_FLEET)
SET_HALTED: Final = numbered(statements.SET_HALTED)
AGE: Final = numbered(statements.AGE)
SET_AGE: Final = numbered(statements.SET_AGE)
SET_CLOCK_OFFSET: Final = numbered(statements.SET_CLOCK_OFFSET)
ADVANCE_FLEET: Final = """
UPDATE fleets SET revision = $1, next_order = greatest(next_order, $2) WHERE fleet = $3 AND revision = $4"""

INSERT_INSTANCE: Final = _insert("instances", INSTANCE_COLUMNS)
UPDATE_INSTANCE: Final = _bulk(
    """
UPDATE instances i SET total_blocks = k.total_blocks, labels = k.labels, resources = k.resources, state = k.state,
  config_revision = k.config_revision, update_time_us = k.update_time_us
FROM {rows} WHERE i.fleet = k.fleet AND i.instance = k.instance""",
    ("total_blocks", "labels", "resources", "state", "config_revision", "update_time_us", "fleet", "instance"),
)
DELETE_INSTANCE: Final = _bulk(
    "DELETE FROM instances i USING {rows} WHERE i.fleet = k.fleet AND i.instance = k.instance", ("fleet", "instance")
)
DELETE_ALL_INSTANCES: Final = numbered(statements.DELETE_ALL_INSTANCES)

INSERT_ALLOCATION: Final = _insert("allocations", ("fleet", *ALLOCATION_COLUMNS))
KEEP_ALLOCATION: Final = _bulk(
    """
UPDATE allocations a SET ttl_us = k.ttl_us, expire_time_us = k.expire_time_us, remaining = k.remaining,
  revision = k.revision
FROM {rows} WHERE a.fleet = k.fleet AND a.allocation = k.allocation AND +a.live = 1""",
    ("ttl_us", "expire_time_us", "remaining", "revision", "fleet", "allocation"),
)
END_ALLOCATION: Final = _bulk(
    """
UPDATE allocations a SET live = 0, state = k.state, end_time_us = k.end_time_us, ttl_us = k.ttl_us,
  expire_time_us = k.expire_time_us, remaining = k.remaining, revision = k.revision
FROM {rows} WHERE a.fleet = k.fleet AND a.allocation = k.allocation AND +a.live = 1""",
    ("state", "end_time_us", "ttl_us", "expire_time_us", "remaining", "revision", "fleet", "allocation"),
)
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
INSERT_TOKEN: Final = _insert(
    "tokens", ("fleet", "caller", "token", "allocation", "fingerprint", "revision", "time_us")
)
INSERT_EVENT: Final = _insert("journal", ("fleet", *EVENT_COLUMNS))

ENDED_UPTO: Final = numbered(statements.ENDED_UPTO)
CANCELLED_UPTO: Final = numbered(statements.CANCELLED_UPTO)
FORGET_TOKEN: Final = _bulk(
    """
DELETE FROM tokens t USING {rows}
WHERE t.fleet = k.fleet AND t.caller = k.caller AND t.token = k.token AND t.allocation = k.allocation""",
    ("fleet", "caller", "token", "allocation"),
)
FORGET_CANCELLED: Final = _bulk(
    """
DELETE FROM tokens t USING {rows}
WHERE t.fleet = k.fleet AND t.caller = k.caller AND t.token = k.token AND coalesce(t.allocation, 0) = 0""",
    ("fleet", "caller", "token"),
)
FORGET_ALLOCATION: Final = _bulk(
    """
DELETE FROM allocations a USING {rows} WHERE a.fleet = k.fleet AND a.allocation = k.allocation AND +a.live = 0""",
    ("fleet", "allocation"),
)
COMPACTED_REVISION: Final = numbered(statements.COMPACTED_REVISION)
COMPACT_FLEET: Final = numbered(statements.COMPACT_FLEET)
COMPACT_JOURNAL: Final = numbered(statements.COMPACT_JOURNAL)

KINDS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(_kinds)
"""The types of the arrays that a statement of many rows takes, by its text."""
