"""The asyncio client."""

import asyncio
import random
import time
import weakref
from collections.abc import AsyncIterator
from typing import Any, Self

import grpc
import grpc.aio

from blockyard import _channel, _watching
from blockyard._aio_methods import AsyncClientMethods
from blockyard._call import Call, Listing, Operation, Plan, T
from blockyard._failures import failure_of_error
from blockyard._fork import Origin
from blockyard._retry import DEFAULT_RETRY, Attempts, RetryPolicy, total_s
from blockyard._watching import Subscription
from blockyard.aio_lease import AsyncLease
from blockyard.aio_watch import AsyncWatch
from blockyard.errors import ClientClosed, WrongLoop
from blockyard.types import Event, Grant
from blockyard.v1.allocator_pb2 import WatchRequest

_random = random.SystemRandom()


class AsyncClient(AsyncClientMethods):
    """A connection to a Blockyard server, for asyncio.

    It may be made before an event loop runs, and belongs to the loop of its first call: in another one, every call
    raises `WrongLoop`. An async context manager; leaving it, or `close`, ends the connection. After a fork it is the
    parent's: in the child every call raises `WrongProcess`, and `close` does nothing.

    Args:
        target: The server's address, `HOST:PORT`. Several servers that share a database, as
            `HOST:PORT,HOST:PORT,…` or as one name with several addresses, `dns:///HOST:PORT`: calls go round over
            those that serve. None: the environment's BLOCKYARD_ADDRESS, else 127.0.0.1:7350.
        caller: The scope of your idempotency tokens, of the form of an id: schedulers that share a fleet choose
            different ones. None: the environment's BLOCKYARD_CALLER, else the server's `default`.
        timeout_s: How long a call may take in all, retries included, unless the call says otherwise. For a change at
            most five minutes: after that a server may have forgotten its token.
        retry: How long to wait between attempts.
        credentials: For TLS. None: plain text.

    Raises:
        InvalidTarget: The target is empty, or a list that is malformed, or none of its names has an address. They are
            looked up when the client is made: in an event loop, better give addresses.
        ValueError: The caller is empty.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        caller: str | None = None,
        timeout_s: float = _channel.DEFAULT_TIMEOUT_S,
        retry: RetryPolicy = DEFAULT_RETRY,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self._origin = Origin(self)
        self._connection = _channel.connection(target)
        self._credentials = credentials
        self._several = self._connection.several
        self._channel: grpc.aio.Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._metadata = _channel.caller_metadata(caller)
        self._timeout_s = timeout_s
        self._retry = retry
        self._closed = False
        # In a forked child, gRPC would cancel a call that is collected together with its task.
        self._under_way: set[object] = set()
        self._streams: weakref.WeakSet[Any] = weakref.WeakSet()
        self._stubs: dict[str, grpc.aio.UnaryUnaryMultiCallable[Any, Any]] = {}

    async def call(self, call: Call[T]) -> T:
        """Carries out one operation made by `blockyard.operations`, with retries.

        Raises:
            BlockyardError: As the function that made it says.
        """
        self._require_open()
        timeout_s = total_s(call, self._timeout_s if call.timeout_s is None else call.timeout_s)
        attempts = Attempts(call, self._retry, deadline=time.monotonic() + timeout_s, several=self._several)
        stub = self._stub(call)
        while True:
            attempt = stub(call.request, timeout=attempts.timeout_s(time.monotonic()), metadata=self._metadata)
            self._under_way.add(attempt)
            try:
                answer = await attempt
            except grpc.aio.AioRpcError as error:
                failure = failure_of_error(error, cancelled_here=self._closed)
            else:
                return call.decode(answer)
            finally:
                if self._origin.is_here:
                    self._under_way.discard(attempt)
            await asyncio.sleep(attempts.pause_s(failure, time.monotonic(), _random.random()))
            self._origin.require("client")

    async def close(self) -> None:
        """Ends the connection; calls that are under way fail. In a child of the process that made it: nothing.

        Call it in the event loop of the client's calls: in another one it raises `WrongLoop`, while that one lives.
        """
        has_loop = self._loop is not None and not self._loop.is_closed()
        channel = self._open_channel() if self._origin.is_here and has_loop else None
        self._closed = True
        if channel is not None:
            # Older gRPC finds the calls that it has to end in the frames of the loop's tasks, and misses these.
            for stream in tuple(self._streams):
                stream.cancel()
            await channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def _open_watch(self, request: WatchRequest) -> Any:
        self._require_open()
        method = _watching.WATCH
        stub: Any = self._open_channel().unary_stream(method.path, _channel.serialize, method.answer.FromString)
        stream = stub(request, metadata=self._metadata)
        self._streams.add(stream)
        return stream

    def _require_open(self) -> None:
        self._origin.require("client")
        if self._closed:
            raise ClientClosed("the client is closed")

    def _open_channel(self) -> grpc.aio.Channel:
        """The channel, made in the event loop of the first call."""
        loop = asyncio.get_running_loop()
        if self._channel is None:
            target, options = self._connection.target, self._connection.options
            self._loop = loop
            self._channel = (
                grpc.aio.insecure_channel(target, options=options)
                if self._credentials is None
                else grpc.aio.secure_channel(target, self._credentials, options=options)
            )
        elif self._loop is not loop:
            raise WrongLoop("this client was used in another event loop before: make an AsyncClient for each loop")
        return self._channel

    def _stub(self, call: Call[Any]) -> "grpc.aio.UnaryUnaryMultiCallable[Any, Any]":
        channel = self._open_channel()
        stub = self._stubs.get(call.path)
        if stub is None:
            stub = channel.unary_unary(call.path, _channel.serialize, call.answer.FromString)
            self._stubs[call.path] = stub
        return stub

    async def _carry_out(self, plan: Plan[T]) -> T:
        answer: Any = None
        while True:
            try:
                call = plan.send(answer)
            except StopIteration as end:
                value: T = end.value
                return value
            answer = await self.call(call)

    async def _items(self, listing: Listing[T]) -> AsyncIterator[T]:
        page = await self.call(listing.page(""))
        for item in page.items:
            yield item
        while page.next_page_token:
            page = await self.call(listing.page(page.next_page_token))
            for item in page.items:
                yield item

    def _new_lease(self, acquire: Operation[Grant]) -> AsyncLease:
        return AsyncLease(self, acquire)

    def _new_watch(self, subscription: Subscription[Event]) -> AsyncWatch:
        return AsyncWatch(subscription, self._open_watch, self._retry, several=self._several)
