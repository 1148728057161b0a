"""One way to use either client for several steps: what a test does with `Client`, it does with `AsyncClient` too."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from blockyard import AsyncClient, Client, WatchUpdate
from blockyard._call import Call

T = TypeVar("T")
BOUND_S = 60.0


class Steps(ABC):
    """A client that is open."""

    @abstractmethod
    def call(self, call: Call[T]) -> T:
        """Carries a call out; from any thread."""

    @abstractmethod
    def updates(self, fleet: str, **asked: Any) -> AbstractContextManager[Iterator[WatchUpdate]]:
        """Follows a fleet, answer by answer, until the block ends."""


Connect = Callable[..., Any]
"""Opens a client: `with connect(target, **options) as steps`."""


class _Blocking(Steps):
    def __init__(self, client: Client) -> None:
        self._client = client

    def call(self, call: Call[T]) -> T:
        return self._client.call(call)

    @contextmanager
    def updates(self, fleet: str, **asked: Any) -> Iterator[Iterator[WatchUpdate]]:
        with self._client.watch(fleet, **asked) as watch:
            yield watch.updates()


class _Awaiting(Steps):
    def __init__(self, client: AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def call(self, call: Call[T]) -> T:
        return self._done(self._client.call(call))

    @contextmanager
    def updates(self, fleet: str, **asked: Any) -> Iterator[Iterator[WatchUpdate]]:
        watch = self._client.watch(fleet, **asked)
        updates = watch.updates()

        async def step() -> WatchUpdate:
            return await anext(updates)

        try:
            yield iter(lambda: self._done(step()), None)
        finally:
            self._done(watch.close())

    def _done(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(BOUND_S)


@contextmanager
def blocking(target: str, **options: Any) -> Iterator[Steps]:
    """`Client`."""
    with Client(target, **{"timeout_s": 20, **options}) as client:
        yield _Blocking(client)


@contextmanager
def awaiting(target: str, **options: Any) -> Iterator[Steps]:
    """`AsyncClient`, in an event loop that runs in a thread."""
    client = AsyncClient(target, **{"timeout_s": 20, **options})
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield _Awaiting(client, loop)
        asyncio.run_coroutine_threadsafe(client.close(), loop).result(BOUND_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
