"""Selectors: many different ones in turn, new ones on a large fleet, and the largest request that is legal."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.stress.bystander import Bystander, another_process
from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard import AsyncClient, Expression, LimitExceeded, Operator, Selector
from blockyard import Demand as ClientDemand
from blockyard_server.domain import limits
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.index import Instance
from blockyard_server.domain.placement import place
from blockyard_server.domain.requests import Demand, InstanceFields, PlacementStrategy, Term
from tests.harness.process import ServerProcess

FLEET: Final = "selected"
CALLERS: Final = 16
RACK: Final = 40
"""Instances that share a label."""


def in_turn(scale: Scale) -> list[Figure]:
    """Acquire and Release with one selector, and with 1,000 that differ, on SQLite."""
    instances, selectors, seconds = scale.of(20_000, 1000), scale.of(1000, 200), scale.of(8, 1)
    with ServerProcess(scale.folder / "server", audit_interval_s=0) as server, another_process() as load:
        server.start()
        load.submit(_register, server.address, instances).result()
        one = load.submit(_pairs_a_second, server.address, 1, seconds).result()
        many = load.submit(_pairs_a_second, server.address, selectors, seconds).result()
    return [
        Figure("pairs a second with one selector", one, "1/s"),
        Figure("pairs a second with many in turn", many, "1/s"),
        Figure("their share", many / one, "", at_least=0.5),
    ]


def first_use(scale: Scale) -> list[Figure]:
    """Placements in this process, with selectors that were never used before: the longest CPU time of each kind."""
    count = scale.of(100_000, 10_000)
    state = FleetState("gpu")
    for number in range(count):
        labels = {"host": f"h{number}", "rack": f"r{number // RACK}", "zone": f"z{number % 16}"}
        fields = InstanceFields(8, labels, {"gpu": 8, "memory_mib": 1000 + number % 100})
        state.index.add(Instance(f"node-{number}", number + 1, fields, 0, 1, 0))
    state.index.prepare()
    racks = count // RACK

    def not_in_racks(turn: int) -> tuple[Demand, ...]:
        values = tuple(sorted(f"r{(20 * turn + n) % racks}" for n in range(20)))
        return (Demand(blocks=1, selector=(Term("rack", "NOT_IN", values),)),)

    def in_hosts(turn: int) -> tuple[Demand, ...]:
        values = tuple(sorted(f"h{(256 * turn + n) % count}" for n in range(256)))
        return (Demand(blocks=1, selector=(Term("host", "IN", values),)),)

    def requirements(turn: int) -> tuple[Demand, ...]:
        return (Demand(requirements=(("gpu", 1), ("memory_mib", 100 + turn))),)

    def largest(turn: int) -> tuple[Demand, ...]:
        each = limits.MAX_SELECTOR_VALUES_PER_REQUEST // limits.MAX_DEMANDS
        return tuple(
            Demand(
                instances=limits.MAX_INSTANCES_PER_REQUEST // limits.MAX_DEMANDS,
                blocks=1,
                selector=(Term("rack", "NOT_IN", tuple(sorted(f"r{(turn + n * i) % racks}" for n in range(each)))),),
            )
            for i in range(1, limits.MAX_DEMANDS + 1)
        )

    def longest_ms(demands: Callable[[int], tuple[Demand, ...]]) -> float:
        took_s = []
        for turn in range(7):
            asked = demands(turn)
            began_s = time.process_time()
            place(state.index, asked, PlacementStrategy.BEST_FIT)
            took_s.append(time.process_time() - began_s)
        return 1000 * max(took_s)

    return [
        Figure("a new NOT_IN of 20 values", longest_ms(not_in_racks), "ms", at_most=10),
        Figure("a new IN of 256 values", longest_ms(in_hosts), "ms", at_most=10),
        Figure("new requirements", longest_ms(requirements), "ms", at_most=10),
        Figure("the largest legal request: 64 demands, 8,192 values", longest_ms(largest), "ms", at_most=50),
    ]


def one_request(scale: Scale) -> list[Figure]:
    """One Acquire with 64 demands of 32 expressions of 40 values each, beside somebody on another fleet."""
    with ServerProcess(scale.folder / "server", audit_interval_s=0) as server, another_process() as load:
        server.start()
        load.submit(_register, server.address, scale.of(8000, 1000)).result()
        with Bystander(server.address) as bystander:
            time.sleep(1)
            bystander.forget()
            refused = load.submit(_ask_too_much, server.address, scale.of(20, 3)).result()
            time.sleep(1)
    return [
        Figure("refused with LIMIT_EXCEEDED", refused, "", at_least=scale.of(20, 3), kind="count"),
        *bystander.figures(at_most_ms=500),
    ]


def _register(address: str, instances: int) -> None:
    async def register() -> None:
        async with AsyncClient(address, timeout_s=60) as client:
            await client.create_fleet(FLEET)
            for first in range(0, instances, 500):
                numbers = range(first, min(instances, first + 500))
                await asyncio.gather(*(_register_one(client, number) for number in numbers))

    asyncio.run(register())


async def _register_one(client: AsyncClient, number: int) -> None:
    labels = {"host": f"h{number}", "zone": f"z{number % 16}"}
    await client.create_instance(FLEET, f"node-{number}", total_blocks=8, labels=labels)


def _selectors(count: int) -> Sequence[Selector]:
    """That many different selectors; each matches most of the fleet."""
    return [
        Selector(
            match_expressions=(
                Expression("zone", Operator.NOT_IN, (f"z{number % 16}",)),
                Expression("host", Operator.NOT_IN, (f"h{number}", f"h{number + 1}")),
            )
        )
        for number in range(count)
    ]


def _pairs_a_second(address: str, selectors: int, seconds: float) -> float:
    wanted = _selectors(selectors)

    async def caller(client: AsyncClient, number: int, until_s: float) -> int:
        pairs = 0
        while time.monotonic() < until_s:
            selector = wanted[(number + CALLERS * pairs) % selectors]
            granted = await client.acquire(FLEET, blocks=1, holder="job", selector=selector)
            await client.release(granted.allocation)
            pairs += 1
        return pairs

    async def together() -> float:
        async with AsyncClient(address, timeout_s=60) as client:
            await asyncio.gather(*(caller(client, number, time.monotonic() + 0.5) for number in range(CALLERS)))
            until_s = time.monotonic() + seconds
            return sum(await asyncio.gather(*(caller(client, n, until_s) for n in range(CALLERS)))) / seconds

    return asyncio.run(together())


def _ask_too_much(address: str, times: int) -> int:
    """How often it was refused for its size."""

    async def ask() -> int:
        demands = [
            ClientDemand(
                blocks=1,
                selector=Selector(
                    match_expressions=tuple(
                        Expression("host", Operator.NOT_IN, tuple(f"{d:02}{e:02}{v:03}" for v in range(40)))
                        for e in range(32)
                    )
                ),
            )
            for d in range(64)
        ]
        refused = 0
        async with AsyncClient(address, timeout_s=10) as client:
            for _ in range(times):
                try:
                    await client.acquire(FLEET, holder="job", demands=demands)
                except LimitExceeded:
                    refused += 1
        return refused

    return asyncio.run(ask())


SCENARIOS: Final[Sequence[Scenario]] = (
    Scenario("one-request", "one Acquire with 81,920 values, ten times as many as are allowed", one_request),
    Scenario("first-use", "selectors and requirements that are new, 100,000 instances", first_use),
    Scenario("selectors-in-turn", "1,000 different selectors in turn, 20,000 instances", in_turn),
)
