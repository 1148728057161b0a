"""The blocking client."""

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeAlias

import grpc

from blockyard import _channel, _watching
from blockyard._call import Call, Listing, Operation, Plan, T
from blockyard._channels import Channels, OpenedChannel
from blockyard._client_methods import ClientMethods
from blockyard._credentials import Credentials, is_refusal, may_be_about_credentials
from blockyard._failures import failure_of_error
from blockyard._fork import Origin
from blockyard._history import History
from blockyard._retry import DEFAULT_RETRY, Attempts, RetryPolicy, total_s
from blockyard._token import Bearer, Metadata
from blockyard._watching import Subscription
from blockyard.credentials import Tls
from blockyard.errors import CallFailed, ClientClosed
from blockyard.lease import Lease
from blockyard.types import Event, Grant
from blockyard.v1.allocator_pb2 import WatchRequest
from blockyard.watch import Watch

Interceptor: TypeAlias = grpc.UnaryUnaryClientInterceptor | grpc.UnaryStreamClientInterceptor

_random = random.SystemRandom()


class Client(ClientMethods):
    """A connection to a Blockyard server, for threads. Safe to share among them.

    A context manager; leaving it, or `close`, ends the connection. After a fork the client belongs to the parent. In
    the child every call raises `WrongProcess`, and `close` does nothing.

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
            call and, at most once a second, when a server no longer takes the token; its time is no part of
            `timeout_s`. A token is sent over TLS, to a Unix socket or to a loopback address.
        token_file: A file with the token, read now. It is looked at once a minute, and when a server no longer takes
            the token.
        tls: The connection is encrypted. None: plain text, unless there are `credentials`.
        credentials: gRPC's own, instead of `tls`.
        metadata: Sent with each call, besides.
        interceptors: gRPC's own, around each attempt of a call; the first is the outermost.

    Raises:
        InvalidTarget: The target is empty, or a list that is malformed, or none of its names has an address. They are
            looked up when the client is made.
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
        interceptors: Sequence[Interceptor] = (),
    ) -> None:
        self._origin = Origin(self)
        given = Credentials(token=token, token_file=token_file, tls=tls, channel=credentials, metadata=metadata)
        self._connection = given.connection(target)
        self._several = self._connection.several
        self._identity = given.for_calls(self._connection.target, _channel.caller_metadata(caller))
        self._interceptors = tuple(interceptors)
        self._channels = Channels(self._open_channel, given.for_channel())
        self._timeout_s = timeout_s
        self._retry = retry
        self._history = History()
        self._closed = False

    def call(self, call: Call[T]) -> T:
        """Carries out one operation made by `blockyard.operations`, with retries.

        Raises:
            BlockyardError: As the function that made it says.
        """
        self._require_open()
        timeout_s = total_s(call, self._timeout_s if call.timeout_s is None else call.timeout_s)
        metadata = self._metadata()
        before = self._history.before(call.request)
        attempts = Attempts(call, self._retry, deadline=time.monotonic() + timeout_s, several=self._several)
        while True:
            opened = self._enter_channel()
            try:
                stub = self._stub(opened, call)
                answer = stub(call.request, timeout=attempts.timeout_s(time.monotonic()), metadata=metadata)
            except grpc.RpcError as error:
                failure = failure_of_error(error, cancelled_here=self._closed)
            else:
                self._history.check(before, answer)
                return call.decode(answer)
            finally:
                self._close_channels(self._channels.leave(opened))
            renewed = self._renew(failure, metadata, opened)
            time.sleep(attempts.pause_s(failure, time.monotonic(), _random.random(), renewed=renewed))
            self._origin.require("client")
            metadata = self._metadata()

    def close(self) -> None:
        """Ends the connection; calls that are under way fail. In a child of the process that made it: nothing."""
        self._closed = True
        if self._origin.is_here:
            self._close_channels(self._channels.all())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open_watch(self, request: WatchRequest) -> tuple[Any, Callable[[CallFailed], bool]]:
        self._require_open()
        method = _watching.WATCH
        metadata = self._metadata()
        opened = self._enter_channel()
        try:
            stub: Any = opened.channel.unary_stream(method.path, _channel.serialize, method.answer.FromString)
            stream = stub(request, metadata=metadata)
        finally:
            # It is not waited for: a watch whose channel is closed begins again on the new one.
            self._close_channels(self._channels.leave(opened))
        return stream, lambda failure: self._renew(failure, metadata, opened)

    def _metadata(self) -> Metadata:
        return self._identity.metadata() if isinstance(self._identity, Bearer) else self._identity

    def _enter_channel(self) -> OpenedChannel[grpc.Channel]:
        if self._channels.look_is_due:
            self._close_channels(self._channels.replace())
        return self._channels.enter()

    def _renew(self, failure: CallFailed, metadata: Metadata, opened: OpenedChannel[grpc.Channel]) -> bool:
        """Whether there are other credentials by now than those that a failed call was made with."""
        if self._closed or not may_be_about_credentials(failure):
            return False
        self._close_channels(self._channels.replace())
        token_is_new = isinstance(self._identity, Bearer) and is_refusal(failure) and self._identity.renew(metadata)
        return token_is_new or opened is not self._channels.current

    def _open_channel(self, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
        target, options = self._connection.target, self._connection.options
        channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        return grpc.intercept_channel(channel, *self._interceptors) if self._interceptors else channel

    @staticmethod
    def _close_channels(channels: Iterable[grpc.Channel]) -> None:
        for channel in channels:
            channel.close()

    def _require_open(self) -> None:
        self._origin.require("client")
        if self._closed:
            raise ClientClosed("the client is closed")

    @staticmethod
    def _stub(opened: OpenedChannel[grpc.Channel], call: Call[Any]) -> "grpc.UnaryUnaryMultiCallable[Any, Any]":
        stub: grpc.UnaryUnaryMultiCallable[Any, Any] | None = opened.stubs.get(call.path)
        if stub is None:
            stub = opened.channel.unary_unary(call.path, _channel.serialize, call.answer.FromString)
            opened.stubs[call.path] = stub
        return stub

    def _carry_out(self, plan: Plan[T]) -> T:
        answer: Any = None
        while True:
            try:
                call = plan.send(answer)
            except StopIteration as end:
                value: T = end.value
                return value
            answer = self.call(call)

    def _items(self, listing: Listing[T]) -> Iterator[T]:
        page = self.call(listing.page(""))
        yield from page.items
        while page.next_page_token:
            page = self.call(listing.page(page.next_page_token))
            yield from page.items

    def _new_lease(self, acquire: Operation[Grant]) -> Lease:
        return Lease(self, acquire)

    def _new_watch(self, subscription: Subscription[Event]) -> Watch:
        return Watch(subscription, self._open_watch, self._retry, several=self._several)
