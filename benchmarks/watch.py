"""How long a change takes to reach who watches: from before it is asked for until the watcher has the event in hand.

`make bench-watch`, or `python -m benchmarks.watch`. Servers are processes of their own; all clients, watchers included,
are this one. With two servers on one PostgreSQL, changes are made at the first and watched at the second. Beside the
delay stands how long the change itself took, to its answer: what is above that is the watch's.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Final

from benchmarks.postgres import postgres
from blockyard import AsyncClient, Event, EventKind
from blockyard.aio_watch import AsyncWatch
from tests.harness.process import ServerProcess, several_servers

FLEET: Final = "bench"
BLOCKS: Final = 4096
PAUSE_S: Final = 0.02
"""Between two changes that are made one by one."""
TARGET_MS: Final = 250.0
"""What is asked of two servers on one database."""


@dataclass(frozen=True)
class Figures:
    """Delays, and the time of the calls that made the changes, in milliseconds; changes made a second."""

    delays_ms: Sequence[float]
    calls_ms: Sequence[float]
    rate: float

    def row(self, name: str) -> str:
        """A line of the table."""
        percentiles = quantiles(self.delays_ms, n=100)
        return (
            f"| {name} | {self.rate:,.0f} | {quantiles(self.calls_ms, n=100)[49]:.1f} | {len(self.delays_ms):,} | "
            f"{percentiles[49]:.1f} | {percentiles[98]:.1f} | {max(self.delays_ms):.1f} | "
            f"{sum(delay > TARGET_MS for delay in self.delays_ms):,} |"
        )


class Delays:
    """When each change was asked for, and when it was seen."""

    def __init__(self) -> None:
        self.asked: dict[str, float] = {}
        self.delays_ms: list[float] = []
        self.calls_ms: list[float] = []
        self._wanted = 0
        self._all_seen = asyncio.Event()

    async def follow(self, watch: AsyncWatch) -> None:
        """Notes the delay of each grant."""
        async for event in watch:
            self._note(event)

    def _note(self, event: Event) -> None:
        asked = self.asked.get(event.idempotency_token or "")
        if asked is not None:
            self.delays_ms.append((time.perf_counter() - asked) * 1000)
        if len(self.delays_ms) == self._wanted:
            self._all_seen.set()

    async def until_seen(self, events: int) -> None:
        """Returns once so many events have come in all."""
        self._wanted = events
        if len(self.delays_ms) < events:
            await self._all_seen.wait()

    async def change(self, client: AsyncClient, token: str) -> None:
        """One grant, and its end."""
        self.asked[token] = time.perf_counter()
        grant = await client.acquire(FLEET, blocks=1, holder="bench", token=token)
        self.calls_ms.append((time.perf_counter() - self.asked[token]) * 1000)
        await client.release(grant.allocation)


async def measure(
    making: AsyncClient, watching: AsyncClient, *, watches: int, in_flight: int, seconds: float
) -> Figures:
    """Makes changes for so long, by so many schedulers; one alone pauses between two."""
    delays = Delays()
    async with AsyncExitStack() as stack:
        followers = []
        for _ in range(watches):
            watch = await stack.enter_async_context(watching.watch(FLEET, kinds=[EventKind.GRANTED]))
            await anext(aiter(watch.updates()))
            followers.append(asyncio.create_task(delays.follow(watch)))
        began = time.perf_counter()
        made = await asyncio.gather(*(_make(making, delays, n, in_flight, began + seconds) for n in range(in_flight)))
        rate = 2 * sum(made) / (time.perf_counter() - began)
        await delays.until_seen(sum(made) * watches)
        for follower in followers:
            follower.cancel()
        await asyncio.gather(*followers, return_exceptions=True)
    return Figures(delays.delays_ms, delays.calls_ms, rate)


async def _make(client: AsyncClient, delays: Delays, number: int, in_flight: int, end: float) -> int:
    made = 0
    while time.perf_counter() < end:
        await delays.change(client, f"{id(delays)}-{number}-{made}")
        made += 1
        if in_flight == 1:
            await asyncio.sleep(PAUSE_S)
    return made


@asynccontextmanager
async def clients(addresses: Sequence[str]) -> AsyncIterator[list[AsyncClient]]:
    """A client for each server, and the fleet."""
    async with AsyncExitStack() as stack:
        made = [await stack.enter_async_context(AsyncClient(address, timeout_s=60)) for address in addresses]
        await made[0].create_fleet(FLEET)
        await made[0].create_instance(FLEET, "node-1", total_blocks=BLOCKS)
        yield made


async def table(addresses: Sequence[str], where: str, seconds: float) -> None:
    """All rows of one deployment."""
    async with clients(addresses) as made:
        for watches, in_flight in ((1, 1), (1, 32), (100, 1), (100, 32)):
            figures = await measure(made[0], made[-1], watches=watches, in_flight=in_flight, seconds=seconds)
            print(figures.row(f"{where}, {watches} watching, {in_flight} in flight"), flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each row is measured")
    seconds = parser.parse_args().seconds
    print("| | changes/s | call p50 ms | events seen | delay p50 ms | p99 ms | max ms | over 250 ms |")
    print("|---|---|---|---|---|---|---|---|")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sqlite = stack.enter_context(ServerProcess(folder))
        sqlite.start()
        asyncio.run(table([sqlite.address], "SQLite, one server", seconds))
        sqlite.terminate()
        url = stack.enter_context(postgres()).fresh_database()
        servers = stack.enter_context(several_servers(folder, url, 2))
        asyncio.run(table([server.address for server in servers], "PostgreSQL, two servers", seconds))


if __name__ == "__main__":
    main()
