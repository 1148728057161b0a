"""A small Blockyard behind a real gRPC server, whose answers can be refused, lost, stalled or delayed on purpose.

It keeps just enough state to tell what is held: tokens, grants, cancellations. Everything else is answered from what
a test has prepared with `answers`.
"""

import asyncio
import atexit
import faulthandler
import threading
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache, partial
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from blockyard.reasons import DOMAIN, REASONS, Reason
from blockyard.v1 import access_pb2, allocator_pb2, fleet_admin_pb2, ledger_pb2, resources_pb2

T = TypeVar("T")
SERVER_TIME = Timestamp(seconds=1_800_000_000)


def error_status(
    reason: Reason, message: str = "", *, retry_after_s: float = 0, bad_fields: tuple[str, ...] = (), **metadata: str
) -> Status:
    """The status of a refusal, with its details, as the server makes it."""
    details: list[Message] = [ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)]
    if retry_after_s:
        details.append(RetryInfo(retry_delay=timedelta(seconds=retry_after_s)))
    if bad_fields:
        details.append(BadRequest(field_violations=[{"field": name, "description": "bad"} for name in bad_fields]))
    packed = []
    for detail in details:
        packed.append(AnyMessage())
        packed[-1].Pack(detail)
    return Status(code=Code.Value(REASONS[reason].status), message=message or f"refused: {reason}", details=packed)


@dataclass(frozen=True)
class Refused:
    """Is answered with this error, and not carried out."""

    reason: Reason
    retry_after_s: float = 0


@dataclass(frozen=True)
class Broken:
    """A bare status, as a transport makes it. With `after`, the request was carried out before: the answer is lost."""

    status: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    after: bool = False


@dataclass(frozen=True)
class Silent:
    """Never answered. With `after`, the request was carried out; without, `deliver_late` carries it out."""

    after: bool = False


@dataclass(frozen=True)
class Ended:
    """A stream ends well, as only a proxy would end it."""


@dataclass(frozen=True)
class Held:
    """Answered once the test says so."""

    until: threading.Event = field(default_factory=threading.Event)


Disturbance = Refused | Broken | Silent | Held


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    certificate: frozenset[str] = frozenset()
    """The names in the client's certificate; empty: it has none."""


