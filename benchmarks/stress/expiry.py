"""A million blocks whose leases end at one instant, while the fleet is read, beside somebody on another fleet."""

import asyncio
import time
from typing import Final

from benchmarks.stress.bystander import Bystander, another_process
from benchmarks.stress.large_grants import register
from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard import AsyncClient, Client, operations
from tests.harness.process import ServerProcess

FLEET: Final = "expiring"
BLOCKS: Final = 4096
LEASE_BLOCKS: Final = 16
READERS: Final = 32


def run(scale: Scale) -> list[Figure]:
    """On SQLite, where one writer serves all fleets."""
    instances = scale.of(245, 16)
    with ServerProcess(scale.folder / "server", audit_interval_s=0) as server:
        server.start()
        asyncio.run(register(server.address, FLEET, instances, BLOCKS))
        with another_process() as load, Bystander(server.address) as bystander, Client(server.address) as client:
            held = load.submit(_lease_all, server.address, instances * BLOCKS // LEASE_BLOCKS).result()
            busy = client.describe_page(FLEET, page_size=1).totals.busy_blocks
            bystander.forget()
            began_s = time.monotonic()
            reads = load.submit(_read_until_idle, server.address).result()
            took_s = time.monotonic() - began_s
            left = client.describe_page(FLEET, page_size=1).totals.busy_blocks
    return [
        Figure("blocks on leases that end together", busy, "", at_least=held * LEASE_BLOCKS, kind="count"),
        Figure("blocks left", left, "", at_most=0, kind="count"),
        Figure("reads that found only swept leases", reads, "", at_least=READERS, kind="count"),
        Figure("until all were swept and read", took_s, "s"),
        *bystander.figures(at_most_ms=250),
    ]


def _lease_all(address: str, leases: int) -> int:
    """So many leases that all end at about the same time; how many were granted."""

    async def all_of_them() -> int:
        granted = 0
        until_s = time.time() + leases / 1500 + 3
        async with AsyncClient(address, timeout_s=60) as client:
            for first in range(0, leases, 500):
                ttl = max(1.0, until_s - time.time())
                wanted = [
                    operations.acquire(FLEET, blocks=LEASE_BLOCKS, holder="job", ttl=ttl)
                    for _ in range(min(500, leases - first))
                ]
                granted += len(await client.batch(wanted))
        await asyncio.sleep(max(0.0, until_s - time.time() - 0.5))
        return granted

    return asyncio.run(all_of_them())


def _read_until_idle(address: str) -> int:
    """Reads from all readers at once until each has found the fleet idle; how many reads there were."""

    async def reader(client: AsyncClient) -> int:
        reads = 0
        while True:
            reads += 1
            if not (await client.describe_page(FLEET, page_size=1)).totals.busy_blocks:
                return reads
            await asyncio.sleep(0.01)

    async def all_of_them() -> int:
        async with AsyncClient(address, timeout_s=60) as client:
            return sum(await asyncio.gather(*(reader(client) for _ in range(READERS))))

    return asyncio.run(all_of_them())


SCENARIO: Final = Scenario("expiry", "a million blocks' leases end at one instant, with 32 readers", run)
