"""Looks for damage of a data file's structure, for a bounded time."""

import logging
import sqlite3
import time
from pathlib import Path
from typing import Final

from blockyard_server.engine.store_protocol import StoreRefused

CHECK_BOUND_S: Final = 10.0
"""How long a start looks for damage; about 20 GB that are in memory, less from a slow disk."""
MAX_CHECK_ROWS: Final = 1000
"""So many lines of what is wrong are looked at."""
_STRUCTURE: Final = "*** in database"
"""What `quick_check` says first of a page that is not as it should be."""
CHECK_STEPS: Final = 100_000
"""How many of its own steps SQLite takes between two looks at that bound."""

_log = logging.getLogger(__name__)


def look_for_damage(db: sqlite3.Connection, path: Path) -> None:
    """Closes the connection. Raises sqlite3.DatabaseError, StoreRefused if the file's structure is damaged.

    A row that breaks a rule of its table is no damage of the structure: it halts its fleet, and Verify names it. The
    connection is its own, so that the writer's cache does not begin with pages that nobody asks for.
    """
    until = time.monotonic() + CHECK_BOUND_S
    db.set_progress_handler(lambda: time.monotonic() > until, CHECK_STEPS)
    try:
        db.execute("PRAGMA ignore_check_constraints = ON")
        found = [row[0] for row in db.execute(f"PRAGMA quick_check({MAX_CHECK_ROWS})")]
    except sqlite3.OperationalError as failure:
        if failure.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        _log.warning("%s is too large to be looked through for damage within %g s", path, CHECK_BOUND_S)
        return
    finally:
        db.close()
    damage = [row for row in found if row.startswith(_STRUCTURE)]
    if damage:
        raise StoreRefused(
            f"{path} is damaged ({' '.join(damage[0].split())}). Keep a copy of it, and restore the last good backup."
        )
