"""Whether the database can be used: asked again and again, so that health tells the truth and recovers by itself."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from blockyard_server.engine.failures import EngineFailure
from blockyard_server.engine.formats import FormatKeeper
from blockyard_server.engine.store_protocol import Store, StoreFailed
from blockyard_server.engine.writers import Writers

PROBE_INTERVAL_S: Final = 0.5
"""Between two questions."""
PROBE_PATIENCE_S: Final = 3.0
"""A database that does not answer for so long is away."""

_log = logging.getLogger(__name__)


class Availability:
    """Calls `changed` in the event loop whenever the database becomes unusable, and when it is usable again.

    A database is usable if it answers, if the last transaction, or a test write after it, succeeded, and unless each of
    its fleets is of a format that only newer servers know.
    """

    def __init__(self, store: Store, changed: Callable[[bool], None], writers: Writers, keeper: FormatKeeper) -> None:
        self._store = store
        self._changed = changed
        self._writers = writers
        self._keeper = keeper
        self._available = True
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        """The trial that is under way, or was last."""

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
            await self.look()
            await asyncio.sleep(PROBE_INTERVAL_S)

    async def look(self) -> None:
        """Asks once, and tells if the answer has changed."""
        why_not = await self._why_not()
        if self._available == (why_not is None):
            return
        self._available = why_not is None
        if why_not is None:
            _log.warning("the database can be used again")
        else:
            _log.error("the database cannot be used, health is NOT_SERVING: %s", why_not)
        self._changed(self._available)

    async def _trial(self) -> None:
        """One at a time, however long a disk hangs in it."""
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._writers.of("").run_exclusive(self._store.try_write))
            self._writing.add_done_callback(_notice)
        await asyncio.shield(self._writing)

    async def _why_not(self) -> str | None:
        """Why the database cannot be used; None if it can."""
        try:
            async with asyncio.timeout(PROBE_PATIENCE_S):
                await self._store.probe()
                if self._store.write_failed:
                    await self._trial()
        except (StoreFailed, EngineFailure) as failure:
            return str(failure)
        except TimeoutError:
            return f"it has not answered for {PROBE_PATIENCE_S:g} s"
        except Exception:  # noqa: BLE001 - whatever is wrong with it, it does not answer; the asking goes on
            _log.exception("the database could not be asked")
            return "it could not be asked"
        return self._keeper.why_it_serves_no_fleet


def _notice(trial: "asyncio.Future[None]") -> None:
    """Takes note of a failure that nobody waits for any more, or asyncio would report it as lost."""
    if not trial.cancelled():
        trial.exception()
