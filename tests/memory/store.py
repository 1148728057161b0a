"""A store in memory, faithful to the engine's protocol: a transaction sees its own work, and others see it at commit.

`HookedStore` of the unit tests is one that looks, waits and fails where a story says. The simulation has the rows, the
transaction and the evidence of this folder, and a store of its own: there a transaction changes the rows in place and
takes the changes back, in one thread, and nothing but transactions and evidence is asked for.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager

from blockyard_server.engine.store_protocol import RESTORE_BEGAN, Origin, ServerRow
from tests.memory.evidence import MemoryEvidence
from tests.memory.reader import MemoryReader
from tests.memory.rows import Rows
from tests.memory.transaction import MemoryTransaction


class StoredTransaction(MemoryTransaction):
    """A transaction that knows of the other fleets."""

    def __init__(self, store: "MemoryStore", fleet: str) -> None:
        super().__init__(store.copied(fleet))
        self._store = store
        self.read_head()

    def fleet_count(self) -> int:
        """As in the protocol."""
        return len(self._store.fleet_sizes())


class MemoryStore:
    """Fleets in memory. A transaction has a copy of a fleet's rows, which takes their place at commit."""

    writer_shards = 1
    made_new = True
    write_failed = False

    def __init__(self) -> None:
        self.rows: dict[str, Rows] = {}
        self.closed = False
        self.servers: dict[str, ServerRow] = {}
        """Those that have given a sign of life."""
        self.the_origin = Origin("memory", 0, 0, restoring=False)
        self._lock = threading.Lock()

    def copied(self, fleet: str) -> Rows:
        """A fleet's rows as they are now, also of one that there is not yet."""
        if fleet in self.rows:
            return self.rows[fleet].copy()
        rows = Rows(fleet)
        rows.revision = rows.compacted_revision = rows.first_revision = self.the_origin.first_revision
        return rows

    def begin(self, fleet: str) -> StoredTransaction:
        """A transaction begins. The store is locked."""
        return StoredTransaction(self, fleet)

    def commit(self, fleet: str, rows: Rows) -> None:
        """What a transaction wrote is to stay. The store is locked."""
        self.rows[fleet] = rows

    def open(self) -> None:
        """As in the protocol."""

    async def close(self) -> None:
        """As in the protocol."""
        self.closed = True

    @contextmanager
    def transaction(self, fleet: str) -> Iterator[StoredTransaction]:
        """As in the protocol."""
        with self._lock:
            tx = self.begin(fleet)
            yield tx
            if tx.wrote:
                self.commit(fleet, tx.rows)

    def open_evidence(self, fleet: str) -> MemoryEvidence:
        """As in the protocol."""
        return MemoryEvidence(self.copied(fleet))

    def fleet_sizes(self) -> dict[str, int]:
        """As in the protocol."""
        there = {fleet: rows for fleet, rows in sorted(self.rows.items()) if rows.record is not None}
        return {fleet: len(rows.instances) + len(rows.live()) // 5 for fleet, rows in there.items()}

    def origin(self) -> Origin:
        """As in the protocol."""
        return self.the_origin

    def set_origin(self, origin: Origin) -> None:
        """As in the protocol."""
        self.the_origin = origin

    def all_revisions(self) -> dict[str, int]:
        """As in the protocol."""
        return {fleet: rows.revision for fleet, rows in self.rows.items() if rows.exists}

    def seen_revisions(self) -> dict[str, int]:
        """As in the protocol: there is no witness."""
        return {}

    def why_restored(self) -> str | None:
        """As in the protocol."""
        return RESTORE_BEGAN if self.the_origin.restoring else None

    async def listen(self, on_change: Callable[[str], None]) -> None:  # noqa: ARG002 - there is no other server
        """As in the protocol."""
        await asyncio.Event().wait()

    async def notify(self, fleets: Collection[str]) -> None:
        """As in the protocol."""

    async def heartbeat(self, own: ServerRow) -> list[ServerRow]:
        """As in the protocol."""
        self.servers[own.server] = own
        return [*self.servers.values()]

    async def deregister(self, server: str) -> None:
        """As in the protocol."""
        self.servers.pop(server, None)

    async def probe(self) -> None:
        """As in the protocol."""

    def try_write(self) -> None:
        """As in the protocol."""

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[MemoryReader]:
        """As in the protocol."""
        yield MemoryReader({fleet: rows.copy() for fleet, rows in self.rows.items()})
