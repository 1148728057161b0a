"""Brings the fleets into memory at a start: what would make others wait before it, the rest in the background.

A fleet that is not in memory is loaded by its first transaction, which also extends its leases (docs/adr/0018). That
takes a millisecond for a small fleet, and holds the writer for as long as a large one takes to load. So only large
fleets, and as many others as a start has the time for, are loaded before the server serves.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

from blockyard_server.engine.background import run_isolated
from blockyard_server.engine.failures import FleetFormatTooNew, InvariantViolated, ShuttingDown, StoreUnavailable
from blockyard_server.engine.store_protocol import Store, StoreStopped
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.writers import Writers

SMALL_FLEET: Final = 1000
"""A fleet of this size (`Store.fleet_sizes`) loads in about ten milliseconds: its first transaction may do it."""
LOADED_AT_START: Final = 200
"""So many fleets, the largest first, are loaded before the server serves even if they are small."""


class FleetLoader:
    """`load` before the server serves, then `start`; `stop` in the end."""

    def __init__(self, store: Store, writers: Writers, transactor: Transactor) -> None:
        self._store = store
        self._writers = writers
        self._transactor = transactor
        self._later: list[str] = []
        self._task: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Loads the fleets that are not to be loaded later, and extends their leases. Raises EngineFailure.

        A fleet whose invariants do not hold is halted, and one of a newer format left alone; the others are served.
        """
        now, self._later = divide(self._store.fleet_sizes())
        await self._for_each(now, self._transactor.load)
        # Only now: no lease can be renewed before these fleets are loaded, which may take longer than the grace.
        await self._for_each(now, self._extend)
        self._transactor.extend_at_first_use(self._later)

    def start(self) -> None:
        """Begins to load the others in the background, one between two batches."""
        if self._later:
            self._task = asyncio.create_task(self._load_later(), name="blockyard-fleet-loader")

    async def stop(self) -> None:
        """Ends, between two fleets."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _load_later(self) -> None:
        with suppress(ShuttingDown):
            for fleet in self._later:
                look = partial(self._transactor.refresh_clock, fleet)
                await run_isolated("loaded", fleet, self._writers.of(fleet).run_exclusive(look, however_many=True))

    def _extend(self, fleet: str) -> None:
        """Extends the fleet's leases. Where nothing can be written now, its first transaction does it."""
        try:
            self._transactor.extend_leases_on_takeover(fleet)
        except StoreUnavailable as unavailable:
            if isinstance(unavailable.__cause__, StoreStopped) or not self._store.write_failed:
                raise

    async def _for_each(self, fleets: list[str], work: Callable[[str], None]) -> None:
        for fleet in fleets:
            with suppress(InvariantViolated, FleetFormatTooNew):
                await self._writers.of(fleet).run_exclusive(partial(work, fleet))


def divide(sizes: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """The fleets to load before the server serves, and those to load later, given how large each is."""
    by_size = sorted(sizes, key=lambda fleet: -sizes[fleet])
    large = sum(size > SMALL_FLEET for size in sizes.values())
    first = max(large, LOADED_AT_START)
    return by_size[:first], by_size[first:]
