"""Where the database is, and what each session of it begins with.

Every session names the schema of the tables, whatever the role, the database or the URL has as its search path. Then
what PostgreSQL's own functions and operators are called comes first, and temporary tables come last.
"""

import threading
import time
from typing import Any, Final

import psycopg

from blockyard_server.store.postgres.pooler import SessionsNotKept, expect_sessions_kept
from blockyard_server.store.postgres.watchdog import Watchdog

AGAIN_S: Final = 5.0
"""A pooler that does not keep sessions is not looked at again for so long."""
SET_SEARCH_PATH: Final = "SELECT pg_catalog.pg_backend_pid(), pg_catalog.set_config('search_path', {}, false)"
"""The first statement of a session; in the place of the braces the search path."""
NO_ORPHAN: Final = """
SELECT pg_catalog.set_config(name, value, false) FROM (VALUES
  ('client_connection_check_interval', '1000'),
  ('tcp_keepalives_idle', '2'), ('tcp_keepalives_interval', '1'), ('tcp_keepalives_count', '3'),
  ('tcp_user_timeout', '5000')
) AS k (name, value)"""
"""A session of a server that was killed, or is cut off, ends within one second or six, with what it has locked.

The first one holds while a statement runs or waits for a lock, when nobody would look otherwise. Not every system knows
all of them: then it says no, and the database's own limits have to do.
"""


class Target:
    """The database of one store. Used by all threads."""

    def __init__(self, conninfo: str, watchdog: Watchdog) -> None:
        self.conninfo = conninfo
        self.watchdog = watchdog
        self.search_path = "pg_catalog, pg_temp"
        """Of every session; until the schema of the tables is known, PostgreSQL's own alone."""
        self._lock = threading.Lock()
        self._kept = False
        self._refused: tuple[float, SessionsNotKept] | None = None

    def name_schema(self, schema: str) -> None:
        """From now on sessions see this schema, and no other but PostgreSQL's own and, last, their temporary one."""
        quoted = schema.replace('"', '""')
        self.search_path = f'"{quoted}", pg_temp'

    def expect_kept(self, announced: int, found: int) -> None:
        """Raises SessionsNotKept if there is a pooler between that does not keep sessions.

        A pooler announces a process of its own, by which it knows who cancels; PostgreSQL says which it really is.
        """
        if announced == found:
            return
        with self._lock:
            if self._kept:
                return
            if self._refused is not None and time.monotonic() < self._refused[0]:
                raise SessionsNotKept("as found a moment ago") from self._refused[1]
            try:
                expect_sessions_kept(self.conninfo, self.watchdog)
            except SessionsNotKept as refused:
                self._refused = (time.monotonic() + AGAIN_S, refused)
                raise
            self._kept = True

    def doubt(self) -> None:
        """A session lost what it knew: with the next connection it is found out again whether they are kept."""
        with self._lock:
            self._kept = False

    def set_up(self, connection: psycopg.Connection[Any]) -> None:
        """What a session begins with, on a connection with autocommit. Raises psycopg.Error, SessionsNotKept."""
        connection.prepare_threshold = None
        row = connection.execute(SET_SEARCH_PATH.format("%s").encode(), (self.search_path,)).fetchone()
        assert row is not None
        assert isinstance(row[0], int)
        self.expect_kept(connection.info.backend_pid, row[0])
        try:
            connection.execute(NO_ORPHAN.encode())
        except psycopg.DatabaseError:
            if connection.closed:
                raise
