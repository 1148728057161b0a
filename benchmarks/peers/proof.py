"""The proof of those that speak our Allocator: a full fleet is full to the block, and then empty again."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from typing import Final

import grpc

from benchmarks.load import FLEET
from benchmarks.peers.peer import BLOCKS, INSTANCES, NotTrue
from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1.allocator_pb2_grpc import AllocatorStub

TOO_MANY: Final = 64
IN_FLIGHT: Final = 64
CALL_S: Final = 30.0


async def fills_and_empties(*channels: grpc.aio.Channel, capacity: int = BLOCKS * INSTANCES) -> None:
    """More claims than the `capacity` in blocks: as many are granted, each another block, and all are given back.

    The calls go to the servers of `channels` in turns. Raises NotTrue.
    """
    fleet = _Fleet(channels)
    first = await fleet.take([f"proof-{number}" for number in range(capacity + TOO_MANY)])
    _is_true(len(first) == capacity, f"{len(first)} claims of {capacity} blocks were granted")
    blocks = Counter(block for answer in first.values() for block in _blocks(answer))
    _is_true(len(blocks) == capacity, f"{blocks.most_common(3)} were granted, {len(blocks)} in all")
    again = await fleet.take(list(first)[:1])
    _is_true(
        all(answer.replayed and _blocks(answer) == _blocks(first[token]) for token, answer in again.items())
        and again != {},
        "a token asked again does not give its first answer",
    )
    await fleet.give_back([answer.allocation.name for answer in first.values()])
    second = await fleet.take([f"proof-again-{number}" for number in range(capacity)])
    _is_true(len(second) == capacity, f"after all was released, only {len(second)} claims were granted")
    await fleet.give_back([answer.allocation.name for answer in second.values()])


class _Fleet:
    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        self._servers = cycle([AllocatorStub(channel) for channel in channels])
        self._turns = asyncio.Semaphore(IN_FLIGHT)

    async def take(self, tokens: Sequence[str]) -> dict[str, pb.AcquireResponse]:
        """One block for each token that gets one."""
        answers = await asyncio.gather(*(self._take_one(token) for token in tokens))
        return {token: answer for token, answer in zip(tokens, answers, strict=True) if answer is not None}

    async def _take_one(self, token: str) -> pb.AcquireResponse | None:
        request = pb.AcquireRequest(fleet=FLEET, idempotency_token=token, holder="proof", demands=[pb.Demand(blocks=1)])
        async with self._turns:
            try:
                return await next(self._servers).Acquire(request, timeout=CALL_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                return None

    async def give_back(self, names: Sequence[str]) -> None:
        """Releases each."""
        await asyncio.gather(*(self._give_back_one(name) for name in names))

    async def _give_back_one(self, name: str) -> None:
        async with self._turns:
            answer = await next(self._servers).Release(pb.ReleaseRequest(name=name), timeout=CALL_S)
        _is_true(answer.outcome == pb.ReleaseResponse.RELEASED, f"{name} was not held when it was released: {answer}")


def _blocks(answer: pb.AcquireResponse) -> list[tuple[str, int]]:
    return [(place.instance, block) for place in answer.allocation.placements for block in place.blocks]


def _is_true(condition: bool, otherwise: str) -> None:  # noqa: FBT001 - as an assert, that also holds under -O
    if not condition:
        raise NotTrue(otherwise)
