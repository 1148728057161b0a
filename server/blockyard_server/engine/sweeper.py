"""The garbage collector: frees ended leases that nobody asked about, and forgets what is older than its retention.

It decides nothing: a lease has ended by the predicate alone, swept or not.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from blockyard_server.domain.retention import Forgettable, Retention
from blockyard_server.engine.background import run_isolated
from blockyard_server.engine.failures import EngineFailure
from blockyard_server.engine.pace import Pace
from blockyard_server.engine.store_protocol import Store, StoreFailed, StoreStopped
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.writers import Writers

MAX_FLEETS_AT_ONCE: Final = 100
"""How many fleets with ended leases one round looks after; the others come next."""
MAX_PAST_AT_ONCE: Final = 25
"""How many fleets with something to forget one round looks at; the others come next."""
MAX_AGED_AT_ONCE: Final = 5
"""How many of these it lets grow older, each in a transaction: 100,000 deleted fleets are a small load for ever."""
SEARCH_SHARE: Final = 0.02
"""Of the time, for each search for such fleets: the more fleets there are, the less often they are searched."""
MAX_REST_S: Final = 5.0
"""The time between two searches for ended leases, and so the delay until a watch tells of an end."""
MAX_REST_OF_THE_PAST_S: Final = 60.0
"""The same for what is old enough to be forgotten, which nobody waits for."""
MAX_COMPACTIONS: Final = 10
"""How many transactions one round spends on a fleet's journal: leases that end meanwhile do not wait for history."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SweeperSettings:
    """When the sweeper works."""

    interval_s: float = 1.0
    """Between two rounds."""
    retention_s: float = 7 * 24 * 3600.0
    """How long an ended allocation and its token, or a cancelled token, are remembered at least."""
    journal_retention_s: float = 30 * 24 * 3600.0
    """How long an event is kept in its fleet's journal at least."""

    @property
    def retention(self) -> Retention:
        """Both, by the age of a fleet."""
        return Retention(int(self.retention_s * 1_000_000), int(self.journal_retention_s * 1_000_000))


class Sweeper:
    """Runs in the background until it is stopped; a round can also be asked for."""

    def __init__(self, store: Store, writers: Writers, transactor: Transactor, settings: SweeperSettings) -> None:
        self._store = store
        self._writers = writers
        self._transactor = transactor
        self._settings = settings
        self._task: asyncio.Task[None] | None = None
        self._sweeps: dict[str, asyncio.Task[None]] = {}
        """Those under way, by fleet."""
        self._looked_upto = ""
        """The last fleet whose past this round or the one before looked at: the next one goes on behind it."""
        self._unfinished: dict[str, Forgettable] = {}
        """Fleets with more events to forget than one round does."""
        self._due_pace = Pace(SEARCH_SHARE, max_rest_s=MAX_REST_S)
        self._past_pace = Pace(SEARCH_SHARE, max_rest_s=MAX_REST_OF_THE_PAST_S)

    def start(self) -> None:
        """Begins to work in the background."""
        self._task = asyncio.create_task(self._run(), name="blockyard-sweeper")

    async def stop(self) -> None:
        """Ends, between two transactions."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep_fleet(self, fleet: str) -> None:
        """Frees leases of a fleet that have ended, one bounded transaction after the other. Raises EngineFailure.

        All callers share one sweep of a fleet. So a lease that ended after the call may be left: who must see none
        looks, and calls again.
        """
        sweep = self._sweeps.get(fleet)
        if sweep is None:
            sweep = self._sweeps[fleet] = asyncio.create_task(self._sweep(fleet), name=f"blockyard-sweep-{fleet}")
            sweep.add_done_callback(lambda done: self._note_sweep(fleet, done))
        await asyncio.shield(sweep)

    async def _sweep(self, fleet: str) -> None:
        while await self._writers.of(fleet).run_exclusive(lambda: self._transactor.expire_due(fleet)):
            pass

    def _note_sweep(self, fleet: str, sweep: "asyncio.Task[None]") -> None:
        del self._sweeps[fleet]
        if not sweep.cancelled():
            sweep.exception()  # those who waited have it; asyncio would report it as lost if nobody waits any more

    async def round(self, *, paced: bool = False) -> None:
        """Looks after the next fleets that need it. Raises ShuttingDown, StoreFailed.

        `paced`: it searches for them only if the last search was long enough ago.
        """
        due: list[str] = []
        past: list[str] = []
        if not paced or self._due_pace.is_due:
            async with self._store.reader() as reader:
                with self._due_pace.measured():
                    due = await reader.fleets_with_due_leases(self._transactor.times.store_us(), MAX_FLEETS_AT_ONCE)
        if not paced or self._past_pace.is_due:
            async with self._store.reader() as reader:
                with self._past_pace.measured():
                    past = await reader.fleets_with_past(self._looked_upto, MAX_PAST_AT_ONCE)
        for fleet in self._transactor.fleets_with_stale_clock()[:MAX_FLEETS_AT_ONCE]:
            await run_isolated("refreshed", fleet, self._refresh_clock(fleet))
        for fleet in due:
            await run_isolated("swept", fleet, self.sweep_fleet(fleet))
        await self._forget_past(past)

    async def _forget_past(self, fleets: Sequence[str]) -> None:
        """Looks at these fleets' past, in order. Those behind the last that may grow older in this round come next."""
        aged = 0
        for fleet in fleets:
            aged += self._transactor.ages.due(fleet, self._settings.retention.step_us)
            await run_isolated("pruned", fleet, self._forget_old(fleet))
            self._looked_upto = fleet
            if aged == MAX_AGED_AT_ONCE:
                return
        if len(fleets) < MAX_PAST_AT_ONCE:
            self._looked_upto = ""

    async def _refresh_clock(self, fleet: str) -> None:
        await self._writers.of(fleet).run_exclusive(lambda: self._transactor.refresh_clock(fleet))

    async def _forget_old(self, fleet: str) -> None:
        """Lets the fleet grow older, and forgets what has reached its retention."""
        writer, retention = self._writers.of(fleet), self._settings.retention
        old = self._unfinished.pop(fleet, Forgettable())
        if self._transactor.ages.due(fleet, retention.step_us):
            old = await writer.run_exclusive(lambda: self._transactor.age(fleet, retention))
        while old.ended and await writer.run_exclusive(lambda: self._transactor.prune(fleet, old.ended)):
            pass
        for _ in range(MAX_COMPACTIONS * bool(old.events)):
            if not await writer.run_exclusive(lambda: self._transactor.compact(fleet, old.events)):
                return
        if old.events:
            self._unfinished[fleet] = old

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.interval_s)
            try:
                await self.round(paced=True)
            except StoreStopped:
                _log.debug("the store has stopped, and has said why")
            except (EngineFailure, StoreFailed) as failure:
                _log.warning("the sweeper will try again: %s", failure)
            except Exception:  # noqa: BLE001 - without the sweeper, what nobody asks about would be held for ever
                _log.exception("the sweeper failed unexpectedly and will try again")
