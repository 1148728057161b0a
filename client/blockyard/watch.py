"""A fleet's journal as it grows, for threads."""

import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeAlias

import grpc

from blockyard._failures import failure_of_error
from blockyard._fork import Origin
from blockyard._retry import RetryPolicy
from blockyard._watching import Follower, Subscription
from blockyard.errors import CallFailed
from blockyard.types import Event, WatchUpdate
from blockyard.v1 import allocator_pb2 as pb

OpenStream: TypeAlias = Callable[[pb.WatchRequest], tuple[Any, Callable[[CallFailed], bool]]]
"""Opens a stream. With it comes what asks, once it has failed, whether there are other credentials by now."""

_random = random.SystemRandom()


class Watch(Iterator[Event]):
    """What `Client.watch` returns: an iterator over the events, without an end of its own.

    A context manager; leaving it, or `close`, ends the stream. For one thread, but for `close`. It belongs to
    the process that made it: in a forked child a step raises `WrongProcess`.
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
        self._renew: Callable[[CallFailed], bool] = lambda _: False
        self._waiting: deque[Event] = deque()
        self._handed_out: int | None = None
        self._closed = threading.Event()

    @property
    def revision(self) -> int | None:
        """All matching events up to this revision have been handed out. None: nothing is known yet.

        To go on later, in another process, watch from the revision after it.
        """
        return self._handed_out

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """Waits for the next event; StopIteration once the watch is closed. Raises as `Client.watch` says."""
        self._origin.require("watch")
        while not self._waiting:
            update = self._receive()
            if update is None:
                raise StopIteration
            self._waiting.extend(update.events)
            if not update.events:
                self._handed_out = update.revision
        event = self._waiting.popleft()
        self._handed_out = event.revision if self._waiting else self._follower.revision
        return event

    def updates(self) -> Iterator[WatchUpdate]:
        """The same, answer by answer: several events at once, or none, and the revision up to which that is all.

        The first comes at once, and each interval of progress brings one.
        """
        while True:
            update = self._receive()
            if update is None:
                return
            self._handed_out = update.revision
            yield update

    def close(self) -> None:
        """Ends the stream, and the waiting of who iterates. From any thread, also twice. In a forked child: nothing."""
        if not self._origin.is_here:
            return
        self._closed.set()
        stream = self._stream
        if stream is not None:
            stream.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _drop_stream(self) -> None:
        if not self._origin.is_here:
            return
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()

    def _receive(self) -> WatchUpdate | None:
        """The next answer, of the next stream if need be; None once the watch is closed."""
        self._origin.require("watch")
        while not self._closed.is_set():
            try:
                if self._stream is None:
                    self._stream, self._renew = self._open_stream(self._follower.request())
                    if self._closed.is_set():
                        self._stream.cancel()  # `close` may have seen no stream
                answer = next(self._stream)
            except StopIteration:
                failure = self._follower.ended()
            except grpc.RpcError as error:
                failure = failure_of_error(error)
            except BaseException:
                # Interrupted, as by Ctrl-C: gRPC's stream is left in the middle of a step, and of no more use.
                self._drop_stream()
                raise
            else:
                return self._follower.received(answer)
            self._stream = None
            if not self._closed.is_set():
                renewed = self._renew(failure)
                self._closed.wait(self._follower.pause_s(failure, _random.random(), renewed=renewed))
        return None
