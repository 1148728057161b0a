"""All records of a fleet out of one snapshot on PostgreSQL, streamed: what Verify compares."""

from collections.abc import Callable, Iterator
from typing import Any, Final

import psycopg
from typing_extensions import override

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.events import Event
from blockyard_server.engine.store_protocol import StoreFailed
from blockyard_server.store.codec import Row, decode_allocation, decode_journal
from blockyard_server.store.postgres.errors import reading
from blockyard_server.store.postgres.target import Target
from blockyard_server.store.slices import Slices
from blockyard_server.store.sqlite import statements

ROWS_AT_ONCE: Final = 2000
"""How many rows a fetch brings."""
FETCH_TIMEOUT_S: Final = 60.0


class PostgresEvidence(Slices):
    """A snapshot on a connection of its own. Made in the writer thread, used in one other, and closed there.

    `closed` is told once the connection has gone.
    """

    def __init__(self, target: Target, fleet: str, closed: Callable[["PostgresEvidence"], None]) -> None:
        self._fleet = fleet
        self._closed = closed
        self._db: psycopg.Connection[Row] = psycopg.Connection.connect(target.conninfo, autocommit=True)
        self._watch = target.watchdog.watch(self._db.pgconn)
        self._cursors = 0
        self._abandoned = False
        try:
            self._bound(lambda: target.set_up(self._db))
            self._db.autocommit = False
            self._db.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            self._db.read_only = True
            # The first read is what takes the snapshot.
            head = next(self._select(statements.EVIDENCE_HEAD), None)
        except BaseException:
            self.close()
            raise
        self.revision: int = head[0] if head else 0
        self.exists = head is not None and not head[1]
        self.compacted_revision: int = head[2] if head else 0

    @override
    def instances(self) -> Iterator[tuple[str, int, int]]:
        return self._rows(statements.EVIDENCE_INSTANCES)

    @override
    def exclusive_instances(self) -> Iterator[tuple[str, int]]:
        return self._rows(statements.EVIDENCE_EXCLUSIVE)

    @override
    def held_blocks(self) -> Iterator[tuple[str, int, int]]:
        return self._rows(statements.EVIDENCE_HELD)

    @override
    def live_allocations(self) -> Iterator[Allocation]:
        return map(decode_allocation, self._rows(statements.EVIDENCE_LIVE))

    @override
    def tokens_of_live_allocations(self) -> Iterator[tuple[int, int | None]]:
        return self._rows(statements.EVIDENCE_TOKENS)

    @override
    def events(self) -> Iterator[Event]:
        return map(decode_journal, self._rows(statements.EVIDENCE_EVENTS))

    @override
    def abandon(self) -> None:
        """The watchdog ends the connection, so that a read under way ends, too."""
        self._abandoned = True
        self._watch.begin(0)

    @override
    def close(self) -> None:
        """Closing twice is the same as once."""
        self._watch.end()
        self._db.close()
        self._closed(self)

    def _rows(self, statement: str) -> Iterator[Any]:
        return self._select(statement)

    def _select(self, statement: str, *parameters: Any) -> Iterator[Row]:
        """By a cursor of the server: the rows do not have to fit into memory."""
        self._cursors += 1
        cursor = psycopg.ServerCursor(self._db, f"evidence_{self._cursors}")
        try:
            with reading():
                self._bound(lambda: cursor.execute(statement.replace("?", "%s").encode(), (self._fleet, *parameters)))
                while rows := self._bound(lambda: cursor.fetchmany(ROWS_AT_ONCE)):
                    yield from rows
        finally:
            self._put_away(cursor)

    def _put_away(self, cursor: "psycopg.ServerCursor[Row]") -> None:
        """Closes it, also half read. If that fails, the connection is given up: a later read raises."""
        try:
            self._bound(cursor.close)
        except (psycopg.Error, StoreFailed):
            self._watch.end()
            self._db.close()
            cursor.close()

    def _bound(self, step: Callable[[], Any]) -> Any:
        self._watch.begin(FETCH_TIMEOUT_S)
        if self._abandoned:  # looked at after the bound was set: `abandon` sets its own after this
            raise StoreFailed(f"the snapshot of fleet {self._fleet} was abandoned")
        try:
            return step()
        finally:
            self._watch.rest()
