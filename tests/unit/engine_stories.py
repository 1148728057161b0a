"""What the stories about the engine have in common: requests of the fleets they are about, and ways to see a wait."""

import asyncio
import threading
from collections.abc import Callable

from blockyard_server.domain.answers import Grant
from blockyard_server.domain.requests import Acquire, CreateFleet, CreateInstance, Demand, FleetFields, InstanceFields
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.engine import Engine, EngineSettings
from blockyard_server.engine.sweeper import SweeperSettings
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.writer import Writer, WriterLimits
from blockyard_server.engine.writers import Writers
from tests.unit.hooked_store import HookedStore

PATIENCE_S = 10
"""No story takes nearly this long; a wait that does is a fault."""


def create(fleet: str = "gpu") -> CreateFleet:
    """A fleet without anything special."""
    return CreateFleet(fleet, FleetFields())


def register(instance: str = "n1", total_blocks: int = 8, fleet: str = "gpu") -> CreateInstance:
    """An instance without anything special."""
    return CreateInstance(fleet, instance, InstanceFields(total_blocks))


def acquire(token: str, blocks: int = 1, *, fleet: str = "gpu", ttl_us: int | None = None) -> Acquire:
    """Some blocks for a job that is named like its token."""
    return Acquire(fleet, "slurm", token, f"job {token}", (Demand(blocks=blocks),), ttl_us=ttl_us)


def filled_store(total_blocks: int = 8, *fleets: str) -> HookedStore:
    """A store with fleets (`gpu`, unless named) of one instance."""
    store = HookedStore()
    transactor = Transactor(store, ManualClock())
    for fleet in fleets or ("gpu",):
        transactor.carry_out(fleet, [create(fleet), register("n1", total_blocks, fleet)])
    store.transactions.clear()
    store.commits.clear()
    store.loads.clear()
    return store


def writer_over(store: HookedStore, limits: WriterLimits | None = None, clock: ManualClock | None = None) -> Writer:
    """A writer that has started."""
    writer = Writer(Transactor(store, clock or ManualClock()), limits or WriterLimits())
    writer.start()
    return writer


def writers_over(store: HookedStore, clock: ManualClock) -> Writers:
    """The writers of a server, that have started."""
    writers = Writers(Transactor(store, clock), WriterLimits(), store.writer_shards)
    writers.start()
    return writers


def engine_over(store: HookedStore, clock: ManualClock | None = None, *, restart_grace_s: float = 0.0) -> Engine:
    """An engine whose sweeper sweeps only when asked."""
    settings = EngineSettings(sweeper=SweeperSettings(interval_s=3600.0), restart_grace_s=restart_grace_s)
    return Engine(store, clock or ManualClock(), settings)


def granted_blocks(answer: object) -> int:
    """How many blocks a grant has."""
    assert isinstance(answer, Grant)
    return sum(len(blocks) for _, blocks in answer.view.allocation.placements)


class Gate:
    """Holds the writer thread in a commit until the story lets it go on."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self, _fleet: str) -> None:
        """What the store calls before it commits."""
        self._reached.set()
        assert self._opened.wait(PATIENCE_S)

    async def reached(self) -> None:
        """Waits until a commit is under way."""
        assert await asyncio.to_thread(self._reached.wait, PATIENCE_S)

    def open(self) -> None:
        """Lets this commit, and all that follow, go on."""
        self._opened.set()


def once(failure: Exception) -> Callable[[object], None]:
    """What fails the first time that it is called."""
    left = [failure]

    def fail(_what: object) -> None:
        if left:
            raise left.pop()

    return fail
