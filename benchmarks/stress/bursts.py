"""Honest crowds: thousands of calls at one instant, and thousands of clients that come back after a restart."""

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from time import monotonic
from typing import Any, Final

import grpc
import grpc.aio

from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard import AsyncClient, BlockyardError, _channel
from blockyard.v1 import allocator_pb2 as pb
from tests.harness.patience import eventually
from tests.harness.process import ServerProcess

FLEET: Final = "gpu"
CONNECTIONS: Final = 8
BLOCKS: Final = 4096
PATIENCE_S: Final = 120.0


def run(scale: Scale) -> Sequence[Figure]:
    """The figures of all crowds, on one server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with ServerProcess(scale.folder) as server, _own_connections():
            server.start()
            return asyncio.run(_crowds(server, scale))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def _own_connections() -> Iterator[None]:
    """Each SDK client has a connection of its own, as if it were a process of its own."""
    _channel.OPTIONS.append(("grpc.use_local_subchannel_pool", 1))
    try:
        yield
    finally:
        _channel.OPTIONS.pop()


async def _crowds(server: ServerProcess, scale: Scale) -> list[Figure]:
    async with AsyncClient(server.address, timeout_s=PATIENCE_S) as client:
        await client.create_fleet(FLEET)
        for number in range(8):
            await client.create_instance(FLEET, f"node-{number}", total_blocks=BLOCKS)
    return [
        *await _burst(server, scale.of(8000, 3000)),
        *await _renewals(server, scale.of(2500, 1200)),
        *await _restart(server, scale.of(2000, 100)),
    ]


async def _burst(server: ServerProcess, calls: int) -> list[Figure]:
    """So many Acquires at one instant, without any retry."""
    outcomes: Counter[str] = Counter()

    async def acquire(stub: Any, number: int) -> None:
        request = pb.AcquireRequest(
            fleet=f"fleets/{FLEET}", idempotency_token=f"t-{number}", holder="burst", demands=[pb.Demand(blocks=1)]
        )
        try:
            await stub(request, timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            details = dict(error.trailing_metadata() or ())
            told = b"OVERLOADED" in bytes(details.get("grpc-status-details-bin", b""))
            outcomes["refused" if told else error.code().name] += 1
        else:
            outcomes["granted"] += 1

    async with AsyncExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options=options))
            for _ in range(CONNECTIONS)
        ]
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        stubs: list[Any] = [
            channel.unary_unary(
                "/blockyard.v1.Allocator/Acquire", pb.AcquireRequest.SerializeToString, pb.AcquireResponse.FromString
            )
            for channel in channels
        ]
        await asyncio.gather(*(acquire(stubs[number % CONNECTIONS], number) for number in range(calls)))
    dropped = outcomes.total() - outcomes["granted"] - outcomes["refused"]
    return [
        Figure(f"{calls} Acquires at once: dropped without a reason", dropped, "calls", at_most=0, kind="count"),
        Figure("  granted", outcomes["granted"], "calls", at_least=1, kind="count"),
        Figure("  refused with OVERLOADED and a time", outcomes["refused"], "calls", kind="count"),
    ]


async def _renewals(server: ServerProcess, calls: int) -> list[Figure]:
    """So many renewals at one instant through two SDK clients."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(AsyncClient(server.address, timeout_s=PATIENCE_S)) for _ in range(2)]
        held = (await clients[0].acquire(FLEET, holder="renewer", blocks=1, ttl=3600)).allocation
        began_s = monotonic()
        ends = await asyncio.gather(
            *(clients[number % 2].renew(held) for number in range(calls)), return_exceptions=True
        )
        took_s = monotonic() - began_s
    failed = sum(isinstance(end, BaseException) for end in ends)
    return [
        Figure(f"{calls} renewals at once by the SDK: failed", failed, "calls", at_most=0, kind="count"),
        Figure("  until all were answered", took_s, "s", at_most=10),
    ]


async def _restart(server: ServerProcess, clients: int) -> list[Figure]:
    """So many SDK clients with a call under way when the server is killed, and started again at once."""
    failures: Counter[str] = Counter()
    turns = [0] * clients
    over = asyncio.Event()

    async def renew(number: int, client: AsyncClient) -> None:
        held = (await client.acquire(FLEET, holder=f"job-{number}", blocks=1, ttl=3600)).allocation
        while not over.is_set():
            try:
                await client.renew(held)
            except BlockyardError as failure:
                failures[type(failure).__name__] += 1
            turns[number] += 1

    async with AsyncExitStack() as stack:
        crowd = [
            await stack.enter_async_context(AsyncClient(server.address, timeout_s=PATIENCE_S)) for _ in range(clients)
        ]
        load = [asyncio.create_task(renew(number, client)) for number, client in enumerate(crowd)]
        await eventually(lambda: _all_at_least(turns, [1] * clients), "each client was served")
        # Each asks again as soon as it is answered, so all have a call under way.
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)
        # Two answers: the first may have been on its way when the server was killed.
        began_s, wanted = monotonic(), [done + 2 for done in turns]
        with suppress(AssertionError):
            await eventually(lambda: _all_at_least(turns, wanted), "each client came back")
        took_s = monotonic() - began_s
        back = sum(done >= least for done, least in zip(turns, wanted, strict=True))
        over.set()
        ends = await asyncio.gather(*load, return_exceptions=True)
    lost = sum(isinstance(end, BaseException) for end in ends)
    return [
        Figure(f"{clients} SDK clients over a kill and a restart: came back", back, "", at_least=clients, kind="count"),
        Figure("  calls that failed", failures.total() + lost, "calls", at_most=0, kind="count"),
        Figure("  until all were served again", took_s, "s", at_most=30),
    ]


async def _all_at_least(numbers: list[int], least: list[int]) -> bool:
    return all(number >= bound for number, bound in zip(numbers, least, strict=True))


SCENARIO: Final = Scenario("bursts", "honest crowds are answered, and none is dropped", run)
