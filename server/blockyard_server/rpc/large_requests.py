"""Large requests are parsed one by one, and few of them are under way: a small one may be next to any of them.

To parse a request holds the event loop up, and bytes that are cheap to send may be dear to parse: 1 MiB of empty
messages takes 60 ms and 30 MB. So each parse is followed by as much time for everybody else.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from google.protobuf.message import Message

from blockyard_server.engine.failures import Overloaded

LARGE_REQUEST_BYTES: Final = 64 * 1024
"""A request with more is large."""
MAX_UNDER_WAY: Final = 4
"""Large requests that are carried out at once."""
MAX_WAITING: Final = 64
"""Large requests that wait for that; one more is answered OVERLOADED. One tenant has at most half of these places."""


class LargeRequests:
    """The places of large requests, which tenants get in turn. For one event loop."""

    def __init__(self, max_under_way: int = MAX_UNDER_WAY, max_waiting: int = MAX_WAITING) -> None:
        self._free = max_under_way
        self._max_waiting = max_waiting
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By tenant; the one whose turn it is comes first."""
        self._parsing = asyncio.Lock()

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[None]:
        """One of the places, once it is the tenant's turn. Raises Overloaded if too many wait."""
        await self._take(tenant)
        try:
            yield
        finally:
            self._give_back()

    async def parse(self, parse: Callable[[bytes], Message], data: bytes) -> Message:
        """Parses, when no other large request is parsed, and after that waits for as long as it took."""
        async with self._parsing:
            began_s = time.perf_counter()
            request = parse(data)
            await asyncio.sleep(time.perf_counter() - began_s)
            return request

    async def _take(self, tenant: str) -> None:
        if self._free > 0:
            self._free -= 1
            return
        own = self._waiting.get(tenant, ())
        if sum(map(len, self._waiting.values())) >= self._max_waiting or len(own) >= max(1, self._max_waiting // 2):
            message = (
                f"requests of more than {LARGE_REQUEST_BYTES // 1024} KiB wait for their turn, as many as this server "
                "accepts; nothing was done, try again later, or ask for less at a time"
            )
            raise Overloaded(message, maximum=self._max_waiting)
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._leave(tenant, turn)
            else:
                self._give_back()
            raise

    def _leave(self, tenant: str, turn: asyncio.Future[None]) -> None:
        queue = self._waiting.get(tenant)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[tenant]

    def _give_back(self) -> None:
        while self._waiting:
            tenant, queue = next(iter(self._waiting.items()))
            turn = queue.popleft()
            del self._waiting[tenant]
            if queue:
                self._waiting[tenant] = queue  # at the end: the others first
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
