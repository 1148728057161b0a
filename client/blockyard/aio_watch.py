"""A fleet's journal as it grows, for asyncio."""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self, TypeAlias

import grpc.aio

from blockyard._failures import failure_of_error
from blockyard._fork import Origin
from blockyard._retry import RetryPolicy
from blockyard._watching import Follower, Subscription
from blockyard.errors import CallFailed
from blockyard.types import Event, WatchUpdate
from blockyard.v1 import allocator_pb2 as pb

OpenStream: TypeAlias = Callable[[pb.WatchRequest], Awaitable[tuple[Any, Callable[[CallFailed], Awaitable[bool]]]]]
"""Opens a stream. With it comes what asks, once it has failed, whether there are other credentials by now."""

_random = random.SystemRandom()


class AsyncWatch(AsyncIterator[Event]):
    """What `AsyncClient.watch` returns: an iterator over the events, without an end of its own.

    An async context manager; leaving it, or `close`, ends the stream. A step that is cancelled loses nothing: the next
    one goes on where it was. It belongs to the process that made it: in a forked child a step raises `WrongProcess`.
    """

    def __init__(
        self,
        subscription: Subscription[Event],
        open_stream: OpenStream,
        policy: RetryPolicy,
        *,
        several: bool,
    ) -> None:
        self._origin = Origin(self)
        self._follower = Follower(subscription, policy, several=several)
        self._open_stream = open_stream
        self._stream: Any = None
        self._renew: Callable[[CallFailed], Awaitable[bool]] | None = None
        self._waiting: deque[Event] = deque()
        self._handed_out: int | None = None
        self._closed = asyncio.Event()

    @property
    def revision(self) -> int | None:
        """All matching events up to this revision have been handed out. None: nothing is known yet.

        To go on later, in another process, watch from the revision after it.
        """
        return self._handed_out

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """Waits for the next event; StopAsyncIteration once the watch is closed. Raises as `AsyncClient.watch` says."""
        self._origin.require("watch")
        while not self._waiting:
            update = await self._receive()
            if update is None:
                raise StopAsyncIteration
            self._waiting.extend(update.events)
            if not update.events:
                self._handed_out = update.revision
        event = self._waiting.popleft()
        self._handed_out = event.revision if self._waiting else self._follower.revision
        return event

    async def updates(self) -> AsyncIterator[WatchUpdate]:
        """The same, answer by answer: several events at once, or none, and the revision up to which that is all.

        The first comes at once, and each interval of progress brings one.
        """
        while True:
            update = await self._receive()
            if update is None:
                return
            self._handed_out = update.revision
            yield update

    async def close(self) -> None:
        """Ends the stream, and the waiting of who iterates. Also twice. In a forked child: nothing."""
        if not self._origin.is_here:
            return
        self._closed.set()
        if self._stream is not None:
            self._stream.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _receive(self) -> WatchUpdate | None:
        """The next answer, of the next stream if need be; None once the watch is closed."""
        self._origin.require("watch")
        while not self._closed.is_set():
            if self._stream is None:
                stream, self._renew = await self._open_stream(self._follower.request())
                if self._closed.is_set():
                    stream.cancel()  # `close` has seen no stream
                    return None
                self._stream = stream
            try:
                answer = await self._stream.read()
                if answer is not grpc.aio.EOF:
                    return self._follower.received(answer)
                failure = self._follower.ended()
            except grpc.aio.AioRpcError as error:
                failure = failure_of_error(error)
            except asyncio.CancelledError:
                # Somebody cancelled this step, or (by `close`, or the client's) the stream. gRPC ends it in both cases.
                if not self._origin.is_here:
                    raise
                if _is_being_cancelled():
                    self._stream = None
                    raise
                failure = self._follower.ended()
            self._stream = None
            if not self._closed.is_set():
                renewed = self._renew is not None and await self._renew(failure)
                await self._pause(self._follower.pause_s(failure, _random.random(), renewed=renewed))
        return None

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._closed.wait()
        except TimeoutError:
            return


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
