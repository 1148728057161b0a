"""A start with many fleets: which are loaded before the server serves, and that no lease of the others ends early."""

import asyncio

import pytest

from blockyard_server.domain.answers import AllocationFilter, Grant, Renewal
from blockyard_server.domain.errors import NoCapacity
from blockyard_server.domain.events import LeasesExtended
from blockyard_server.domain.requests import Renew
from blockyard_server.engine import fleet_loader
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.failures import InvariantViolated
from blockyard_server.engine.fleet_loader import divide
from blockyard_server.engine.transactor import Transactor
from tests.harness.patience import eventually
from tests.unit.engine_stories import PATIENCE_S, Gate, acquire, engine_over, filled_store, register
from tests.unit.hooked_store import HookedStore

SECOND_US = 1_000_000
TTL_US = 60 * SECOND_US


@pytest.fixture(autouse=True)
def _few_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet_loader, "LOADED_AT_START", 1)


def store_with_leases(clock: ManualClock) -> HookedStore:
    """Fleets `a` to `d`, each with a lease on its only instance; `d` is larger than the others."""
    store = filled_store(8, "a", "b", "c", "d")
    before = Transactor(store, clock)
    before.carry_out("d", [register("n2", fleet="d")])
    for fleet in "abcd":
        before.carry_out(fleet, [acquire("lease", 8, fleet=fleet, ttl_us=TTL_US)])
    store.transactions.clear()
    return store


def is_extended(store: HookedStore, fleet: str) -> bool:
    return any(isinstance(event, LeasesExtended) for event in store.rows[fleet].journal)


def hold(store: HookedStore, fleet: str) -> Gate:
    """A gate at which the next transaction on the fleet waits."""
    gate = Gate()

    def wait(begun: str) -> None:
        if begun == fleet:
            gate(fleet)

    store.before_begin = wait
    return gate


def test_the_large_fleets_come_first_however_many_there_are_and_then_the_largest_of_the_small() -> None:
    small, large = fleet_loader.SMALL_FLEET, fleet_loader.SMALL_FLEET + 1

    assert divide({"a": 1, "b": small, "c": 7}) == (["b"], ["c", "a"])
    assert divide({"a": large, "b": small, "c": large + 1, "d": large}) == (["c", "a", "d"], ["b"])
    assert divide({}) == ([], [])


async def test_the_server_serves_before_the_others_are_loaded_and_loads_them_by_itself() -> None:
    clock = ManualClock()
    store = store_with_leases(clock)
    gate = hold(store, "a")
    engine = engine_over(store, clock, restart_grace_s=3600.0)

    await asyncio.wait_for(engine.start(), PATIENCE_S)
    await gate.reached()
    assert {fleet for fleet in "abcd" if is_extended(store, fleet)} == {"d"}

    gate.open()

    async def all_are_extended() -> bool:
        return all(is_extended(store, fleet) for fleet in "abcd")

    await eventually(all_are_extended, "the others are loaded")
    await engine.stop()


async def test_a_lease_whose_end_passed_before_its_fleet_was_loaded_is_still_held() -> None:
    clock = ManualClock()
    store = store_with_leases(clock)
    gate = hold(store, "a")
    engine = engine_over(store, clock, restart_grace_s=3600.0)
    clock.advance(TTL_US - SECOND_US)
    await engine.start()
    await gate.reached()
    clock.advance(2 * SECOND_US)  # the background has not come beyond the first

    described = asyncio.create_task(engine.list_allocations("b", AllocationFilter(state="HELD"), after=0, limit=10))
    others = asyncio.create_task(engine.submit(acquire("other", fleet="c")))
    await asyncio.sleep(0)
    gate.open()

    assert len((await described).views) == 1
    with pytest.raises(NoCapacity):
        await others
    [lease] = store.rows["c"].allocations
    assert isinstance(await engine.submit(Renew("c", lease)), Renewal)
    await engine.stop()


async def test_a_fleet_whose_records_disagree_is_halted_by_the_background_and_the_others_are_served() -> None:
    clock = ManualClock()
    store = store_with_leases(clock)
    store.rows["b"].held.clear()
    engine = engine_over(store, clock, restart_grace_s=3600.0)
    await engine.start()

    async def is_halted() -> bool:
        return store.rows["b"].halted and is_extended(store, "c")

    await eventually(is_halted, "the fleet is halted, and the next one loaded")
    with pytest.raises(InvariantViolated):
        await engine.submit(acquire("x", fleet="b"))
    assert isinstance(await engine.submit(acquire("x", fleet="d")), Grant)
    await engine.stop()


async def test_a_stop_does_not_wait_for_fleets_that_are_not_loaded_yet() -> None:
    clock = ManualClock()
    store = store_with_leases(clock)
    gate = hold(store, "a")
    engine = engine_over(store, clock, restart_grace_s=3600.0)
    await engine.start()
    await gate.reached()

    stopping = asyncio.create_task(engine.stop())
    await asyncio.sleep(0)
    gate.open()
    await asyncio.wait_for(stopping, PATIENCE_S)

    assert not is_extended(store, "c")
