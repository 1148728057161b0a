"""A server that is told to stop while Verifies of a great fleet, reads and changes wait: it ends within its grace."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final

from benchmarks.fill import fill
from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard import CallFailed, DescribeView, operations
from blockyard._allocator import describe_page
from blockyard._call import Call
from blockyard._ledger import verify
from tests.harness.one_shot import OneShotClient
from tests.harness.process import ServerProcess

FLEET: Final = "bench"
VERIFIES: Final = 8


def run(scale: Scale) -> Sequence[Figure]:
    """The figures of one stop."""
    data = scale.folder / "blockyard.db"
    asyncio.run(
        fill(data, instances=scale.of(10_000, 1000), blocks=64, allocations=scale.of(200_000, 10_000)),
    )
    grace_s = scale.of(10, 2)
    with ServerProcess(scale.folder, data=data, drain_grace_s=grace_s) as server:
        server.start()
        return asyncio.run(_stop(server, scale, grace_s))


async def _stop(server: ServerProcess, scale: Scale, grace_s: int) -> list[Figure]:
    reads, changes = scale.of(1000, 300), scale.of(1000, 200)
    calls: dict[str, list[Call[Any]]] = {
        "Verifies": [verify(FLEET)] * VERIFIES,
        "FULL Describes": [describe_page(FLEET, view=DescribeView.FULL)] * reads,
        "Acquires": [operations.acquire(FLEET, holder="job", blocks=1) for _ in range(changes)],
    }
    async with OneShotClient(server.address) as client:
        await client.send(describe_page(FLEET))
        asked = {
            kind: [asyncio.create_task(client.start(call).outcome()) for call in several]
            for kind, several in calls.items()
        }
        while not any(task.done() for task in asked["Acquires"]):
            await asyncio.wait(asked["Acquires"], return_when=asyncio.FIRST_COMPLETED)
        waiting = {kind: sum(not task.done() for task in tasks) for kind, tasks in asked.items()}
        began_s = monotonic()
        server.ask_to_stop()
        code = await asyncio.to_thread(server.wait)
        took_s = monotonic() - began_s
        outcomes = {kind: Counter(map(_end, await asyncio.gather(*tasks))) for kind, tasks in asked.items()}
    return [
        Figure("SIGTERM: until the process has ended", took_s, "s", at_most=grace_s),
        Figure("  exit code", code, "", at_most=0, kind="count"),
        *(Figure(f"  {kind} under way", number, "calls") for kind, number in waiting.items()),
        *(
            Figure(f"  {kind}: ended without a status of the server", _dropped(ends), "calls", at_most=0, kind="count")
            for kind, ends in outcomes.items()
        ),
        *(Figure(f"  {kind}: answered well", ends["OK"], "calls") for kind, ends in outcomes.items()),
    ]


def _end(outcome: object) -> str:
    """How a call ended: well, with a reason, or with neither."""
    if isinstance(outcome, CallFailed):
        return outcome.reason or f"no reason: {outcome.status}"
    return "OK"


def _dropped(ends: "Counter[str]") -> int:
    """A bare UNAVAILABLE is none of these: it is how gRPC says that a call has not been looked at."""
    return sum(number for end, number in ends.items() if end.startswith("no reason") and "UNAVAILABLE" not in end)


SCENARIO: Final = Scenario("drains", "a server that is stopped ends within its grace", run)
