"""All records of a fleet out of one snapshot, streamed: what Verify compares."""

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any, Final

from typing_extensions import override

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.events import Event
from blockyard_server.engine.store_protocol import StoreFailed
from blockyard_server.store.codec import Row, decode_allocation, decode_journal
from blockyard_server.store.slices import Slices
from blockyard_server.store.sqlite import statements

ABANDONED_STEPS: Final = 50_000
"""How many of its own steps SQLite takes between two looks whether the snapshot was abandoned: some milliseconds."""


class SqliteEvidence(Slices):
    """A snapshot on a connection of its own. Made in the writer thread, used in one other, and closed there.

    `closed` is told once the connection has gone, so that the store can close its readers before its writer.
    `unreadable` is what a failed read means.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        fleet: str,
        closed: Callable[["SqliteEvidence"], None],
        unreadable: Callable[[sqlite3.Error], StoreFailed],
    ) -> None:
        self._db = db
        self._fleet = fleet
        self._closed = closed
        self._unreadable = unreadable
        self._abandoned = False
        db.execute("BEGIN")
        # The first read is what takes the snapshot.
        head = db.execute(statements.EVIDENCE_HEAD, (fleet,)).fetchone()
        self.revision: int = head[0] if head else 0
        self.exists = head is not None and not head[1]
        self.compacted_revision: int = head[2] if head else 0
        db.set_progress_handler(lambda: self._abandoned, ABANDONED_STEPS)

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
        """SQLite itself looks, within a statement, too."""
        self._abandoned = True

    @override
    def close(self) -> None:
        """Closing twice is the same as once."""
        self._db.close()
        self._closed(self)

    def _rows(self, statement: str) -> Iterator[Any]:
        return self._select(statement)

    def _select(self, statement: str, *parameters: Any) -> Iterator[Row]:
        if self._abandoned:
            raise StoreFailed(f"the snapshot of fleet {self._fleet} was abandoned")
        try:
            yield from self._db.execute(statement, (self._fleet, *parameters))
        except sqlite3.Error as failure:
            raise self._unreadable(failure) from failure
