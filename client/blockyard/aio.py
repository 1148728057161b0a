"""The asyncio client."""

import asyncio
import os
import random
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import grpc
import grpc.aio

from blockyard import _channel, _watching
from blockyard._aio_methods import AsyncClientMethods
from blockyard._call import Call, Listing, Operation, Plan, T
from blockyard._channels import Channels, OpenedChannel
from blockyard._credentials import Credentials, is_refusal, may_be_about_credentials
from blockyard._failures import failure_of_error
from blockyard._fork import Origin
from blockyard._history import History
from blockyard._retry import DEFAULT_RETRY, Attempts, RetryPolicy, total_s
from blockyard._token import Bearer, Metadata
from blockyard._watching import Subscription
from blockyard.aio_lease import AsyncLease
from blockyard.aio_watch import AsyncWatch
from blockyard.credentials import Tls
from blockyard.errors import CallFailed, ClientClosed, WrongLoop
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
        token: What proves who you are, without `Bearer`. Or a function that returns it: it is called before the first
            call and, at most once a second, when a server no longer takes the token; in a thread, and its time is no
            part of `timeout_s`. A token is sent over TLS, to a Unix socket or to a loopback address.
        token_file: A file with the token, read now. It is looked at once a minute, and when a server no longer takes
            the token.
        tls: The connection is encrypted. None: plain text, unless there are `credentials`.
        credentials: gRPC's own, instead of `tls`.
        metadata: Sent with each call, besides.
        interceptors: gRPC's own, around each attempt of a call; the first is the outermost.

    Raises:
        InvalidTarget: The target is empty, or a list that is malformed, or none of its names has an address. They are
            looked up when the client is made: in an event loop, better give addresses.
        OSError: A file of the token or of `tls` cannot be read.
        ValueError: Something is empty or cannot be sent, arguments exclude each other, a file does not hold what it
            should, or the token would go over a network in plain text.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        caller: str | None = None,
        timeout_s: float = _channel.DEFAULT_TIMEOUT_S,
        retry: RetryPolicy = DEFAULT_RETRY,
        token: str | Callable[[], str] | None = None,
        token_file: str | os.PathLike[str] | None = None,
        tls: Tls | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
        interceptors: Sequence[grpc.aio.ClientInterceptor] = (),
    ) -> None:
        self._origin = Origin(self)
        given = Credentials(token=token, token_file=token_file, tls=tls, channel=credentials, metadata=metadata)
        self._connection = given.connection(target)
        self._several = self._connection.several
        self._identity = given.for_calls(self._connection.target, _channel.caller_metadata(caller))
        self._interceptors = tuple(interceptors)
        self._credentials = given.for_channel()
        self._channels: Channels[grpc.aio.Channel] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closings: set[asyncio.Task[None]] = set()
        self._timeout_s = timeout_s
        self._retry = retry
        self._history = History()
        self._closed = False
        # In a forked child, gRPC would cancel a call that is collected together with its task.
        self._under_way: set[object] = set()
        self._streams: weakref.WeakKeyDictionary[Any, grpc.aio.Channel] = weakref.WeakKeyDictionary()

    async def call(self, call: Call[T]) -> T:
        """Carries out one operation made by `blockyard.operations`, with retries.

        Raises:
            BlockyardError: As the function that made it says.
        """
        self._require_open()
        timeout_s = total_s(call, self._timeout_s if call.timeout_s is None else call.timeout_s)
        self._open_channels()
        metadata = await self._metadata()
        before = self._history.before(call.request)
        attempts = Attempts(call, self._retry, deadline=time.monotonic() + timeout_s, several=self._several)
        while True:
            channels = self._open_channels()
            opened = channels.enter()
            try:
                answer = await self._attempt(opened, call, attempts.timeout_s(time.monotonic()), metadata)
            except grpc.aio.AioRpcError as error:
                failure = failure_of_error(error, cancelled_here=self._closed)
            else:
                self._history.check(before, answer)
                return call.decode(answer)
            finally:
                if self._origin.is_here:
                    self._close_later(channels.leave(opened))
            renewed = await self._renew(failure, metadata, opened)
            await asyncio.sleep(attempts.pause_s(failure, time.monotonic(), _random.random(), renewed=renewed))
            self._origin.require("client")
            metadata = await self._metadata()

    async def _attempt(
        self, opened: OpenedChannel[grpc.aio.Channel], call: Call[Any], timeout_s: float, metadata: Metadata
    ) -> Any:
        attempt = self._stub(opened, call)(call.request, timeout=timeout_s, metadata=metadata)
        self._under_way.add(attempt)
        try:
            return await attempt
        finally:
            if self._origin.is_here:
                self._under_way.discard(attempt)

    async def close(self) -> None:
        """Ends the connection; calls that are under way fail. In a child of the process that made it: nothing.

        Call it in the event loop of the client's calls: in another one it raises `WrongLoop`, while that one lives.
        """
        has_loop = self._loop is not None and not self._loop.is_closed()
        channels = self._open_channels() if self._origin.is_here and has_loop else None
        self._closed = True
        if channels is not None:
            for channel in channels.all():
                await self._close_channel(channel)
            if self._closings:
                await asyncio.wait(self._closings)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def _open_watch(self, request: WatchRequest) -> tuple[Any, Callable[[CallFailed], Awaitable[bool]]]:
        self._require_open()
        self._open_channels()
        method = _watching.WATCH
        metadata = await self._metadata()
        self._require_open()
        # It is not counted: a watch whose channel is closed begins again on the new one.
        opened = self._open_channels().current
        stub: Any = opened.channel.unary_stream(method.path, _channel.serialize, method.answer.FromString)
        stream = stub(request, metadata=metadata)
        self._streams[stream] = opened.channel
        return stream, lambda failure: self._renew(failure, metadata, opened)

    async def _metadata(self) -> Metadata:
        identity = self._identity
        if not isinstance(identity, Bearer):
            return identity
        return await asyncio.to_thread(identity.metadata) if identity.may_wait else identity.metadata()

    async def _renew(self, failure: CallFailed, metadata: Metadata, opened: OpenedChannel[grpc.aio.Channel]) -> bool:
        """Whether there are other credentials by now than those that a failed call was made with."""
        channels, identity = self._channels, self._identity
        if channels is None or self._closed or not may_be_about_credentials(failure):
            return False
        self._close_later(channels.replace())
        token_is_new = False
        if isinstance(identity, Bearer) and is_refusal(failure):
            waits = identity.renewal_may_wait
            token_is_new = await asyncio.to_thread(identity.renew, metadata) if waits else identity.renew(metadata)
        return token_is_new or opened is not channels.current

    def _require_open(self) -> None:
        self._origin.require("client")
        if self._closed:
            raise ClientClosed("the client is closed")

    def _open_channels(self) -> Channels[grpc.aio.Channel]:
        """The channels, made in the event loop of the first call."""
        loop = asyncio.get_running_loop()
        if self._channels is None:
            self._loop = loop
            self._channels = Channels(self._open_channel, self._credentials)
        elif self._loop is not loop:
            raise WrongLoop("this client was used in another event loop before: make an AsyncClient for each loop")
        if self._channels.look_is_due and not self._closed:
            self._close_later(self._channels.replace())
        return self._channels

    def _open_channel(self, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        target, options = self._connection.target, self._connection.options
        interceptors = self._interceptors or None
        if credentials is None:
            return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
        return grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)

    def _close_later(self, channels: Iterable[grpc.aio.Channel]) -> None:
        for channel in channels:
            closing = asyncio.create_task(self._close_channel(channel), name="blockyard-close-channel")
            self._closings.add(closing)
            closing.add_done_callback(self._closings.discard)

    async def _close_channel(self, channel: grpc.aio.Channel) -> None:
        # Older gRPC finds the calls that it has to end in the frames of the loop's tasks, and misses these.
        for stream in [stream for stream, its_channel in self._streams.items() if its_channel is channel]:
            stream.cancel()
        await channel.close()

    @staticmethod
    def _stub(opened: OpenedChannel[grpc.aio.Channel], call: Call[Any]) -> "grpc.aio.UnaryUnaryMultiCallable[Any, Any]":
        stub: grpc.aio.UnaryUnaryMultiCallable[Any, Any] | None = opened.stubs.get(call.path)
        if stub is None:
            stub = opened.channel.unary_unary(call.path, _channel.serialize, call.answer.FromString)
            opened.stubs[call.path] = stub
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
