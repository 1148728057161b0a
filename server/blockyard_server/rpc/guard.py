"""The outermost layer: each method's handler, wrapped so that nothing but an answer or an error of ours leaves.

Wrapped once, at registration, and all methods are one generic handler: docs/adr/0003 has the measurements.

Requests are parsed here and not by grpc, which would answer bytes that do not decode with INTERNAL.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, cast

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from blockyard_server.domain.errors import InvalidRequest, Refused
from blockyard_server.engine.failures import (
    EngineFailure,
    InternalError,
    Overloaded,
    ShuttingDown,
    StoreUnavailable,
    WatcherTooSlow,
)
from blockyard_server.rpc.errors import Abort, Failure, encode_abort
from blockyard_server.rpc.load_shedding import MIN_UNDER_WAY, RecentLatency

_LOG: Final = logging.getLogger(__name__)

_Context = grpc.aio.ServicerContext[Any, Any]
_Unary = Callable[[Any, _Context], Awaitable[Message]]
_Stream = Callable[[Any, _Context], AsyncIterator[Message]]
_Parse = Callable[[bytes], Message]
if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]  # generic in its types, not in its code


class GuardedMethods(grpc.GenericRpcHandler):
    """Every method of the server by its full name, guarded; at most so many calls, and as many streams, at once."""

    def __init__(self, max_concurrent: int, write_patience_s: float = 10.0) -> None:
        """A stream whose client does not take an answer for `write_patience_s` ends with WATCHER_TOO_SLOW."""
        self._handlers: dict[str, _Handler] = {}
        self._max_concurrent = self._free = max_concurrent
        # Of their own: a stream may stay open for as long as its client lives, and must not take a call's place.
        self._free_streams = max_concurrent
        self._streams: set[asyncio.Task[Any]] = set()
        self._reads: set[asyncio.Task[Any]] = set()
        self._changes: set[asyncio.Task[Any]] = set()
        self._out_of_time: dict[asyncio.Task[Any], Abort] = {}
        """Calls that were ended from here, and what each is to be answered."""
        self._write_patience_s = write_patience_s
        self.streams_that_are_ending = 0
        """Streams whose end is on its way to a client that has not taken it yet."""
        self._ending = asyncio.Event()
        self._refusing = False
        self._arrived = 0
        """Calls that gRPC has handed over so far."""

    def service(self, handler_call_details: Any) -> "_Handler | None":
        """The method's handler, or None if there is no such method (grpc answers UNIMPLEMENTED)."""
        self._arrived += 1
        return self._handlers.get(handler_call_details.method)

    def add(
        self,
        service: ServiceDescriptor,
        servicer: object,
        *,
        changes: Collection[str] = (),
        to_the_last: bool = False,
    ) -> None:
        """Registers all of a service's methods; those of these names change something, all others read.

        The servicer has a coroutine for each method with one answer, and an async generator for each
        method with a stream of them. `to_the_last`: calls with one answer are carried out even while others are
        refused.
        """
        for method in service.methods:
            handle = getattr(servicer, method.name)
            parse = _parser(message_factory.GetMessageClass(method.input_type))
            if method.server_streaming:
                handler = self._stream(handle, parse, client_streaming=method.client_streaming)
            else:
                assert not method.client_streaming, f"{method.full_name} streams to the server only: not supported"
                under_way = self._changes if method.name in changes else self._reads
                guarded = self._unary(handle, parse, under_way, to_the_last=to_the_last)
                handler = grpc.unary_unary_rpc_method_handler(guarded)
            self._handlers[f"/{service.full_name}/{method.name}"] = handler

    async def end_streams(self, patience_s: float) -> None:
        """Ends every open stream: those that know how by themselves within `patience_s`, then the rest.

        An open stream would make grpc's own stop wait out its whole grace.
        """
        self._ending.set()
        if self._streams:
            await asyncio.wait(self._streams, timeout=patience_s)
        for stream in self._streams:
            stream.cancel()

    def end_reads(self) -> None:
        """Every read that is under way is answered with SHUTTING_DOWN."""
        self._end(self._reads, _stopping())

    def end_changes(self) -> None:
        """Every change that is under way is answered with STORE_UNAVAILABLE: it may have been made, or be made yet."""
        self._end(self._changes, encode_abort(StoreUnavailable("the server stops without an answer of the database")))

    def _end(self, calls: "set[asyncio.Task[Any]]", refusal: Abort) -> None:
        for task in calls:
            self._out_of_time[task] = refusal
            task.cancel()

    async def refuse_until_quiet(self, quiet_s: float, most_s: float, until_s: float) -> None:
        """Refuses new calls with SHUTTING_DOWN from now on; returns once none came for `quiet_s`, or after `most_s`.

        What still waits in grpc's own queue when it stops is cancelled without a word, and its client could not tell
        that from a call that was carried out. A busy event loop has not looked at what waits there: such a time counts
        for neither, but at `until_s` of the event loop's time it is over.
        """
        self._refusing = True
        loop = asyncio.get_running_loop()
        waited_s = 0.0
        while waited_s < most_s and loop.time() < until_s:
            before, began_s = self._arrived, loop.time()
            await asyncio.sleep(quiet_s)
            if loop.time() - began_s > 2 * quiet_s:
                continue
            if self._arrived == before:
                return
            waited_s += quiet_s

    def _unary(
        self, handle: _Unary, parse: _Parse, under_way: "set[asyncio.Task[Any]]", *, to_the_last: bool
    ) -> Callable[[bytes, _Context], Awaitable[bytes]]:
        latency = RecentLatency()

        async def guarded(data: bytes, context: _Context) -> bytes:
            if self._refusing and not to_the_last:
                await context.abort(*_stopping())
            if self._free <= 0:
                await context.abort(*_too_many(self._max_concurrent))
            others = self._max_concurrent - self._free
            if not to_the_last and latency.is_too_late(context.time_remaining(), others):
                await context.abort(*_too_late(others))
            self._free -= 1
            began_s = time.monotonic()
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            under_way.add(task)
            try:
                answer = await handle(parse(data), context)
                latency.note(time.monotonic() - began_s)
                return answer.SerializeToString()
            except asyncio.CancelledError:
                # Of the client, or its deadline, unless it was ended from here, and from here alone.
                ended = self._out_of_time.get(task)
                if ended is None or task.uncancel() > 0:
                    raise
                refusal = ended
            except Exception as error:  # noqa: BLE001 - whatever it is, its text must not reach a client
                refusal = encode_abort(failure_of(error))
            finally:
                under_way.discard(task)
                self._out_of_time.pop(task, None)
                self._free += 1
            # Not in the except clause: abort's exception would carry the other along, frames and all.
            return await context.abort(*refusal)

        return guarded

    def _stream(self, handle: _Stream, parse: _Parse, *, client_streaming: bool) -> "_Handler":
        def request_of(incoming: Any) -> Any:
            return _parsed(incoming, parse) if client_streaming else parse(incoming)

        async def guarded(incoming: Any, context: _Context) -> None:
            if self._ending.is_set():
                await context.abort(*_stopping())
            if self._free_streams <= 0:
                await context.abort(*_too_many(self._max_concurrent))
            self._free_streams -= 1
            task = cast("asyncio.Task[Any]", asyncio.current_task())
            self._streams.add(task)
            try:
                refusal = await self._send_all(lambda: handle(request_of(incoming), context), context, task)
                if refusal is not None:
                    # It keeps its place until then: to a client that does not read, this takes as long as it lives.
                    self.streams_that_are_ending += 1
                    try:
                        await context.abort(*refusal)
                    finally:
                        self.streams_that_are_ending -= 1
            finally:
                self._streams.discard(task)
                self._free_streams += 1

        if client_streaming:
            return grpc.stream_stream_rpc_method_handler(guarded)
        return grpc.unary_stream_rpc_method_handler(guarded)

    async def _send_all(
        self, handle: Callable[[], AsyncIterator[Message]], context: _Context, task: "asyncio.Task[Any]"
    ) -> Abort | None:
        """Sends all answers of a stream; then what it is to be ended with, None if with OK."""
        try:
            async with aclosing(cast("Any", handle())) as answers:
                async for answer in answers:
                    try:
                        async with asyncio.timeout(self._write_patience_s):
                            await context.write(answer.SerializeToString())
                    except TimeoutError:
                        # The handler may know what to say about it.
                        await answers.athrow(WatcherTooSlow("what is sent is not read"))
        except asyncio.CancelledError:
            if not self._ending.is_set():
                raise
            task.uncancel()
            return _stopping()
        except Exception as error:  # noqa: BLE001 - whatever it is, its text must not reach a client
            return encode_abort(failure_of(error))
        return None


