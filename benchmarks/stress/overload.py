"""Ten and more times as many callers as the server can serve: what is answered in time must not collapse."""

import asyncio
import time
from typing import Final

from benchmarks.stress.bystander import another_process
from benchmarks.stress.large_grants import register
from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard import AsyncClient, BlockyardError
from tests.harness.process import ServerProcess

FLEET: Final = "overloaded"
CONNECTIONS: Final = 8


def run(scale: Scale) -> list[Figure]:
    """On SQLite; the best is what 64 callers get who have all the time they need."""
    # The first seconds of a load are not measured: all callers begin at once.
    after_s, seconds = scale.of(2, 1), scale.of(10, 1)
    with ServerProcess(scale.folder / "server", audit_interval_s=0) as server:
        server.start()
        asyncio.run(register(server.address, FLEET, instances=100, blocks=4096))
        with another_process() as load:

            def goodput(callers: int, deadline_s: float) -> float:
                return load.submit(_goodput, server.address, callers, deadline_s, after_s, seconds).result()

            best = max(goodput(callers, 10.0) for callers in (64, 256))
            patient = goodput(scale.of(5000, 640), 10.0)
            hurried = goodput(scale.of(1000, 640), 1.0)
    return [
        Figure("grants a second at best, 64 or 256 callers", best, "1/s"),
        Figure("grants a second, 5,000 callers, deadlines of 10 s", patient, "1/s"),
        Figure("their share of the best", patient / best, "", at_least=0.7),
        Figure("grants a second, 1,000 callers, deadlines of 1 s", hurried, "1/s"),
        Figure("their share of the best", hurried / best, "", at_least=0.7),
    ]


def _goodput(address: str, callers: int, deadline_s: float, after_s: float, seconds: float) -> float:
    """Grants that were answered within the deadline, a second."""

    async def caller(client: AsyncClient, from_s: float, until_s: float) -> int:
        granted = 0
        while (began_s := time.monotonic()) < until_s:
            try:
                lease = await client.acquire(FLEET, blocks=1, holder="job", ttl=60, timeout_s=deadline_s)
            except BlockyardError:
                continue
            granted += from_s <= began_s < until_s
            try:
                await client.release(lease.allocation, timeout_s=deadline_s)
            except BlockyardError:
                continue
        return granted

    async def all_of_them() -> float:
        clients = [AsyncClient(address) for _ in range(CONNECTIONS)]
        from_s = time.monotonic() + after_s
        calls = (caller(clients[n % CONNECTIONS], from_s, from_s + seconds) for n in range(callers))
        granted = sum(await asyncio.gather(*calls))
        for client in clients:
            await client.close()
        return granted / seconds

    return asyncio.run(all_of_them())


SCENARIO: Final = Scenario("overload", "many more callers than can be served, on SQLite", run)
