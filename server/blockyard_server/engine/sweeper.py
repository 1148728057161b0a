"""The garbage collector: frees ended leases that nobody asked about, and forgets what is older than its retention.

It decides nothing: a lease has ended by the predicate alone, swept or not.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

from blockyard_server.engine.apart import apart
from blockyard_server.engine.failures import EngineFailure
from blockyard_server.engine.store_protocol import Store, StoreFailed
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.writer import Writers

MAX_FLEETS_AT_ONCE: Final = 100
"""How many fleets one round looks after; the others come next."""
MAX_COMPACTIONS: Final = 10
"""How many transactions one round spends on a fleet's journal: leases that end meanwhile do not wait for history."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SweeperSettings:
    """When the sweeper works."""

    interval_s: float = 1.0
    """Between two rounds."""
    retention_s: float = 7 * 24 * 3600.0
    """How long an ended allocation and its token, or a cancelled token, are remembered."""
    journal_retention_s: float = 30 * 24 * 3600.0
    """How long an event is kept in its fleet's journal."""


class Sweeper:
    """Runs in the background until it is stopped; a round can also be asked for."""

    def __init__(self, store: Store, writers: Writers, transactor: Transactor, settings: SweeperSettings) -> None:
        self._store = store
        self._writers = writers
        self._transactor = transactor
        self._settings = settings
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to work in the background."""
        self._task = asyncio.create_task(self._run(), name="blockyard-sweeper")

    async def stop(self) -> None:
        """Ends, between two transactions."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def sweep_fleet(self, fleet: str) -> None:
        """Frees all leases of a fleet that have ended by now. Raises EngineFailure."""
        while await self._writers.of(fleet).run_aside(lambda: self._transactor.expire_due(fleet)):
            pass

    async def round(self) -> None:
        """Looks after every fleet that needs it. Raises ShuttingDown, StoreFailed."""
        now_us = self._transactor.times.store_us()
        retention_us = int(self._settings.retention_s * 1_000_000)
        journal_retention_us = int(self._settings.journal_retention_s * 1_000_000)
        async with self._store.reader() as reader:
            due = await reader.fleets_with_due_leases(now_us, MAX_FLEETS_AT_ONCE)
            old = await reader.fleets_to_prune(now_us - retention_us, MAX_FLEETS_AT_ONCE)
            long = await reader.fleets_to_compact(now_us - journal_retention_us, MAX_FLEETS_AT_ONCE)
        for fleet in self._transactor.fleets_to_look_at()[:MAX_FLEETS_AT_ONCE]:
            await apart("looked at", fleet, self._look_at(fleet))
        for fleet in due:
            await apart("swept", fleet, self.sweep_fleet(fleet))
        for fleet in old:
            await apart("pruned", fleet, self._prune_fleet(fleet, retention_us))
        for fleet in long:
            await apart("compacted", fleet, self._compact_fleet(fleet, journal_retention_us))

    async def _look_at(self, fleet: str) -> None:
        await self._writers.of(fleet).run_aside(lambda: self._transactor.look_at(fleet))

    async def _prune_fleet(self, fleet: str, retention_us: int) -> None:
        while await self._writers.of(fleet).run_aside(lambda: self._transactor.prune(fleet, retention_us)):
            pass

    async def _compact_fleet(self, fleet: str, retention_us: int) -> None:
        for _ in range(MAX_COMPACTIONS):
            if not await self._writers.of(fleet).run_aside(lambda: self._transactor.compact(fleet, retention_us)):
                return

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.interval_s)
            try:
                await self.round()
            except (EngineFailure, StoreFailed) as failure:
                _log.warning("the sweeper will try again: %s", failure)
            except Exception:  # noqa: BLE001 - without the sweeper, what nobody asks about would be held for ever
                _log.exception("the sweeper failed unexpectedly and will try again")
