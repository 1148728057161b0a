"""The store in memory, where stories of the engine step in: to look, to wait, to raise. It counts what it is asked."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.events import Event
from blockyard_server.engine.store_protocol import InstanceRow
from tests.memory.evidence import MemoryEvidence
from tests.memory.reader import MemoryReader
from tests.memory.rows import Rows
from tests.memory.store import MemoryStore, StoredTransaction


class HookedTransaction(StoredTransaction):
    """One of a HookedStore."""

    def __init__(self, store: "HookedStore", fleet: str) -> None:
        super().__init__(store, fleet)
        self._hooks = store
        self.database_time_us = store.database_time_us()

    def load_instances(self) -> list[InstanceRow]:
        """As in the protocol; counted, so that a test can tell whether memory was made anew."""
        self._hooks.loads.append(self.rows.fleet)
        return super().load_instances()

    def write(self, events: Sequence[Event], allocations: Mapping[int, Allocation]) -> None:
        """As in the protocol."""
        self._hooks.before_write(events)
        super().write(events, allocations)


class HookedStore(MemoryStore):
    """The `before_x` and `after_x` are a story's."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: list[str] = []
        """The fleet of each transaction that began."""
        self.commits: list[tuple[str, int]] = []
        """The fleet and the number of events of each commit that wrote."""
        self.loads: list[str] = []
        self.evidence: list[MemoryEvidence] = []
        self.reads = 0
        self.before_begin: Callable[[str], None] = lambda _fleet: None
        self.before_write: Callable[[Sequence[Event]], None] = lambda _events: None
        self.before_commit: Callable[[str], None] = lambda _fleet: None
        self.after_commit: Callable[[str], None] = lambda _fleet: None
        self.database_time_us: Callable[[], int | None] = lambda: None
        """The clock of a database that servers share."""

    def begin(self, fleet: str) -> HookedTransaction:
        """A transaction begins."""
        self.transactions.append(fleet)
        return HookedTransaction(self, fleet)

    def commit(self, fleet: str, rows: Rows) -> None:
        """What a transaction wrote is to stay."""
        self.before_commit(fleet)
        before = self.rows[fleet].revision if fleet in self.rows else 0
        super().commit(fleet, rows)
        self.commits.append((fleet, rows.revision - before))
        self.after_commit(fleet)

    @contextmanager
    def transaction(self, fleet: str) -> Iterator[StoredTransaction]:
        """As in the protocol."""
        self.before_begin(fleet)
        with super().transaction(fleet) as tx:
            yield tx

    def open_evidence(self, fleet: str) -> MemoryEvidence:
        """As in the protocol; kept, so that a test can tell whether it was closed."""
        self.evidence.append(super().open_evidence(fleet))
        return self.evidence[-1]

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[MemoryReader]:
        """As in the protocol; counted."""
        self.reads += 1
        async with super().reader() as reader:
            yield reader
