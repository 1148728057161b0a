"""Large requests of garbage by clients that are let in: 1 MiB of empty messages, and bodies larger than allowed."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import grpc.aio

from benchmarks.abuse.plain import OWN, forget_peak, honest_calls, honest_for, memory_mib, plain_server
from benchmarks.stress.bystander import another_process
from benchmarks.stress.scenario import Figure, Scale, Scenario, percentile
from tests.harness.process import ServerProcess

ACQUIRE: Final = "/blockyard.v1.Allocator/Acquire"
EMPTY_DEMANDS: Final = b"\x22\x00" * (512 * 1024 - 64)
"""The mebibyte that takes longest to parse."""
TOO_LARGE: Final = bytes(4 * 1024 * 1024)


def run(scale: Scale) -> Sequence[Figure]:
    """The figures of both kinds of garbage."""
    with plain_server(scale.folder) as server:
        return asyncio.run(_both(server, scale))


async def _both(server: ServerProcess, scale: Scale) -> list[Figure]:
    alone = await honest_for(server.address, 2)
    count = scale.of(200, 40)
    return [
        Figure("honest p50 alone", 1000 * percentile(alone, 0.5), "ms"),
        *await _bodies(server, f"{count} bodies of 4 MiB at once", TOO_LARGE, count, at_most_mib=64),
        *await _bodies(server, f"{count} bodies of 1 MiB of empty messages", EMPTY_DEMANDS, count, at_most_mib=400),
    ]


async def _bodies(server: ServerProcess, what: str, body: bytes, count: int, at_most_mib: float) -> list[Figure]:
    before_mib = memory_mib(server)
    forget_peak(server)
    with another_process() as pool:
        sending = asyncio.get_running_loop().run_in_executor(pool, send, server.address, body, count)
        beside = await honest_calls(server.address, sending)
        codes = await sending
    refused = codes["RESOURCE_EXHAUSTED"] + codes["INVALID_ARGUMENT"] + codes["UNAVAILABLE"]
    return [
        Figure(f"{what}: refused", refused, "", at_least=count, kind="count"),
        Figure("  memory at its peak", memory_mib(server, "VmHWM") - before_mib, "MiB", at_most=at_most_mib),
        Figure("  honest p50 beside", 1000 * percentile(beside, 0.5), "ms", at_most=100),
        Figure("  honest, slowest", 1000 * max(beside), "ms", at_most=500),
    ]


def send(address: str, body: bytes, count: int) -> Counter[str]:
    """Sends `count` at once, and returns how the calls ended. In a separate process, so as not to delay the honest."""

    async def all_at_once() -> Counter[str]:
        options = [*OWN, ("grpc.max_send_message_length", -1)]
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            call: Any = channel.unary_unary(ACQUIRE)
            return Counter(await asyncio.gather(*(_code(call(body, timeout=120)) for _ in range(count))))

    return asyncio.run(all_at_once())


async def _code(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


SCENARIO: Final = Scenario("requests", "garbage is refused, and the others go on meanwhile", run)
