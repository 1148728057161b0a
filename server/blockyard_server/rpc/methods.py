"""Every method of the server by its full name: one generic handler, each method composed once with the interceptors.

Why one generic handler, with measurements: docs/adr/0003. Requests are parsed here and not by grpc, which would answer
bytes that do not decode with INTERNAL.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from blockyard_server.domain.errors import InvalidRequest
from blockyard_server.engine.failures import WatcherTooSlow
from blockyard_server.rpc.auth.principal import current_principal
from blockyard_server.rpc.authorization import check_of
from blockyard_server.rpc.interceptors import Context, Handler, Interceptor, Method, compose
from blockyard_server.rpc.large_requests import LARGE_REQUEST_BYTES, LargeRequests
from blockyard_server.rpc.prices import PRICES_OF_ANSWERS
from blockyard_server.rpc.rates import Rates

_Parse = Callable[[bytes], Message]
if TYPE_CHECKING:
    _RpcHandler = grpc.RpcMethodHandler[Any, Any]  # generic in its types, not in its code


class Methods:
    """Registered methods. A method that is not here is answered by grpc itself: UNIMPLEMENTED."""

    def __init__(
        self,
        interceptors: Sequence[Interceptor],
        *,
        write_patience_s: float,
        arrived: Callable[[], None] = lambda: None,
        untaken: Callable[[], None] = lambda: None,
        rates: Rates | None = None,
    ) -> None:
        """A stream whose client does not take an answer for `write_patience_s` ends with WATCHER_TOO_SLOW.

        `arrived` is told of each call that grpc hands over, `untaken` of each stream that ends so, in its task.
        `rates` are what each principal may ask for.
        """
        self.rates = Rates() if rates is None else rates
        self._interceptors = interceptors
        self._write_patience_s = write_patience_s
        self._arrived = arrived
        self._large = LargeRequests()
        self._untaken = untaken
        self._handlers: dict[str, _RpcHandler] = {}

    @property
    def names(self) -> list[str]:
        """The full names of all methods, such as `blockyard.v1.Allocator.Acquire`."""
        return [path.strip("/").replace("/", ".") for path in self._handlers]

    def find(self, path: str) -> "_RpcHandler | None":
        """The method's handler, or None if there is no such method. `auth.identity.ListenerMethods` offers it."""
        self._arrived()
        return self._handlers.get(path)

    def add(
        self,
        service: ServiceDescriptor,
        servicer: object,
        *,
        changes: Collection[str] = (),
        serve_while_draining: bool = False,
    ) -> None:
        """Registers all of a service's methods; those of these names change something, all others read.

        The servicer has a coroutine for each method with one answer, and an async generator for each method with a
        stream of them. One that it does not have answers UNIMPLEMENTED. `serve_while_draining`: calls with one answer
        are carried out even while others are refused.
        """
        for descriptor in service.methods:
            streams = descriptor.server_streaming
            assert streams or not descriptor.client_streaming, f"{descriptor.full_name}: not supported"
            method = Method(
                service.full_name,
                descriptor.name,
                changes=descriptor.name in changes,
                streams=streams,
                serve_while_draining=serve_while_draining,
            )
            handler = compose(method, self._interceptors, self._innermost(descriptor, servicer))
            self._handlers[method.path] = _rpc_handler(descriptor, handler)

    def _innermost(self, descriptor: MethodDescriptor, servicer: object) -> Handler:
        handle: Any = getattr(servicer, descriptor.name, None)
        parse = _parser(message_factory.GetMessageClass(descriptor.input_type))
        if not _is_asynchronous(handle):
            return _unimplemented(descriptor.full_name)
        return (self._stream if descriptor.server_streaming else self._unary)(descriptor, handle, parse)

    def _unary(self, descriptor: MethodDescriptor, handle: Any, parse: _Parse) -> Handler:
        check = check_of(descriptor.full_name) or _pass
        enter, afterwards = self.rates.entrance(descriptor.full_name), PRICES_OF_ANSWERS.get(descriptor.full_name)

        async def carry_out(request: Message, context: Context) -> Message:
            places = enter(request)  # before the check: those who may not ask may not ask more often
            if places is None:
                check(request)
                unlimited: Message = await handle(request, context)
                return unlimited
            try:
                check(request)
                found: Message = await handle(request, context)
            finally:
                places.leave()
            if afterwards is not None:
                places.charge(afterwards(found))
            return found

        async def answer(data: bytes, context: Context) -> bytes:
            if len(data) <= LARGE_REQUEST_BYTES:
                found = await carry_out(parse(data), context)
            else:
                async with self._large.place(current_principal().tenant):
                    found = await carry_out(await self._large.parse(parse, data), context)
            return found.SerializeToString()

        return answer

    def _stream(self, descriptor: MethodDescriptor, handle: Any, parse: _Parse) -> Handler:
        check, enter = check_of(descriptor.full_name) or _pass, self.rates.entrance(descriptor.full_name)

        async def answer_all(incoming: Any, context: Context) -> None:
            if descriptor.client_streaming:
                await self._send_all(handle(self._parsed(incoming, parse), context), context)
                return
            request = await self._one_parsed(incoming, parse)
            places = enter(request)
            try:
                check(request)
                await self._send_all(handle(request, context), context)
            finally:
                if places is not None:
                    places.leave()

        return answer_all

    async def _one_parsed(self, data: bytes, parse: _Parse) -> Message:
        """A request of a stream. It has a place only while it is parsed: a stream goes on for as long as it likes."""
        if len(data) <= LARGE_REQUEST_BYTES:
            return parse(data)
        async with self._large.place(current_principal().tenant):
            return await self._large.parse(parse, data)

    async def _parsed(self, incoming: AsyncIterator[bytes], parse: _Parse) -> AsyncIterator[Message]:
        async for data in incoming:
            yield await self._one_parsed(data, parse)

    async def _send_all(self, answers: AsyncIterator[Message], context: Context) -> None:
        """Sends all answers of a stream."""
        async with aclosing(cast("Any", answers)) as open_answers:
            async for answer in open_answers:
                try:
                    async with asyncio.timeout(self._write_patience_s):
                        await context.write(answer.SerializeToString())
                except TimeoutError:
                    self._untaken()
                    # The handler may know what to say about it.
                    await open_answers.athrow(WatcherTooSlow("what is sent is not read"))


def _rpc_handler(descriptor: MethodDescriptor, handler: Handler) -> "_RpcHandler":
    if not descriptor.server_streaming:
        return grpc.unary_unary_rpc_method_handler(cast("Any", handler))
    if descriptor.client_streaming:
        return grpc.stream_stream_rpc_method_handler(cast("Any", handler))
    return grpc.unary_stream_rpc_method_handler(cast("Any", handler))


def _is_asynchronous(handle: Any) -> bool:
    return inspect.iscoroutinefunction(handle) or inspect.isasyncgenfunction(handle)


def _unimplemented(name: str) -> Handler:
    """For a method of the protos that no servicer has: a generated base class has one that is no coroutine."""

    async def refuse(_incoming: Any, context: Context) -> None:
        message = f"this server does not implement {name}; a newer one may"
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, message)

    return refuse


def _parser(message_class: type[Message]) -> _Parse:
    from_string = message_class.FromString
    name = message_class.DESCRIPTOR.full_name

    def parse(data: bytes) -> Message:
        try:
            return from_string(data)
        except DecodeError:
            raise InvalidRequest(("request", f"the bytes are not a {name}")) from None

    return parse


def _pass(_request: Message) -> None:
    """Of a method that needs no permission."""
