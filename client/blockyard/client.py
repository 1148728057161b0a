"""The blocking client."""

import random
import time
from collections.abc import Iterator
from typing import Any, Self

import grpc

from blockyard import _channel, _watching
from blockyard._call import Call, Listing, Operation, Plan, T
from blockyard._client_methods import ClientMethods
from blockyard._failures import failure_of_error
from blockyard._fork import Origin
from blockyard._retry import DEFAULT_RETRY, Attempts, RetryPolicy, total_s
from blockyard._watching import Subscription
from blockyard.errors import ClientClosed
from blockyard.lease import Lease
from blockyard.types import Event, Grant
from blockyard.v1.allocator_pb2 import WatchRequest
from blockyard.watch import Watch

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
        credentials: For TLS. None: plain text.

    Raises:
        InvalidTarget: The target is empty, or a list that is malformed, or none of its names has an address. They are
            looked up when the client is made.
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
        connection = _channel.connection(target)
        self._several = connection.several
        self._channel = (
            grpc.insecure_channel(connection.target, connection.options)
            if credentials is None
            else grpc.secure_channel(connection.target, credentials, connection.options)
        )
        self._metadata = _channel.caller_metadata(caller)
        self._timeout_s = timeout_s
        self._retry = retry
        self._closed = False
        self._stubs: dict[str, grpc.UnaryUnaryMultiCallable[Any, Any]] = {}

    def call(self, call: Call[T]) -> T:
        """Carries out one operation made by `blockyard.operations`, with retries.

        Raises:
            BlockyardError: As the function that made it says.
        """
        self._require_open()
        timeout_s = total_s(call, self._timeout_s if call.timeout_s is None else call.timeout_s)
        attempts = Attempts(call, self._retry, deadline=time.monotonic() + timeout_s, several=self._several)
        stub = self._stub(call)
        while True:
            try:
                answer = stub(call.request, timeout=attempts.timeout_s(time.monotonic()), metadata=self._metadata)
            except grpc.RpcError as error:
                failure = failure_of_error(error, cancelled_here=self._closed)
            else:
                return call.decode(answer)
            time.sleep(attempts.pause_s(failure, time.monotonic(), _random.random()))
            self._origin.require("client")

    def close(self) -> None:
        """Ends the connection; calls that are under way fail. In a child of the process that made it: nothing."""
        self._closed = True
        if self._origin.is_here:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _open_watch(self, request: WatchRequest) -> Any:
        self._require_open()
        method = _watching.WATCH
        stub: Any = self._channel.unary_stream(method.path, _channel.serialize, method.answer.FromString)
        return stub(request, metadata=self._metadata)

    def _require_open(self) -> None:
        self._origin.require("client")
        if self._closed:
            raise ClientClosed("the client is closed")

    def _stub(self, call: Call[Any]) -> "grpc.UnaryUnaryMultiCallable[Any, Any]":
        stub = self._stubs.get(call.path)
        if stub is None:
            stub = self._channel.unary_unary(call.path, _channel.serialize, call.answer.FromString)
            self._stubs[call.path] = stub
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
