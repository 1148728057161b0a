"""One tenant floods the server with batches; another, with little to do, must hardly notice."""

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio

from benchmarks.postgres import postgres
from benchmarks.stress.bystander import another_process
from benchmarks.stress.scenario import Figure, Scale, Scenario, percentile
from blockyard import AsyncClient
from blockyard.v1 import allocator_pb2 as pb
from tests.harness.process import ServerProcess

HONEST: Final = "honest"
FLOODER: Final = "flooder"
FLEET: Final = "shared"
INSTANCES: Final = 64
BLOCKS: Final = 4096
BATCHES: Final = 12
"""In flight at once."""
OPERATIONS: Final = 1000
LEASES: Final = 20
LEASE_TTL_S: Final = 6
AT_MOST_MS: Final = 50.0
AT_MOST_TIMES: Final = 15.0
PAUSE_S: Final = 0.025
"""Between two Acquires, whether or not the one before was answered: a client that waits for each answer would
ask rarely while the server is slow, and often while it is quick."""
CALM_S: Final = 1.0
"""How long the flood runs before it is measured."""


@dataclass
class Seen:
    """What the honest tenant saw."""

    calls_s: list[float] = field(default_factory=list)
    """How long each Acquire took."""
    failures: Counter[str] = field(default_factory=Counter)
    leases_lost: int = 0

    @property
    def p50_ms(self) -> float:
        """Of the Acquires."""
        return 1000 * percentile(self.calls_s, 0.5)

    @property
    def p99_ms(self) -> float:
        """Of the Acquires."""
        return 1000 * percentile(self.calls_s, 0.99)


def _cancel(number: int, fleet: str) -> pb.BatchOperation:
    """A release of a token that nobody has: it is remembered as cancelled."""
    del number
    token = uuid.uuid4().hex
    return pb.BatchOperation(release=pb.ReleaseRequest(fleet=f"fleets/{fleet}", idempotency_token=token))


def _acquire(number: int, fleet: str) -> pb.BatchOperation:
    """An acquire of a block, for good: the fleet has more than are asked for."""
    del number
    acquire = pb.AcquireRequest(fleet=f"fleets/{fleet}", idempotency_token=uuid.uuid4().hex, holder="flood")
    acquire.demands.add(blocks=1)
    return pb.BatchOperation(acquire=acquire)


def _fleet_of(fleets: int) -> Callable[[int], str]:
    return lambda number: f"flooded-{number % fleets}"


KINDS: Final[dict[str, tuple[Callable[[int, str], pb.BatchOperation], Callable[[int], str]]]] = {
    "cancellations on a fleet of its own": (_cancel, _fleet_of(1)),
    "cancellations on 200 fleets": (_cancel, _fleet_of(200)),
    "acquires on the same fleet": (_acquire, lambda _number: FLEET),
}
"""What is flooded, and where."""


def run(scale: Scale) -> Sequence[Figure]:
    """On SQLite."""
    return _floods(scale)


def on_postgres(scale: Scale) -> Sequence[Figure]:
    """On PostgreSQL, with one server."""
    with postgres() as database:
        return _floods(scale, database=database.url())


def _floods(scale: Scale, **where: Any) -> Sequence[Figure]:
    """Alone and beside each flood, one after the other on one server."""
    seconds = float(scale.of(6, 2))
    kinds = list(KINDS) if not scale.short else list(KINDS)[:1]
    with ServerProcess(scale.folder / "server", audit_interval_s=0, **where) as server, another_process() as load:
        server.start()
        asyncio.run(_prepare(server.address, fleets=200 if len(kinds) > 1 else 1))
        alone = asyncio.run(_honest(server.address, seconds, lambda: None))
        figures = [
            Figure("alone: Acquire, p50", alone.p50_ms, "ms"),
            Figure("alone: Acquire, p99", alone.p99_ms, "ms"),
        ]
        for kind in kinds:
            floods: list[Future[Counter[str]]] = []

            def begin(kind: str = kind, floods: list[Future[Counter[str]]] = floods) -> None:
                floods.append(load.submit(_flood, server.address, kind, seconds + 2 * CALM_S))

            beside = asyncio.run(_honest(server.address, seconds, begin))
            figures += _figures(kind, alone, beside, floods[0].result())
    return figures


def _figures(kind: str, alone: Seen, beside: Seen, flooded: Counter[str]) -> list[Figure]:
    refused = beside.failures["OVERLOADED"]
    return [
        Figure(f"{kind}: another's Acquire, p50", beside.p50_ms, "ms", at_most=AT_MOST_MS),
        Figure("  times as long as alone", beside.p50_ms / alone.p50_ms, "", at_most=AT_MOST_TIMES),
        Figure("  p99", beside.p99_ms, "ms"),
        Figure("  refused with OVERLOADED", refused, "calls", at_most=0, kind="count"),
        Figure("  failed otherwise", beside.failures.total() - refused, "calls", at_most=0, kind="count"),
        Figure("  leases lost", beside.leases_lost, f"of {LEASES}", at_most=0, kind="count"),
        Figure("  the flood's operations carried out", flooded["carried out"], "", at_least=1, kind="count"),
        Figure("  the flood's operations refused", flooded["refused"], ""),
    ]


