"""More connections than file descriptors: those who are connected are served, the others are closed at once."""

import asyncio
import resource
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final

from benchmarks.stress.scenario import Figure, Scale, Scenario, percentile
from blockyard import operations
from blockyard._allocator import describe_page, list_allocations
from blockyard._call import Call
from blockyard._fleet_admin import create_fleet, create_instance
from blockyard._ledger import list_events, verify
from blockyard.errors import CallFailed
from tests.harness.one_shot import OneShotClient
from tests.harness.process import ServerProcess

FLEET: Final = "gpu"
LIMITS: Final = (256, 1024)


def run(scale: Scale) -> Sequence[Figure]:
    """The figures of each limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        return [
            figure
            for limit in LIMITS[: scale.of(2, 1)]
            for figure in asyncio.run(_crowd(scale.folder / str(limit), limit, rounds=scale.of(50, 5)))
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _crowd(folder: Path, limit: int, *, rounds: int) -> list[Figure]:
    with ServerProcess(folder, audit_interval_s=0.1, sweep_interval_s=0.1) as server:
        server.program = ["/bin/sh", "-c", f'ulimit -n {limit}; exec "$0" "$@"', *server.program]
        server.start()
        async with OneShotClient(server.address) as old:
            await old.send(create_fleet(FLEET))
            await old.send(create_instance(FLEET, "n1", total_blocks=4096))
            began_s = monotonic()
            crowd = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(2 * limit)]
            first = await asyncio.gather(*(_first_words(reader) for reader, _ in crowd))
            took_s = monotonic() - began_s
            failed, times_s = await _ask(old, rounds)
        for _, writer in crowd:
            writer.close()
        log = server.errors()
    name = f"ulimit -n {limit}, {2 * limit} connections"
    return [
        Figure(f"{name}: accepted", sum(first), "", at_least=limit / 8, at_most=limit - 1, kind="count"),
        Figure("  until the others were closed", took_s, "s", at_most=5),
        Figure("  calls on the old connection that failed", failed, "calls", at_most=0, kind="count"),
        Figure("  their p99", percentile(times_s, 0.99), "s", at_most=0.5),
        Figure("  warnings in the log", len(log.splitlines()), "lines", at_most=0, kind="count"),
    ]


async def _ask(client: OneShotClient, rounds: int) -> tuple[int, list[float]]:
    """How many calls failed, each sent once, and how long each took."""
    calls: list[Call[object]] = []
    for _ in range(rounds):
        calls += [describe_page(FLEET), list_allocations(FLEET).page(""), list_events(FLEET).page(""), verify(FLEET)]
        calls += [operations.acquire(FLEET, holder="job", blocks=1, ttl=1)]
    failed, times_s = 0, []
    for call in calls:
        began_s = monotonic()
        failed += isinstance(await client.start(call).outcome(), CallFailed)
        times_s.append(monotonic() - began_s)
    return failed, times_s


async def _first_words(reader: asyncio.StreamReader) -> bool:
    """Whether the server has said anything before it closed the connection."""
    with suppress(ConnectionError):
        return bool(await reader.read(9))
    return False


SCENARIO: Final = Scenario("descriptors", "connections take no descriptor that the database needs", run)