class RefusalError(Exception):
    """The fake's way to answer with an error."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.message)
        self.status = status


@dataclass
class FakeServer:
    """What the tests hold in their hands."""

    ttl_s: float | None = None
    """The lease that is granted. None: held until released."""
    target: str = ""
    tokens: set[str] | None = None
    """Whoever has one of these may come in. None: everybody."""
    seen: list[Seen] = field(default_factory=list)
    held: dict[str, resources_pb2.Allocation] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    health: "health.aio.HealthServicer | None" = None
    """Its health service, once it serves."""
    _answers: dict[str, Callable[[Any], Message]] = field(default_factory=dict)
    _disturbances: dict[str, deque[Disturbance]] = field(default_factory=lambda: defaultdict(deque))
    _left: list[str] = field(default_factory=list)
    """The method of each stream that has ended, whoever ended it."""
    _scripts: dict[str, deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    _delayed: list[Any] = field(default_factory=list)
    _arrived: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.answers("Acquire", self._acquire)
        self.answers("Release", self._release)
        self.answers("Renew", self._renew)

    def answers(self, method: str, answer: Message | Callable[[Any], Message]) -> None:
        """From now on, this is what the method answers."""
        self._answers[method] = answer if callable(answer) else lambda _: answer

    def disturb(self, method: str, *disturbances: Disturbance) -> None:
        """The next requests of this method meet these, one each."""
        self._disturbances[method].extend(disturbances)

    def stop_serving(self) -> None:
        """From now on its health is NOT_SERVING, and whoever watches it hears that."""
        assert self.health is not None, "it never served"
        carried_out(self.health.set("", health_pb2.HealthCheckResponse.NOT_SERVING))

    def refuse(self, status: Status) -> Message:
        """As an answer: this error."""
        raise RefusalError(status)

    def shut_down(self, retry_after_s: float) -> None:
        """From now on it refuses everything, as a server that is stopping."""
        status = error_status(Reason.SHUTTING_DOWN, retry_after_s=retry_after_s)
        for method in ("Acquire", "Release", "Renew", "GetAllocation"):
            self.answers(method, lambda _: self.refuse(status))

    def requests(self, method: str) -> list[Any]:
        """What was asked of this method so far."""
        return [seen.request for seen in self.seen if seen.method == method]

    def wait_for(self, method: str, count: int = 1) -> None:
        """Returns when so many requests of this method have arrived."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.requests(method)) >= count, timeout=30), method

    def deliver_late(self) -> list[str]:
        """Carries out the acquires that a `Silent` held back; answers the reason of each refusal."""
        refusals = []
        for request in self._delayed:
            try:
                self._acquire(request)
            except RefusalError as refusal:
                info = ErrorInfo()
                refusal.status.details[0].Unpack(info)
                refusals.append(info.reason)
        return refusals

    def streams(self, method: str, *scripts: "Sequence[Message | Refused | Broken | Ended]") -> None:
        """The next streams of this method send these messages, one script each.

        A script's disturbance ends its stream; a stream whose script is over, or that has none, stays open.
        """
        self._scripts[method].extend(scripts)

    def wait_until_left(self, method: str, count: int = 1) -> None:
        """Returns when so many streams of this method have ended."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self._left.count(method) >= count, timeout=30), method

    def _note(self, method: str, request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        names = frozenset(name.decode() for name in context.auth_context().get("x509_subject_alternative_name", ()))
        with self._arrived:
            self.seen.append(Seen(method, request, dict(context.invocation_metadata() or ()), names))
            self._arrived.notify_all()

    async def _require_known(self, context: "grpc.aio.ServicerContext[Any, Any]") -> None:
        """Refuses a call without one of the tokens, as the server does."""
        said = dict(context.invocation_metadata() or ()).get("authorization", "")
        if self.tokens is not None and said not in {f"Bearer {token}" for token in self.tokens}:
            status = error_status(Reason.UNAUTHENTICATED, "who is this?", scheme="bearer")
            await context.abort_with_status(rpc_status.to_status(status))

    def _leave(self, method: str) -> None:
        with self._arrived:
            self._left.append(method)
            self._arrived.notify_all()

    async def _stream(
        self, method: str, request: Any, context: "grpc.aio.ServicerContext[Any, Any]"
    ) -> AsyncIterator[Message]:
        self._note(method, request, context)
        try:
            await self._require_known(context)
            async for message in self._play(method, context):
                yield message
        finally:
            self._leave(method)

    async def _play(self, method: str, context: "grpc.aio.ServicerContext[Any, Any]") -> AsyncIterator[Message]:
        for step in self._scripts[method].popleft() if self._scripts[method] else ():
            match step:
                case Refused(reason, retry_after_s):
                    status = error_status(reason, retry_after_s=retry_after_s)
                    await context.abort_with_status(rpc_status.to_status(status))
                case Broken(code):
                    await context.abort(code, "the transport broke")
                case Ended():
                    return
                case message:
                    yield message
        await asyncio.Event().wait()

    async def _serve(self, method: str, request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Message:
        self._note(method, request, context)
        await self._require_known(context)
        disturbance = self._disturbances[method].popleft() if self._disturbances[method] else None
        if isinstance(disturbance, Broken | Silent) and disturbance.after:
            self._answers[method](request)
        match disturbance:
            case Refused(reason, retry_after_s):
                status = error_status(reason, retry_after_s=retry_after_s)
                await context.abort_with_status(rpc_status.to_status(status))
            case Broken(code):
                await context.abort(code, "the transport broke")
            case Silent(after):
                self._delayed += [] if after else [request]
                await asyncio.Event().wait()
            case Held(until):
                await asyncio.to_thread(until.wait)
            case None:
                pass
        try:
            return self._answers[method](request)
        except RefusalError as refusal:
            await context.abort_with_status(rpc_status.to_status(refusal.status))
            raise AssertionError from refusal

    def _acquire(self, request: allocator_pb2.AcquireRequest) -> Message:
        token = request.idempotency_token
        if token in self.cancelled:
            raise RefusalError(error_status(Reason.TOKEN_CANCELLED))
        replayed = token in self.held
        if not replayed:
            self.held[token] = self._allocation(request, number=len(self.seen))
        return allocator_pb2.AcquireResponse(
            allocation=self.held[token], revision=7, server_time=SERVER_TIME, replayed=replayed
        )

    def _release(self, request: allocator_pb2.ReleaseRequest) -> Message:
        outcomes = allocator_pb2.ReleaseResponse.Outcome
        tokens = [each.idempotency_token for each in self.held.values() if each.name == request.name]
        token = request.idempotency_token or "".join(tokens)
        allocation = self.held.pop(token, None)
        if allocation is not None:
            outcome = outcomes.RELEASED
        elif request.name:
            outcome = outcomes.ALREADY_RELEASED
        else:
            self.cancelled.add(token)
            outcome = outcomes.CANCELLED_BEFORE_GRANT
        return allocator_pb2.ReleaseResponse(
            outcome=outcome, allocation=allocation, revision=7, server_time=SERVER_TIME
        )

    def _renew(self, request: allocator_pb2.RenewRequest) -> Message:
        for allocation in self.held.values():
            if allocation.name == request.name:
                return allocator_pb2.RenewResponse(allocation=allocation, revision=7, server_time=SERVER_TIME)
        raise RefusalError(error_status(Reason.ALLOCATION_ENDED))

    def _allocation(self, request: allocator_pb2.AcquireRequest, *, number: int) -> resources_pb2.Allocation:
        allocation = resources_pb2.Allocation(
            name=f"{request.fleet}/allocations/{number}",
            holder=request.holder,
            state=resources_pb2.Allocation.HELD,
            placements=[resources_pb2.Placement(instance=f"{request.fleet}/instances/node-1", blocks=[0, 1])],
            fencing_token=number,
            revision=number,
            grant_time=SERVER_TIME,
            annotations=request.annotations,
            idempotency_token=request.idempotency_token,
        )
        if self.ttl_s is not None:
            allocation.ttl.FromMicroseconds(round(self.ttl_s * 1e6))
            allocation.expire_time.FromMicroseconds(SERVER_TIME.ToMicroseconds() + round(self.ttl_s * 1e6))
        return allocation


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all fake servers of this process, in a thread of its own.

    One for all: grpc.aio wakes every loop of a process by one poller, which is made anew when the last loop has gone.
    With a loop for each server, a call once got no answer while one loop went and the next came.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake-servers", daemon=True)
    thread.start()
    kept = asyncio.run_coroutine_threadsafe(_stay(), loop).result(timeout=30)

    def end() -> None:
        asyncio.run_coroutine_threadsafe(kept.stop(None), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()

    atexit.register(end)
    return loop


async def _stay() -> grpc.aio.Server:
    """A server that keeps the poller: as long as it is there, none is made anew."""
    server = grpc.aio.server()
    await server.start()
    return server


def carried_out(work: Coroutine[Any, Any, T]) -> T:
    """Its result, once the loop of the fake servers has carried it out. Raises AssertionError with where it stands."""
    result = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return result.result(timeout=30)
    except TimeoutError:
        faulthandler.dump_traceback()
        raise AssertionError("the loop of the fake servers has carried nothing out for 30 s") from None


@contextmanager
def serving(
    fake: FakeServer, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> Iterator[FakeServer]:
    """Serves it on a free port, or where it is told to; with TLS if there are credentials."""
    server = carried_out(_start(fake, address, credentials))
    try:
        yield fake
    finally:
        carried_out(server.stop(None))


async def _start(fake: FakeServer, address: str, credentials: grpc.ServerCredentials | None) -> grpc.aio.Server:
    server = grpc.aio.server()
    for module in (access_pb2, allocator_pb2, fleet_admin_pb2, ledger_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            handlers = {method.name: _handler(fake, method) for method in service.methods}
            server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service.full_name, handlers)])
    fake.health = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(fake.health, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    fake.target = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    await server.start()
    return server


def _handler(fake: FakeServer, method: MethodDescriptor) -> "grpc.RpcMethodHandler[Any, Any]":
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(
            partial(fake._stream, method.name),
            request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
            response_serializer=lambda answer: answer.SerializeToString(),
        )
    return grpc.unary_unary_rpc_method_handler(
        partial(fake._serve, method.name),
        request_deserializer=message_factory.GetMessageClass(method.input_type).FromString,
        response_serializer=lambda answer: answer.SerializeToString(),
    )