def _parser(message_class: type[Message]) -> _Parse:
    from_string = message_class.FromString
    name = message_class.DESCRIPTOR.full_name

    def parse(data: bytes) -> Message:
        try:
            return from_string(data)
        except DecodeError:
            raise InvalidRequest(("request", f"the bytes are not a {name}")) from None

    return parse


async def _parsed(incoming: AsyncIterator[bytes], parse: _Parse) -> AsyncIterator[Message]:
    async for data in incoming:
        yield parse(data)


def _too_many(most: int) -> Abort:
    message = f"{most} calls are under way, the most that this server accepts; nothing was done, try again"
    return encode_abort(Overloaded(message, maximum=most))


def _too_late(others: int) -> Abort:
    message = (
        f"{others} calls are under way, and this one could not be answered before its deadline; nothing was done, try "
        "again later, or with more time"
    )
    return encode_abort(Overloaded(message, maximum=MIN_UNDER_WAY))


def _stopping() -> Abort:
    return encode_abort(ShuttingDown("the server is stopping; try again"))


def failure_of(error: Exception) -> Failure:
    """What a client learns of an exception: a refusal or a failure as it is, else the number that the log has it under.

    Raises the exception again if it is grpc's own: an abort, or the connection's end.
    """
    if isinstance(error, Refused | EngineFailure):
        return error
    if isinstance(error, grpc.aio.BaseError):
        raise error
    number = secrets.token_hex(6)
    _LOG.error("incident %s", number, exc_info=error)
    return InternalError("a fault of the server", incident=number)
