"""What identity costs a call: in the server's process, and from end to end beside a server without an auth file."""

import asyncio
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from time import monotonic, perf_counter_ns
from types import SimpleNamespace
from typing import Any, Final

import grpc
import grpc.aio

from benchmarks.abuse.principals import FLEET, AskingServer, asking_server
from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard import Client
from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import allocator_pb2_grpc
from blockyard_server.rpc.auth.file_authenticator import FileAuthenticator
from blockyard_server.rpc.auth.identity import ListenerMethods
from blockyard_server.rpc.authorization import check_of
from tests.harness.process import ServerProcess

CALLS: Final = 20_000
REPEATS: Final = 15
IN_FLIGHT: Final = 16
ROUND_S: Final = 0.6
ACQUIRE: Final = "blockyard.v1.Allocator.Acquire"


def run(scale: Scale) -> Sequence[Figure]:
    """The figures of both."""
    with ExitStack() as stack:
        asking = stack.enter_context(asking_server(scale.folder / "asking"))
        silent = stack.enter_context(ServerProcess(scale.folder / "silent"))
        silent.start()
        with Client(silent.address) as client:
            client.create_fleet(FLEET)
            client.create_instance(FLEET, "node", total_blocks=4096)
        in_process = asyncio.run(_in_process(asking))
        return [*in_process, *asyncio.run(_end_to_end(asking, silent, scale.of(20, 3)))]


async def _in_process(server: AskingServer) -> list[Figure]:
    """Authentication and authorization of one Acquire, over the same calls without."""
    authenticator = FileAuthenticator(server.process.data.with_name("auth.toml"))
    metadata = (("user-agent", "grpc-python"), *server.metadata())
    call = SimpleNamespace(method="/blockyard.v1.Allocator/Acquire", invocation_metadata=metadata)
    request = pb.AcquireRequest(fleet=f"fleets/{FLEET}")
    check = check_of(ACQUIRE)
    if check is None:
        message = "Acquire needs a permission"
        raise RuntimeError(message)

    def measured(listener: ListenerMethods) -> float:
        best = float("inf")
        for _ in range(REPEATS):
            began_ns = perf_counter_ns()
            for _ in range(CALLS):
                listener.service(call)
                check(request)
            best = min(best, (perf_counter_ns() - began_ns) / CALLS / 1000)
        return best

    asked, unasked = (measured(ListenerMethods(lambda _path: None, each)) for each in (authenticator, None))
    return [
        Figure("who calls, and may it? in process", asked, "µs", at_most=3),
        Figure("the same where nobody is asked", unasked, "µs", at_most=1),
    ]


async def _end_to_end(asking: AskingServer, silent: ServerProcess, rounds: int) -> list[Figure]:
    """Calls a second with identity over those without, in turns."""
    ratios = []
    async with (
        grpc.aio.insecure_channel(asking.process.address) as known,
        grpc.aio.insecure_channel(silent.address) as anonymous,
    ):
        for _ in range(rounds):
            without = await _calls_per_s(anonymous, ())
            ratios.append(without / await _calls_per_s(known, asking.metadata()))
    return [Figure("end to end: a call, over one without identity", statistics.median(ratios), "", at_most=1.08)]


async def _calls_per_s(channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]]) -> float:
    stub: Any = allocator_pb2_grpc.AllocatorStub(channel)
    request = pb.DescribeRequest(fleet=f"fleets/{FLEET}", page_size=1)
    until_s, done = monotonic() + ROUND_S, 0

    async def caller() -> None:
        nonlocal done
        while monotonic() < until_s:
            await stub.Describe(request, metadata=metadata)
            done += 1

    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    return done / ROUND_S


SCENARIO: Final = Scenario("cost", "identity costs a call little, and nothing where nobody is asked", run)
