"""What it costs to be observed: a scrape with many fleets, and the counting of a call, in the server's process.

All figures are of the CPU, so that what else the machine does changes them little.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import process_time_ns, thread_time_ns
from types import SimpleNamespace
from typing import Any, Final

from benchmarks.stress.scenario import Figure
from blockyard_server.app import RunningServer, running_server
from blockyard_server.domain.requests import CreateFleet, FleetFields
from blockyard_server.engine.asker import Urgency
from blockyard_server.engine.counts import Counts
from blockyard_server.metrics import BuildInfo, ServerMetrics
from blockyard_server.rpc.call_counts import CallCounts
from blockyard_server.rpc.interceptors import Method
from blockyard_server.settings import Settings

FLEETS: Final = 10_000
AT_ONCE: Final = 500
SCRAPES: Final = 50
CALLS: Final = 20_000
REPEATS: Final = 15
METHOD: Final = Method("blockyard.v1.Allocator", "Acquire", changes=True)


async def _scrapes(server: RunningServer) -> list[Figure]:
    """A scrape of a server with so many fleets in memory."""
    engine = server.engine
    for first in range(0, FLEETS, AT_ONCE):
        requests = [CreateFleet(f"fleet-{number}", FleetFields()) for number in range(first, first + AT_ONCE)]
        await asyncio.gather(*(engine.submit(request) for request in requests))
    metrics = ServerMetrics(engine, server.edge, BuildInfo("bench", "0000"))

    def rendered() -> None:
        metrics.render("")

    alone = await asyncio.to_thread(_times_ms, rendered)
    body, _ = metrics.render("")
    series = sum(not line.startswith(b"#") for line in body.splitlines())
    fleets = float(len(engine.fleets))
    return [
        Figure("fleets in memory", fleets, "", at_least=FLEETS, kind="count"),
        Figure("series", float(series), "", at_most=4000, kind="count"),
        Figure("a scrape, median of the CPU", statistics.median(alone), "ms", at_most=20),
    ]


def _times_ms(work: Callable[[], None]) -> list[float]:
    times = []
    for _ in range(SCRAPES):
        began_ns = thread_time_ns()
        work()
        times.append((thread_time_ns() - began_ns) / 1e6)
    return times


async def _calls() -> list[Figure]:
    """What the counts of a call take, over a call that is not counted."""

    async def bare(_incoming: Any, _context: Any) -> bytes:
        return b""

    context = SimpleNamespace(code=lambda: 0, invocation_metadata=lambda: ())
    counted = CallCounts().intercept(METHOD, bare)
    uncounted, with_counts = await _best_us(bare, context), await _best_us(counted, context)
    waits = Counts().waits[Urgency.ACQUIRE]
    began_ns = process_time_ns()
    for _ in range(CALLS):
        waits.add(0.003)
    in_queue = (process_time_ns() - began_ns) / CALLS / 1000
    return [
        Figure("the metrics of a call", with_counts - uncounted, "µs", at_most=1),
        Figure("its wait in the queue, which is added once a request", in_queue, "µs"),
    ]


async def _best_us(handler: Callable[[Any, Any], Awaitable[Any]], context: Any) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        began_ns = process_time_ns()
        for _ in range(CALLS):
            await handler(b"", context)
        best = min(best, (process_time_ns() - began_ns) / CALLS / 1000)
    return best


async def _measure(folder: Path) -> list[Figure]:
    settings = Settings(listen="127.0.0.1:0", ops_listen="127.0.0.1:0", data=folder / "blockyard.db", log_level="ERROR")
    async with running_server(settings) as server:
        return [*await _scrapes(server), *await _calls()]


def main() -> int:
    """Prints goal, figure and verdict of each. Ends with 1 if a goal was missed."""
    with tempfile.TemporaryDirectory() as folder:
        figures = asyncio.run(_measure(Path(folder)))
    for each in figures:
        print(f"{each.what:<55} {each.goal:>9} {each.value:>10.2f} {each.unit:<3} {each.verdict}")
    return 0 if all(each.met for each in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
