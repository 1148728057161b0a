"""Many Acquires of as many blocks as one may ask for, at the same time, beside somebody on another fleet."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.postgres import postgres
from benchmarks.stress.bystander import Bystander, acquire_together, another_process
from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard import AsyncClient, Client
from tests.harness.process import ServerProcess

FLEET: Final = "large"
INSTANCES_EACH: Final = 4
BLOCKS: Final = 4096
PATIENCE_S: Final = 40.0


def on_sqlite(scale: Scale) -> list[Figure]:
    """One writer for all fleets: the others wait for one transaction, not for all."""
    with ServerProcess(scale.folder / "server", audit_interval_s=0) as server:
        server.start()
        return _measure(server, scale, calls=scale.of(192, 12), all_granted=False)


def on_postgres(scale: Scale) -> list[Figure]:
    """Transactions that are bounded all get through."""
    with (
        postgres() as database,
        ServerProcess(scale.folder / "server", database=database.url(), audit_interval_s=0) as server,
    ):
        server.start()
        return _measure(server, scale, calls=scale.of(64, 4), all_granted=True)


def _measure(server: ServerProcess, scale: Scale, *, calls: int, all_granted: bool) -> list[Figure]:
    asyncio.run(register(server.address, FLEET, calls * INSTANCES_EACH, BLOCKS))
    with another_process() as load, Bystander(server.address) as bystander, Client(server.address) as client:
        load.submit(int).result()
        time.sleep(scale.of(2, 1))
        bystander.forget()
        began_s = time.monotonic()
        arguments = (server.address, FLEET, calls, BLOCKS, INSTANCES_EACH, PATIENCE_S)
        granted = load.submit(acquire_together, *arguments).result()
        took_s = time.monotonic() - began_s
        alone_s = time.monotonic()
        client.create_instance(FLEET, "one-more", total_blocks=1)
        freed_s = time.monotonic() - alone_s
        busy = client.describe(FLEET).totals.busy_blocks
    return [
        Figure(f"granted of {calls}", granted, "", at_least=calls if all_granted else 1, kind="count"),
        Figure("until the last was granted", took_s, "s", at_most=PATIENCE_S),
        Figure("blocks held by nobody who was told", busy % (INSTANCES_EACH * BLOCKS), "", at_most=0, kind="count"),
        Figure("the fleet's next change, once the callers have gone", 1000 * freed_s, "ms", at_most=1000),
        Figure("memory of the server, at most", memory_peak_mib(server), "MiB", at_most=400),
        *bystander.figures(at_most_ms=250),
    ]


async def register(address: str, fleet: str, instances: int, blocks: int) -> None:
    """Makes a fleet of so many instances of so many blocks."""
    async with AsyncClient(address, timeout_s=60) as client:
        await client.create_fleet(fleet)
        for first in range(0, instances, 500):
            numbers = range(first, min(instances, first + 500))
            await asyncio.gather(*(client.create_instance(fleet, f"node-{n}", total_blocks=blocks) for n in numbers))


def memory_peak_mib(server: ServerProcess) -> float:
    """The most memory that the server's process has had."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


SCENARIOS: Final[Sequence[Scenario]] = (
    Scenario("large-grants-postgres", "64 Acquires of 16,384 blocks at once, PostgreSQL", on_postgres),
    Scenario("large-grants-sqlite", "192 Acquires of 16,384 blocks at once, SQLite", on_sqlite),
)
