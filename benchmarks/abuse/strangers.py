"""Strangers: refused logins beside an honest client, and large bodies that nobody reads."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

import grpc
import grpc.aio

from benchmarks.abuse.principals import FLEET, AskingServer, asking_server
from benchmarks.stress.scenario import Figure, Scale, Scenario, percentile
from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import allocator_pb2_grpc

RATE_PER_S: Final = 1000
CONNECTIONS: Final = 4
PAUSE_S: Final = 0.01
BODY_BYTES: Final = 4 * 1024 * 1024 - 1024
WRONG: Final = (("authorization", "Bearer bkyd_00000000_wrong"),)
LINES_PER_MINUTE: Final = 6


def run(scale: Scale) -> Sequence[Figure]:
    """The figures of both."""
    with asking_server(scale.folder, log_level="INFO") as server:
        return asyncio.run(_strangers(server, scale))


async def _strangers(server: AskingServer, scale: Scale) -> list[Figure]:
    took_s = scale.of(60, 5)
    alone = await _honest(server, asyncio.create_task(asyncio.sleep(min(took_s, 10))))
    before_mib = server.memory_mib()
    flood = asyncio.create_task(_logins(server, took_s))
    beside = await _honest(server, flood)
    codes, sent = await flood
    grown_mib = server.memory_mib() - before_mib
    lines = [line for line in server.process.errors().splitlines() if '"login_refused"' in line]
    figures = [
        Figure("refused logins", sent / took_s, "a second", at_least=0.9 * RATE_PER_S),
        Figure("  answered otherwise", sent - codes["UNAUTHENTICATED"], "calls", at_most=0, kind="count"),
        Figure("  honest p99 alone", 1000 * percentile(alone, 0.99), "ms"),
        Figure("  honest p99 beside, over alone", percentile(beside, 0.99) / percentile(alone, 0.99), "", at_most=2),
        Figure("  memory grown", grown_mib, "MiB", at_most=20),
        Figure(
            "  lines of the audit log",
            len(lines),
            "",
            at_most=LINES_PER_MINUTE * (1 + took_s // 60),
            at_least=1,
            kind="count",
        ),
    ]
    return figures + await _bodies(server, scale.of(200, 40))


async def _honest(server: AskingServer, until: "asyncio.Task[Any]") -> list[float]:
    """How long each call of an honest client takes, until a task has ended."""
    took: list[float] = []
    async with grpc.aio.insecure_channel(server.process.address) as channel:
        stub: Any = allocator_pb2_grpc.AllocatorStub(channel)
        request = pb.AcquireRequest(
            fleet=f"fleets/{FLEET}",
            idempotency_token="honest",
            holder="job",
            demands=[pb.Demand(blocks=1)],
            validate_only=True,
        )
        while not until.done():
            began_s = monotonic()
            await stub.Acquire(request, metadata=server.metadata(), timeout=60)
            took.append(monotonic() - began_s)
            await asyncio.sleep(PAUSE_S)
    return took


async def _logins(server: AskingServer, seconds: float) -> tuple[Counter[str], int]:
    """Calls with a wrong token at an even rate. How they ended, and how many there were."""
    codes: Counter[str] = Counter()
    channels = [
        grpc.aio.insecure_channel(server.process.address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(CONNECTIONS)
    ]
    stubs: list[Any] = [allocator_pb2_grpc.AllocatorStub(channel) for channel in channels]
    calls: set[asyncio.Task[None]] = set()

    async def call(stub: Any) -> None:
        codes[await _code(stub.Describe(pb.DescribeRequest(fleet=f"fleets/{FLEET}"), metadata=WRONG, timeout=60))] += 1

    began_s, sent = monotonic(), 0
    while (passed_s := monotonic() - began_s) < seconds:
        for _ in range(int(passed_s * RATE_PER_S) - sent):
            task = asyncio.create_task(call(stubs[sent % CONNECTIONS]))
            calls.add(task)
            task.add_done_callback(calls.discard)
            sent += 1
        await asyncio.sleep(PAUSE_S)
    await asyncio.gather(*calls)
    for channel in channels:
        await channel.close()
    return codes, sent


async def _bodies(server: AskingServer, count: int) -> list[Figure]:
    """Large bodies of strangers, all at once."""
    before_mib = server.memory_mib()
    body = pb.AcquireRequest(holder="x" * BODY_BYTES)
    alone = await _honest(server, asyncio.create_task(asyncio.sleep(1)))
    async with grpc.aio.insecure_channel(server.process.address) as channel:
        stub: Any = allocator_pb2_grpc.AllocatorStub(channel)
        sending = asyncio.gather(*(_code(stub.Acquire(body, metadata=WRONG, timeout=60)) for _ in range(count)))
        beside = await _honest(server, asyncio.ensure_future(sending))
        codes = Counter(await sending)
    grown_mib = server.memory_mib("VmHWM") - before_mib
    return [
        Figure(f"{count} bodies of 4 MiB at once: refused", codes["UNAUTHENTICATED"], "", at_least=count, kind="count"),
        Figure("  memory at its peak", grown_mib, "MiB", at_most=64),
        Figure("  honest p50 alone", 1000 * percentile(alone, 0.5), "ms"),
        Figure("  honest p50 beside", 1000 * percentile(beside, 0.5), "ms"),
    ]


async def _code(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


SCENARIO: Final = Scenario("strangers", "who is refused costs little, and disturbs nobody", run)
