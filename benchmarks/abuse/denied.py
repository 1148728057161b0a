"""Batches of operations that are all denied: they cost their sender nothing, and must cost others little."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from time import monotonic
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration

from benchmarks.abuse.principals import FLEET, AskingServer, asking_server
from benchmarks.stress.bystander import another_process
from benchmarks.stress.scenario import Figure, Scale, Scenario, percentile
from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import allocator_pb2_grpc

OPERATIONS: Final = 1000
PAUSE_S: Final = 0.05
LEASE_TTL_S: Final = 6
CALM_S: Final = 2.0
"""How long the flood runs before it is measured."""


def run(scale: Scale) -> Sequence[Figure]:
    """Renewals of an honest scheduler beside each flood."""
    seconds, in_flight = float(scale.of(10, 3)), scale.of(1000, 200)
    with asking_server(scale.folder) as server, another_process() as load:
        floods = {
            "a principal without a role": server.without_role,
            "a scheduler on other fleets": server.elsewhere,
        }
        alone = asyncio.run(_renewals(server, seconds))
        figures = [Figure("alone: Renew, p50", 1000 * percentile(alone, 0.5), "ms")]
        for name, token in floods.items():
            metadata = server.metadata(token)
            flood: Future[Counter[str]] = load.submit(
                _flood, server.process.address, metadata, in_flight, seconds + CALM_S
            )
            beside = asyncio.run(_renewals(server, seconds, calm_s=CALM_S))
            codes = flood.result()
            figures += [
                Figure(f"{in_flight} batches of {name}: Renew, p50", 1000 * percentile(beside, 0.5), "ms", at_most=100),
                Figure("  slowest", 1000 * max(beside), "ms", at_most=1000 * LEASE_TTL_S / 3),
                Figure("  renewals", len(beside), "", at_least=1, kind="count"),
                Figure("  the flood's calls", codes.total(), "", at_least=1, kind="count"),
            ]
        return figures


async def _renewals(server: AskingServer, seconds: float, *, calm_s: float = 0.0) -> list[float]:
    """How long each renewal of a lease took. Raises AioRpcError if the lease was lost."""
    took: list[float] = []
    async with grpc.aio.insecure_channel(server.process.address) as channel:
        stub: Any = allocator_pb2_grpc.AllocatorStub(channel)
        acquire = pb.AcquireRequest(
            fleet=f"fleets/{FLEET}",
            idempotency_token=f"lease-{monotonic()}",
            holder="job",
            demands=[pb.Demand(blocks=1)],
            ttl=Duration(seconds=LEASE_TTL_S),
        )
        granted = await stub.Acquire(acquire, metadata=server.metadata())
        calm_until_s = monotonic() + calm_s
        until_s = calm_until_s + seconds
        while (began_s := monotonic()) < until_s:
            await stub.Renew(pb.RenewRequest(name=granted.allocation.name), metadata=server.metadata(), timeout=60)
            if began_s >= calm_until_s:
                took.append(monotonic() - began_s)
            await asyncio.sleep(PAUSE_S)
        await stub.Release(pb.ReleaseRequest(name=granted.allocation.name), metadata=server.metadata())
    return took


def _flood(address: str, metadata: Sequence[tuple[str, str]], in_flight: int, seconds: float) -> Counter[str]:
    """Runs in a separate process: keeps `in_flight` batches under way for `seconds`. Returns how they ended."""
    release = pb.ReleaseRequest(fleet=f"fleets/{FLEET}", idempotency_token="x")
    body = pb.BatchRequest(operations=[pb.BatchOperation(release=release)] * OPERATIONS).SerializeToString()
    codes: Counter[str] = Counter()

    async def send(call: Any, until_s: float) -> None:
        while monotonic() < until_s:
            try:
                await call(body, metadata=metadata, timeout=60)
                codes["OK"] += 1
            except grpc.aio.AioRpcError as error:
                codes[str(error.code().name)] += 1
                await asyncio.sleep(PAUSE_S)

    async def flood() -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            call: Any = channel.unary_unary("/blockyard.v1.Allocator/Batch")
            until_s = monotonic() + seconds
            await asyncio.gather(*(send(call, until_s) for _ in range(in_flight)))

    asyncio.run(flood())
    return codes


SCENARIO: Final = Scenario("denied", "a client that is denied everything holds nobody up", run)
