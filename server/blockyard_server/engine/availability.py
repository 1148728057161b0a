"""Whether the database answers: asked again and again, so that health tells the truth and recovers by itself."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from blockyard_server.engine.store_protocol import Store, StoreFailed

PROBE_INTERVAL_S: Final = 1.0
"""Between two questions."""
PROBE_PATIENCE_S: Final = 3.0
"""A database that does not answer for so long is away."""

_log = logging.getLogger(__name__)


class Availability:
    """Calls `changed` in the event loop whenever the database goes away or comes back."""

    def __init__(self, store: Store, changed: Callable[[bool], None]) -> None:
        self._store = store
        self._changed = changed
        self._available = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to ask."""
        self._task = asyncio.create_task(self._run(), name="blockyard-availability")

    async def stop(self) -> None:
        """Asks no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PROBE_INTERVAL_S)
            available = await self._probe()
            if available != self._available:
                self._available = available
                _log.warning("the database %s", "answers again" if available else "does not answer")
                self._changed(available)

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_PATIENCE_S):
                await self._store.probe()
        except (StoreFailed, TimeoutError):
            return False
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it does not answer; the asking goes on
            _log.exception("the database could not be asked")
            return False
        return True
