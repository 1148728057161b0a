"""Whether the event loop turns, and how late it does: for liveness and for the metrics.

Nothing here asks the database. A server that cannot reach its database is alive, and to restart it would not help.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from blockyard_server.engine.counts import CALL_BOUNDS_S, Durations

BEAT_S: Final = 0.25
"""Between two looks at the event loop."""
LOOP_PATIENCE_S: Final = 10.0
"""An event loop that has not turned for so long hangs."""
WRITER_PATIENCE_S: Final = 120.0
"""A writer thread that is at one piece of work for so long hangs; one that waits for a database gives up before."""


class Pulse:
    """Beats in the event loop. What it says may be read in any thread."""

    def __init__(self, writer_busy_s: Callable[[], float], monotonic_s: Callable[[], float] = time.monotonic) -> None:
        """`writer_busy_s` says for how long a writer has been at its present work, the longest of all."""
        self.lag = Durations(CALL_BOUNDS_S)
        """How late the event loop was, at each beat."""
        self._writer_busy_s = writer_busy_s
        self._monotonic_s = monotonic_s
        self._beat_s = monotonic_s()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to beat."""
        self._beat_s = self._monotonic_s()
        self._task = asyncio.create_task(self._run(), name="blockyard-pulse")

    async def stop(self) -> None:
        """Beats no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            now_s = self._monotonic_s()
            self.lag.add(max(0.0, now_s - self._beat_s - BEAT_S))
            self._beat_s = now_s

    def why_not_alive(self) -> str | None:
        """Why this process should be restarted; None if it should not."""
        silent_s = self._monotonic_s() - self._beat_s
        if silent_s > LOOP_PATIENCE_S:
            return f"the event loop has not turned for {silent_s:.0f} s"
        busy_s = self._writer_busy_s()
        if busy_s > WRITER_PATIENCE_S:
            return f"a writer has been at the same work for {busy_s:.0f} s"
        return None
