"""What the writer says to SQLite, as text: each statement runs many times a second, and is prepared once.

Lookups of many keys join with `json_each`, so that one text serves any number of them; CROSS JOIN keeps SQLite
from turning the join around.
"""

# The columns' names are constants of this package, and nothing else is put into a text; values are always parameters.
# ruff: noqa: S608

from functools import lru_cache
from typing import Final

from blockyard_server.store import changes
from blockyard_server.store.codec import ALLOCATION_COLUMNS, EVENT_COLUMNS, FLEET_COLUMNS, INSTANCE_COLUMNS


def _columns(names: tuple[str, ...], alias: str = "") -> str:
    return ", ".join(f"{alias}{name}" for name in names)


@lru_cache(maxsize=256)
def of_rows(insert: str, rows: int) -> str:
    """The same INSERT for so many rows at once."""
    head, _, row = insert.rpartition(" VALUES ")
    return f"{head} VALUES {', '.join([row] * rows)}"


HEAD: Final = f"""
SELECT next_order, deleted, clock_offset_us, {_columns(FLEET_COLUMNS)} FROM fleets WHERE fleet = ?"""
FLEET_COUNT: Final = "SELECT count(*) FROM fleets WHERE deleted = 0"
FLEET_NAMES: Final = "SELECT fleet FROM fleets WHERE deleted = 0 ORDER BY fleet"
FLEET_SIZES: Final = """
SELECT fleet, (SELECT count(*) FROM instances i WHERE i.fleet = f.fleet)
  + (SELECT count(*) FROM allocations a WHERE a.fleet = f.fleet AND a.live = 1) / 5
FROM fleets f WHERE deleted = 0 ORDER BY fleet"""

LOAD_INSTANCES: Final = f"""
SELECT (SELECT group_concat(block) FROM held_blocks h WHERE h.fleet = i.fleet AND h.instance = i.instance),
  {_columns(INSTANCE_COLUMNS)}
FROM instances i WHERE fleet = ? ORDER BY instance_order"""

EVENTS_AFTER: Final = (
    f"SELECT {_columns(EVENT_COLUMNS)} FROM journal WHERE fleet = ? AND revision > ? ORDER BY revision LIMIT ?"
)

LATEST_TIME: Final = "SELECT time_us FROM journal WHERE fleet = ? ORDER BY revision DESC LIMIT 1"

TOKENS: Final = """
SELECT t.caller, t.token, t.allocation, t.fingerprint, t.revision
FROM json_each(?) k CROSS JOIN tokens t
  ON t.fleet = ? AND t.caller = json_extract(k.value, '$[0]') AND t.token = json_extract(k.value, '$[1]')"""

ALLOCATIONS: Final = f"""
SELECT {_columns(ALLOCATION_COLUMNS, "a.")}
FROM json_each(?) k CROSS JOIN allocations a ON a.fleet = ? AND a.allocation = k.value"""

DUE_LEASES: Final = f"""
SELECT {_columns(ALLOCATION_COLUMNS)} FROM allocations
WHERE fleet = ? AND live = 1 AND expire_time_us <= ? ORDER BY expire_time_us, allocation LIMIT ?"""

NEXT_EXPIRE_TIME: Final = """
SELECT min(expire_time_us) FROM allocations WHERE fleet = ? AND live = 1 AND expire_time_us > ?"""

INSERT_FLEET: Final = changes.INSERT_FLEET.for_one()
RECREATE_FLEET: Final = changes.RECREATE_FLEET.for_one()
UPDATE_FLEET: Final = changes.UPDATE_FLEET.for_one()
DELETE_FLEET: Final = changes.DELETE_FLEET.for_one()
SET_FORMAT: Final = "UPDATE fleets SET format = ? WHERE fleet = ? AND format < ?"
SET_HALTED: Final = "UPDATE fleets SET halted = ? WHERE fleet = ?"
COMPACTED_REVISION: Final = "SELECT compacted_revision FROM fleets WHERE fleet = ?"
COMPACT_FLEET: Final = "UPDATE fleets SET compacted_revision = ? WHERE fleet = ? AND compacted_revision = ?"
COMPACT_JOURNAL: Final = "DELETE FROM journal WHERE fleet = ? AND revision > ? AND revision <= ?"
FIRST_REVISION: Final = "SELECT first_revision FROM origin"
ORIGIN: Final = "SELECT database_id, epoch, first_revision, restoring FROM origin"
SET_ORIGIN: Final = "UPDATE origin SET epoch = ?, first_revision = ?, restoring = ?"
ALL_REVISIONS: Final = "SELECT fleet, revision FROM fleets"
AGE: Final = "SELECT age_us, marks FROM fleet_ages WHERE fleet = ?"
SET_AGE: Final = """
INSERT INTO fleet_ages (fleet, age_us, marks) VALUES (?, ?, ?)
ON CONFLICT (fleet) DO UPDATE SET age_us = excluded.age_us, marks = excluded.marks"""
SET_CLOCK_OFFSET: Final = "UPDATE fleets SET clock_offset_us = ? WHERE fleet = ?"
ADVANCE_FLEET: Final = """
UPDATE fleets SET revision = ?, next_order = max(next_order, ?) WHERE fleet = ? AND revision = ?"""

