"""What has to be true of a data file that nobody writes: SQLite's structure, and the simple ones of our invariants.

Verify compares more, and needs a server. A file of an earlier release has fewer columns: it is compared in what it has.
"""

import sqlite3
from typing import Final

MAX_FOUND: Final = 100
"""So many differences are named at most."""

_ALL_WELL: Final = "ok"
_COUNTERS: Final = """
SELECT 'instance ' || i.instance || ' of fleet ' || i.fleet || ' counts ' || i.busy_blocks || ' busy blocks, and '
  || count(h.block) || ' are held'
FROM instances AS i LEFT JOIN held_blocks AS h ON h.fleet = i.fleet AND h.instance = i.instance
GROUP BY i.fleet, i.instance, i.busy_blocks HAVING i.busy_blocks <> count(h.block)
"""
_PLACES: Final = """
SELECT 'allocation ' || h.allocation || ' of fleet ' || h.fleet || ' holds block ' || h.block || ' of instance '
  || h.instance || ', which has ' || i.total_blocks
FROM held_blocks AS h JOIN instances AS i ON i.fleet = h.fleet AND i.instance = h.instance
WHERE h.block >= i.total_blocks
"""
_JOURNAL: Final = """
SELECT 'fleet ' || f.fleet || ' is at revision ' || f.revision || ', and its journal has ' || count(j.revision)
  || ' events above revision ' || {compacted} || ', up to ' || coalesce(max(j.revision), 0)
FROM fleets AS f LEFT JOIN journal AS j ON j.fleet = f.fleet AND j.revision > {compacted}
GROUP BY f.fleet
HAVING count(j.revision) <> f.revision - {compacted} OR coalesce(max(j.revision), {compacted}) <> f.revision
"""


def differences(db: sqlite3.Connection) -> list[str]:
    """What is wrong, in words, at most `MAX_FOUND`; empty if all is well. Raises sqlite3.Error."""
    found = [row[0] for row in db.execute(f"PRAGMA integrity_check({MAX_FOUND})")]
    if found != [_ALL_WELL]:
        return [" ".join(line.split()) for line in found]
    broken = [
        f"a row of {table} refers to one of {parent} that is not there"
        for table, _row, parent, _key in db.execute("PRAGMA foreign_key_check").fetchmany(MAX_FOUND)
    ]
    compacted = "f.compacted_revision" if _has_compaction(db) else "0"
    for query in (_COUNTERS, _PLACES, _JOURNAL.format(compacted=compacted)):
        broken += [row[0] for row in db.execute(query).fetchmany(MAX_FOUND)]
    return broken[:MAX_FOUND]


def _has_compaction(db: sqlite3.Connection) -> bool:
    columns = db.execute("SELECT name FROM pragma_table_info('fleets')")
    return ("compacted_revision",) in columns.fetchall()
