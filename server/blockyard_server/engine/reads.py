"""Reads a snapshot on behalf of a client: what the store raises becomes what the client is told."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from blockyard_server.domain.formats import Formats
from blockyard_server.engine.failures import EngineFailure, InvariantViolated, failure_of_store, format_too_new
from blockyard_server.engine.reader_protocol import Reader
from blockyard_server.engine.store_protocol import InvariantBroken, Store, StoreFailed

T = TypeVar("T")

SETTLE_S: Final = 2.0
"""How long a stop waits for reads whose callers have gone."""


class Reads:
    """Used in the event loop."""

    def __init__(self, store: Store, formats: Formats) -> None:
        self._store = store
        self._formats = formats
        self._left_behind: set[asyncio.Task[Any]] = set()
        """Reads whose callers have gone, and that have not ended yet."""

    async def run(self, read: Callable[[Reader], Awaitable[T]], fleet: str | None = None) -> T:
        """What `read` answers out of one snapshot. Raises EngineFailure, and whatever else it raises.

        A caller that is cancelled goes at once. A database that hangs may keep the read itself, which ends behind it.
        """
        reading = asyncio.create_task(self._run(read, fleet), name="blockyard-read")
        try:
            return await asyncio.shield(reading)
        except asyncio.CancelledError:
            reading.cancel()
            self._left_behind.add(reading)
            reading.add_done_callback(self._notice)
            raise

    async def settle(self) -> None:
        """Waits for the reads whose callers have gone, before the store closes: SETTLE_S at most.

        A read that loses its connection while it runs would never end.
        """
        if self._left_behind:
            await asyncio.wait(self._left_behind, timeout=SETTLE_S)

    def _notice(self, reading: "asyncio.Task[Any]") -> None:
        """Takes note of a failure that nobody waits for any more, or asyncio would report it as lost."""
        self._left_behind.discard(reading)
        if not reading.cancelled():
            reading.exception()

    async def _run(self, read: Callable[[Reader], Awaitable[T]], fleet: str | None) -> T:
        try:
            async with self._store.reader() as reader:
                return await read(reader)
        except InvariantBroken as broken:
            raise await self._failure_of_unreadable(fleet) from broken
        except StoreFailed as failure:
            raise failure_of_store(failure, "the database cannot be read; try again") from failure

    def expect_known_format(self, fleet: str, fleet_format: int) -> None:
        """Raises FleetFormatTooNew."""
        if not self._formats.knows(fleet_format):
            raise format_too_new(fleet, fleet_format, self._formats.newest)

    async def _failure_of_unreadable(self, fleet: str | None) -> EngineFailure:
        """A record that cannot be read is damaged, unless it is of a format that this server does not know."""
        if fleet is None:
            return InvariantViolated("a record cannot be read; run Verify")
        bounds = await self.run(lambda reader: reader.journal_bounds(fleet))
        if bounds is not None and not self._formats.knows(bounds.format):
            return format_too_new(fleet, bounds.format, self._formats.newest)
        return InvariantViolated("a record cannot be read; run Verify", fleet=f"fleets/{fleet}")