INSERT_INSTANCE: Final = changes.INSERT_INSTANCE.for_one()
UPDATE_INSTANCE: Final = changes.UPDATE_INSTANCE.for_one()
DELETE_INSTANCE: Final = changes.DELETE_INSTANCE.for_one()
DELETE_ALL_INSTANCES: Final = "DELETE FROM instances WHERE fleet = ?"

INSERT_ALLOCATION: Final = changes.INSERT_ALLOCATION.for_one()
KEEP_ALLOCATION: Final = changes.KEEP_ALLOCATION.for_one()
END_ALLOCATION: Final = changes.END_ALLOCATION.for_one()
EXTEND_LEASES: Final = """
UPDATE allocations SET expire_time_us = max(expire_time_us, min(? + ttl_us, ?))
WHERE fleet = ? AND live = 1 AND expire_time_us < ?"""

INSERT_HELD: Final = "INSERT INTO held_blocks (fleet, instance, block, allocation) VALUES (?, ?, ?, ?)"
# The parameters of the next two are those of a `rows.Run`: fleet, instance, allocation, the first and the last block.
HOLD_RUN: Final = """
INSERT INTO held_blocks (fleet, instance, block, allocation)
WITH RECURSIVE run (fleet, instance, allocation, block, last) AS (
  VALUES (?, ?, ?, ?, ?) UNION ALL SELECT fleet, instance, allocation, block + 1, last FROM run WHERE block < last
) SELECT fleet, instance, block, allocation FROM run"""
FREE_RUN: Final = """
DELETE FROM held_blocks WHERE fleet = ? AND instance = ? AND allocation = ? AND block BETWEEN ? AND ?"""

# Its exclusive holder has all its busy blocks; a trigger ends it with the last of them.
HOLD_EXCLUSIVELY: Final = """
UPDATE instances SET exclusive_to = ?
WHERE fleet = ? AND instance = ? AND busy_blocks = ? AND exclusive_to IS NULL"""

INSERT_TOKEN: Final = changes.INSERT_TOKEN.for_one()
INSERT_EVENT: Final = changes.INSERT_EVENT.for_one()

ENDED_UPTO: Final = """
SELECT fleet, caller, token, allocation FROM allocations
WHERE fleet = ? AND live = 0 AND revision <= ? ORDER BY revision LIMIT ?"""
CANCELLED_UPTO: Final = """
SELECT fleet, caller, token FROM tokens
WHERE fleet = ? AND allocation IS NULL AND revision <= ? ORDER BY revision LIMIT ?"""
FORGET_TOKEN: Final = changes.FORGET_TOKEN.for_one()
FORGET_CANCELLED: Final = changes.FORGET_CANCELLED.for_one()
FORGET_ALLOCATION: Final = changes.FORGET_ALLOCATION.for_one()

EVIDENCE_HEAD: Final = "SELECT revision, deleted, compacted_revision FROM fleets WHERE fleet = ?"
EVIDENCE_INSTANCES: Final = "SELECT instance, total_blocks, busy_blocks FROM instances WHERE fleet = ?"
EVIDENCE_EXCLUSIVE: Final = """
SELECT instance, exclusive_to FROM instances WHERE fleet = ? AND exclusive_to IS NOT NULL"""
EVIDENCE_HELD: Final = "SELECT instance, block, allocation FROM held_blocks WHERE fleet = ?"
EVIDENCE_LIVE: Final = f"SELECT {_columns(ALLOCATION_COLUMNS)} FROM allocations WHERE fleet = ? AND live = 1"
EVIDENCE_TOKENS: Final = """
SELECT a.allocation, t.allocation FROM allocations a LEFT JOIN tokens t
  ON t.fleet = a.fleet AND t.caller = a.caller AND t.token = a.token
WHERE a.fleet = ? AND a.live = 1"""
EVIDENCE_EVENTS: Final = f"SELECT {_columns(EVENT_COLUMNS)} FROM journal WHERE fleet = ? ORDER BY revision"
