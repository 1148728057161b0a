"""Tells who follows a fleet that it has changed: the watches of this server, and the other servers.

Only what delays is told here; what is lost on the way is found by looking (docs/adr/0007-watch.md).
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from blockyard_server.engine.store_protocol import Store, StoreFailed


class ChangeNotifier:
    """`start` and everything but `committed` belong to one event loop."""

    def __init__(self, store: Store, on_change: Callable[[str], None], notify_interval_s: float) -> None:
        """`on_change` is called in the event loop with each fleet that this server has changed."""
        self._store = store
        self._on_change = on_change
        self._notify_interval_s = notify_interval_s
        self._committed: deque[str] = deque()
        self._noticed = True
        """The event loop knows that something was committed. From the start on it wants to be told."""
        self._to_notify: set[str] = set()
        self._has_to_notify = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """From now on commits are told."""
        self._loop = asyncio.get_running_loop()
        self._noticed = False

    def committed(self, fleet: str) -> None:
        """This server has committed a change of the fleet. From any thread; costs no more when commits come fast."""
        self._committed.append(fleet)
        if not self._noticed and self._loop is not None:
            self._noticed = True
            self._loop.call_soon_threadsafe(self._notice)

    async def notify_others(self) -> None:
        """Waits for the next commits, and tells the other servers of them: once in `notify_interval_s`."""
        await self._has_to_notify.wait()
        self._has_to_notify.clear()
        await self.flush()
        await asyncio.sleep(self._notify_interval_s)

    async def flush(self) -> None:
        """Tells the other servers of what they were not told yet. Best effort: the others look for themselves."""
        fleets, self._to_notify = self._to_notify, set()
        if fleets:
            with suppress(StoreFailed):
                await self._store.notify(fleets)

    def _notice(self) -> None:
        """In the event loop: something was committed."""
        # First this: what is added from now on calls again.
        self._noticed = False
        while self._committed:
            fleet = self._committed.popleft()
            self._to_notify.add(fleet)
            self._on_change(fleet)
        self._has_to_notify.set()
