"""A client without any retry: each call is sent exactly once, can be cancelled, and ends as the transport says."""

import asyncio
from collections.abc import Iterable
from typing import Any, Generic, Self, TypeVar

import grpc.aio

from blockyard._call import Call
from blockyard._channel import connection
from blockyard._failures import failure_of_error
from blockyard.errors import CallFailed
from tests.harness.in_process import PATIENCE_S

T = TypeVar("T")


class InFlight(Generic[T]):
    """One call under way."""

    def __init__(self, call: Call[T], sent: "grpc.aio.UnaryUnaryCall[Any, Any]") -> None:
        self._call = call
        self._sent = sent

    def cancel(self) -> None:
        """The client goes away."""
        self._sent.cancel()

    async def answer(self) -> T:
        """What the server answers. Raises CallFailed; its status is CANCELLED after `cancel`."""
        try:
            return self._call.decode(await self._sent)
        except grpc.aio.AioRpcError as error:
            raise failure_of_error(error) from None
        except asyncio.CancelledError:
            if not self._sent.cancelled():
                raise
            raise CallFailed("the call was cancelled", status="CANCELLED") from None

    async def outcome(self) -> T | CallFailed:
        """The same, with the failure as a value."""
        try:
            return await self.answer()
        except CallFailed as failure:
            return failure


class OneShotClient:
    """An async context manager over one connection."""

    def __init__(self, address: str) -> None:
        where = connection(address)
        # A connection of its own: gRPC lets channels with equal options share one.
        options = [*where.options, ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.insecure_channel(where.target, options=options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    def start(self, call: Call[T], *, timeout_s: float = PATIENCE_S) -> InFlight[T]:
        """Sends a call made by `blockyard.operations`."""
        stub = self._channel.unary_unary(call.path, type(call.request).SerializeToString, call.answer.FromString)
        return InFlight(call, stub(call.request, timeout=timeout_s))

    async def send(self, call: Call[T], *, timeout_s: float = PATIENCE_S) -> T:
        """Sends a call and waits for its answer. Raises CallFailed."""
        return await self.start(call, timeout_s=timeout_s).answer()

    async def send_all(self, calls: Iterable[Call[T]], *, timeout_s: float = PATIENCE_S) -> list[T | CallFailed]:
        """Sends all calls at once; their outcomes in the same order."""
        started = [self.start(call, timeout_s=timeout_s) for call in calls]
        return list(await asyncio.gather(*(each.outcome() for each in started)))
