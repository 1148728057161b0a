"""`blockyard serve` whose commits never end, as on a disk that hangs.

`python -m tests.fault.hanging_server serve …`
"""

import sqlite3
import sys
import threading
from typing import Final

from blockyard.cli import main
from blockyard_server.store.sqlite.store import SqliteStore

HANGS: Final = "the commit hangs"
"""What it writes to stderr then."""


def _hang(_store: SqliteStore, _db: sqlite3.Connection) -> None:
    sys.stderr.write(HANGS)
    sys.stderr.flush()
    threading.Event().wait()


if __name__ == "__main__":
    setattr(SqliteStore, "_commit", _hang)  # noqa: B010 - a method is not assigned to; the server knows nothing of it
    sys.exit(main())
