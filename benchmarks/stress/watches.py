"""Many filtered watches that catch up over a long journal, beside one that is current."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from benchmarks.stress.bystander import another_process
from benchmarks.stress.scenario import Figure, Scale, Scenario, percentile
from blockyard import AsyncClient, EventKind, operations
from tests.harness.process import ServerProcess

FLEET: Final = "watched"
PAUSE_S: Final = 0.05
BATCH: Final = 500


def run(scale: Scale) -> Sequence[Figure]:
    """On SQLite. Those who catch up are a process of their own, so that they do not take the other's interpreter."""
    pairs, watches, seconds = scale.of(50_000, 1000), scale.of(1000, 50), scale.of(60, 3)
    with ServerProcess(scale.folder) as server:
        server.start()
        asyncio.run(_fill(server.address, pairs))
        with another_process() as load:
            caught_up = load.submit(_catch_up, server.address, watches, pairs, seconds)
            delays_s = asyncio.run(_be_current(server.address, seconds))
            begun, ended = caught_up.result()
    return [
        Figure(f"watches that catch up over {2 * pairs:,} events", begun, "", at_least=watches, kind="count"),
        Figure(f"  of them up to date after {seconds} s", ended, ""),
        Figure("a current watch: changes that it was told", len(delays_s), "", at_least=3, kind="count"),
        Figure("  its delay, p50", 1000 * percentile(delays_s, 0.5), "ms"),
        Figure("  its delay, p99", 1000 * percentile(delays_s, 0.99), "ms", at_most=1000),
    ]


async def _fill(address: str, pairs: int) -> None:
    """A journal of so many grants and releases."""
    async with AsyncClient(address, timeout_s=60) as client:
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "n1", total_blocks=4096)
        for first in range(0, pairs, BATCH):
            wanted = range(first, min(pairs, first + BATCH))
            tokens = [f"token-{number}" for number in wanted]
            await client.batch([operations.acquire(FLEET, blocks=1, holder="job", token=token) for token in tokens])
            await client.batch([operations.release_by_token(FLEET, token) for token in tokens])


def _catch_up(address: str, watches: int, pairs: int, seconds: int) -> tuple[int, int]:
    """Watches the releases from the first revision on; how many watches have begun, and how many saw all of them."""

    async def one(client: AsyncClient) -> int:
        seen = 0
        async with client.watch(FLEET, from_revision=1, kinds=[EventKind.RELEASED], holder="job") as watch:
            async for _ in watch:
                seen += 1
                if seen == pairs:
                    break
        return seen

    async def all_of_them() -> tuple[int, int]:
        async with AsyncClient(address) as client:
            tasks = [asyncio.create_task(one(client)) for _ in range(watches)]
            done, pending = await asyncio.wait(tasks, timeout=seconds)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            return len(tasks) - sum(task.exception() is not None for task in done), len(done)

    return asyncio.run(all_of_them())


async def _be_current(address: str, seconds: int) -> list[float]:
    """How long it took from each change's request to its event."""
    asked_s: dict[str, float] = {}
    delays_s: list[float] = []
    async with AsyncClient(address, timeout_s=60) as client, client.watch(FLEET) as watch:

        async def follow() -> None:
            async for event in watch:
                began_s = asked_s.pop(event.holder or "", None)
                if began_s is not None:
                    delays_s.append(time.monotonic() - began_s)

        following = asyncio.create_task(follow())
        until_s = time.monotonic() + seconds
        number = 0
        while time.monotonic() < until_s:
            holder = f"current-{number}"
            number += 1
            asked_s[holder] = time.monotonic()
            grant = await client.acquire(FLEET, blocks=1, holder=holder)
            await client.release(grant.allocation)
            await asyncio.sleep(PAUSE_S)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    # What has not come by now is late, too.
    return delays_s + [time.monotonic() - began_s for began_s in asked_s.values()]


SCENARIO: Final = Scenario("watches", "1,000 filtered watches catch up, and one is current", run)
