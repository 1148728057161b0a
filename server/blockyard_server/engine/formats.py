"""Servers of different releases on one database: each gives signs of life, and fleets' formats rise with them.

A fleet is raised to a format once every live server knows it (docs/adr/0022). A server that starts afterwards and does
not know it answers FLEET_FORMAT_TOO_NEW for that fleet, and harms nothing.
"""

import asyncio
import logging
import secrets
from dataclasses import dataclass
from functools import partial
from typing import Final

from blockyard_server.domain.formats import Formats, format_to_raise_to
from blockyard_server.engine.background import run_isolated
from blockyard_server.engine.failures import EngineFailure, ShuttingDown
from blockyard_server.engine.store_protocol import ServerRow, Store, StoreFailed, StoreStopped
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.writers import Writers

HEARTBEAT_INTERVAL_S: Final = 10.0
LIVE_US: Final = 35_000_000
"""A server that has been silent for longer has missed three heartbeats: it does not count as live."""
MAX_RAISED_AT_ONCE: Final = 100
"""How many fleets one round raises; the others come next."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FormatSettings:
    """What this server tells the others."""

    version: str = "unknown"
    """Its release, for people."""
    hold: bool = False
    """No fleet's format is raised while this server lives: an upgrade can still be taken back."""
    interval_s: float = HEARTBEAT_INTERVAL_S


class FormatKeeper:
    """`register` before any fleet is loaded, then `start`; `stop` in the end."""

    def __init__(
        self, store: Store, writers: Writers, transactor: Transactor, settings: FormatSettings, formats: Formats
    ) -> None:
        self._store = store
        self._writers = writers
        self._transactor = transactor
        self._settings = settings
        self._formats = formats
        self._own = ServerRow(secrets.token_hex(8), settings.version, formats.newest, settings.hold)
        self._task: asyncio.Task[None] | None = None
        self.why_it_serves_no_fleet: str | None = None
        """There are fleets, and each is of a format that this server does not know. None: it serves some, or could."""

    async def register(self) -> list[ServerRow]:
        """Gives a sign of life, and learns what new fleets are made with. Raises StoreFailed."""
        live = [row for row in await self._store.heartbeat(self._own) if row.silent_us <= LIVE_US]
        newest = {row.server: row.newest_format for row in live}
        self._transactor.format_of_new_fleets = min(
            format_to_raise_to(newest, held=any(row.holds_format for row in live)), self._formats.raised_at_most
        )
        return live

    def start(self) -> None:
        """Begins to give signs of life, and to raise fleets."""
        self._task = asyncio.create_task(self._run(), name="blockyard-formats")

    async def stop(self) -> None:
        """Ends, and says so to the others."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            await self._store.deregister(self._own.server)

    async def round(self) -> None:
        """One sign of life; raises fleets that all live servers can serve afterwards. Raises StoreFailed."""
        await self.register()
        reached = self._transactor.format_of_new_fleets
        async with self._store.reader() as reader:
            below = await reader.fleets_below_format(reached, MAX_RAISED_AT_ONCE)
            found = await reader.formats()
        self.why_it_serves_no_fleet = None
        if found is not None and not self._formats.knows(found[0]):
            self.why_it_serves_no_fleet = (
                f"every fleet is of format {found[0]} or newer, which this release does not know"
            )
        for fleet in below:
            raise_format = partial(self._transactor.raise_format, fleet, reached)
            await run_isolated("raised", fleet, self._writers.of(fleet).run_exclusive(raise_format))

    async def _run(self) -> None:
        while True:
            try:
                await self.round()
            except (ShuttingDown, StoreStopped):
                _log.debug("the server or its store has stopped, and has said why")
            except (EngineFailure, StoreFailed) as failure:
                _log.warning("this server's sign of life could not be given: %s", failure)
            except Exception:  # noqa: BLE001 - the next sign of life comes
                _log.exception("this server's sign of life could not be given: unexpectedly")
            await asyncio.sleep(self._settings.interval_s)
