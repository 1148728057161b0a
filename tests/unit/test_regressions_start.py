"""One test for each fault that was found in the start of the engine; the number never changes."""

import pytest

from blockyard_server.domain.answers import Grant, Renewal
from blockyard_server.domain.requests import Renew
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.failures import ShuttingDown
from blockyard_server.engine.store_protocol import StoreFailed, StoreRefused
from blockyard_server.engine.transactor import Transactor
from tests.unit.engine_stories import acquire, engine_over, filled_store

SECOND_US = 1_000_000


async def test_201_the_grace_of_a_restart_begins_when_all_fleets_are_loaded() -> None:
    clock = ManualClock()
    store = filled_store()
    Transactor(store, clock).carry_out("gpu", [acquire("lease", ttl_us=15 * SECOND_US)])
    [allocation] = store.rows["gpu"].allocations
    slow_load = iter([20 * SECOND_US])
    store.before_begin = lambda _fleet: clock.advance(next(slow_load, 0))
    engine = engine_over(store, clock, restart_grace_s=10.0)

    await engine.start()
    clock.advance(9 * SECOND_US)

    assert isinstance(await engine.submit(Renew("gpu", allocation)), Renewal)
    await engine.stop()


async def test_202_a_start_that_cannot_read_a_fleet_refuses_and_leaves_nothing_behind() -> None:
    store = filled_store()

    def fail(_fleet: str) -> None:
        message = "the disk is gone"
        raise StoreFailed(message)

    store.before_begin = fail
    engine = engine_over(store)

    with pytest.raises(StoreRefused, match="the disk is gone"):
        await engine.start()

    with pytest.raises(ShuttingDown):
        await engine.submit(acquire("a"))


async def test_203_a_wall_clock_that_is_set_forward_before_a_start_ends_no_lease_early() -> None:
    store = filled_store()
    [grant] = Transactor(store, ManualClock()).carry_out("gpu", [acquire("lease", ttl_us=300 * SECOND_US)])
    assert isinstance(grant, Grant)
    an_hour_ahead = ManualClock()
    an_hour_ahead.advance(3600 * SECOND_US)
    engine = engine_over(store, an_hour_ahead, restart_grace_s=3600.0)

    await engine.start()
    an_hour_ahead.advance(299 * SECOND_US)

    assert isinstance(await engine.submit(Renew("gpu", grant.revision)), Renewal)
    await engine.stop()