async def _prepare(address: str, *, fleets: int) -> None:
    async with AsyncClient(address, timeout_s=60) as client:
        for fleet in [FLEET, *(f"flooded-{number}" for number in range(fleets))]:
            await client.create_fleet(fleet)
        for number in range(INSTANCES):
            await client.create_instance(FLEET, f"node-{number}", total_blocks=BLOCKS)


async def _honest(address: str, seconds: float, begin: Callable[[], object]) -> Seen:
    """Holds leases, and acquires and releases a block at each moment of a clock. Nothing is asked twice.

    Once it has its leases, `begin` is called.
    """
    seen = Seen()

    def note_loss(_reason: object) -> None:
        seen.leases_lost += 1

    async with AsyncClient(address, timeout_s=30, caller=HONEST) as client, AsyncExitStack() as leases:
        for number in range(LEASES):
            lease = client.lease(FLEET, blocks=1, holder=f"lease-{number}", ttl=LEASE_TTL_S)
            lease.on_lost(note_loss)
            await leases.enter_async_context(lease)
        begin()
        await asyncio.sleep(CALM_S)
        async with grpc.aio.insecure_channel(address) as channel:
            acquire, release = _stub(channel, "Acquire"), _stub(channel, "Release")
            due_s, calls = time.monotonic(), list[asyncio.Task[None]]()
            until_s = due_s + seconds
            while (due_s := due_s + PAUSE_S) < until_s:
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                calls.append(asyncio.create_task(_acquire_and_release(acquire, release, due_s, seen)))
            await asyncio.gather(*calls)
    return seen


async def _acquire_and_release(
    acquire: Callable[..., Any], release: Callable[..., Any], due_s: float, seen: Seen
) -> None:
    asked = pb.AcquireRequest(fleet=f"fleets/{FLEET}", idempotency_token=uuid.uuid4().hex, holder="short")
    asked.demands.add(blocks=1)
    try:
        granted = await acquire(asked, timeout=30)
        seen.calls_s.append(time.monotonic() - due_s)
        await release(pb.ReleaseRequest(name=granted.allocation.name), timeout=30)
    except grpc.aio.AioRpcError as failure:
        seen.failures[_reason_of(failure)] += 1


def _reason_of(failure: grpc.aio.AioRpcError) -> str:
    details = dict(failure.trailing_metadata() or ())
    told = b"OVERLOADED" in bytes(details.get("grpc-status-details-bin", b""))
    return "OVERLOADED" if told else failure.code().name


def _stub(channel: grpc.aio.Channel, method: str, caller: str = HONEST) -> Callable[..., Any]:
    request, answer = (getattr(pb, f"{method}{kind}") for kind in ("Request", "Response"))
    stub: Any = channel.unary_unary(f"/blockyard.v1.Allocator/{method}", request.SerializeToString, answer.FromString)

    async def call(message: Any, timeout: float) -> Any:
        return await stub(message, timeout=timeout, metadata=(("blockyard-caller", caller),))

    return call


def _flood(address: str, kind: str, seconds: float) -> Counter[str]:
    """Runs in a separate process: keeps batches in flight for `seconds`. Returns how they ended."""
    operation, fleet = KINDS[kind]
    done: Counter[str] = Counter()

    async def send(channel: grpc.aio.Channel, until_s: float) -> None:
        batch = _stub(channel, "Batch", FLOODER)
        while time.monotonic() < until_s:
            asked = pb.BatchRequest(operations=[operation(number, fleet(number)) for number in range(OPERATIONS)])
            try:
                answer = await batch(asked, timeout=60)
            except grpc.aio.AioRpcError as failure:
                done[failure.code().name] += 1
                continue
            refused = sum(result.HasField("error") for result in answer.results)
            done["refused"] += refused
            done["carried out"] += len(answer.results) - refused

    async def flood() -> None:
        async with grpc.aio.insecure_channel(address, options=(("grpc.max_receive_message_length", -1),)) as channel:
            until_s = time.monotonic() + seconds
            await asyncio.gather(*(send(channel, until_s) for _ in range(BATCHES)))

    asyncio.run(flood())
    return done


SCENARIOS: Final = (
    Scenario("flood", "another tenant's calls and leases beside a flood of batches, on SQLite", run),
    Scenario("flood-postgres", "the same on PostgreSQL", on_postgres),
)
