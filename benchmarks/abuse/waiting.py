"""Calls that wait for their client: answers that nobody takes, requests that do not come."""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Final

from benchmarks.abuse.plain import FLEET, forget_peak, honest_calls, honest_for, memory_mib, plain_server
from benchmarks.abuse.principals import many_files
from benchmarks.stress.scenario import Figure, Scale, Scenario, percentile
from blockyard.v1 import fleet_admin_pb2
from tests.harness.http2 import RawConnection
from tests.harness.process import ServerProcess

LIST_INSTANCES: Final = "/blockyard.v1.FleetAdmin/ListInstances"
ACQUIRE: Final = "/blockyard.v1.Allocator/Acquire"
INSTANCES: Final = 20
STREAMS: Final = 1000
"""Of one connection; the server takes 1,024."""
PATIENCE_S: Final = 12.0


def run(scale: Scale) -> Sequence[Figure]:
    """The figures of both."""
    with many_files(), plain_server(scale.folder, instances=INSTANCES) as server:
        return asyncio.run(_both(server))


async def _both(server: ServerProcess) -> list[Figure]:
    page = fleet_admin_pb2.ListInstancesRequest(parent=f"fleets/{FLEET}").SerializeToString()
    alone = await honest_for(server.address, 2)
    return [
        Figure("honest p50 alone", 1000 * percentile(alone, 0.5), "ms"),
        *await _abuse(server, "answers of 330 kB that are not taken", 1, page),
        *await _abuse(server, "calls without a request", 5, None),
    ]


async def _abuse(server: ServerProcess, what: str, connections: int, request: bytes | None) -> list[Figure]:
    before_mib = memory_mib(server)
    forget_peak(server)
    abusers = [await RawConnection.open(server.address, window=0) for _ in range(connections)]
    for abuser in abusers:
        for _ in range(STREAMS):
            if request is None:
                abuser.begin(ACQUIRE)
            else:
                abuser.call(LIST_INSTANCES, request)
        await abuser.drain()
        if request is not None:
            await abuser.until_begun(STREAMS)
    began_s = monotonic()
    # All but the last call, which gRPC's own loop refers to until the next one comes.
    over = asyncio.gather(*(abuser.until_ended(STREAMS - 2) for abuser in abusers))
    beside = await honest_calls(server.address, over)
    took_s = monotonic() - began_s
    ended = sum(len(abuser.ended) for abuser in abusers)
    peak_mib, after_mib = memory_mib(server, "VmHWM"), memory_mib(server)
    for abuser in abusers:
        abuser.abort()
    calls = connections * STREAMS
    return [
        Figure(f"{calls} {what}: ended", ended, "", at_least=calls - 2 * connections, kind="count"),
        Figure("  gone after", took_s, "s", at_most=PATIENCE_S),
        Figure("  memory at its peak", peak_mib - before_mib, "MiB", at_most=200),
        Figure("  memory afterwards", after_mib - before_mib, "MiB"),
        Figure("  honest p50 beside", 1000 * percentile(beside, 0.5), "ms"),
        Figure("  honest p99 beside", 1000 * percentile(beside, 0.99), "ms"),
    ]


SCENARIO: Final = Scenario("waiting", "calls that wait for their client are ended", run)
