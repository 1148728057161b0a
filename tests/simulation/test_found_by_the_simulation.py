"""What the simulation has found in the engine, each told again by itself: the stories of seeds that were red."""

import pytest

from blockyard_server.domain.answers import Grant, Renewal
from blockyard_server.domain.errors import LeaseExpired
from blockyard_server.domain.requests import Renew
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.failures import InvariantViolated
from blockyard_server.engine.store_protocol import StoreConflict
from blockyard_server.engine.transactor import Transactor
from tests.unit.engine_stories import acquire, filled_store, once

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
TTL_US = 60 * SECOND_US


class Shared:
    """A fleet in a database with a clock that can be set, and servers that share it."""

    def __init__(self) -> None:
        self.store = filled_store()
        self.clock = ManualClock()
        self.set_by_us = 0
        self.store.database_time_us = self.database_time_us

    def database_time_us(self) -> int:
        """What the database's clock shows."""
        return self.clock.now_us() + self.set_by_us

    def server(self) -> Transactor:
        """One more server, that has not met the fleet yet."""
        return Transactor(self.store, self.clock, grace_s=3600.0)


@pytest.fixture
def shared() -> Shared:
    return Shared()


def grant(server: Transactor, token: str) -> int:
    (outcome,) = server.carry_out("gpu", [acquire(token, ttl_us=TTL_US)])
    assert isinstance(outcome, Grant)
    return outcome.view.allocation.allocation


def is_held(server: Transactor, lease: int) -> bool:
    (outcome,) = server.carry_out("gpu", [Renew("gpu", lease)])
    return not isinstance(outcome, LeaseExpired)


def renew(server: Transactor, lease: int) -> Renewal:
    (outcome,) = server.carry_out("gpu", [Renew("gpu", lease)])
    assert isinstance(outcome, Renewal)
    return outcome


def left_us(renewal: Renewal) -> int:
    """How long a holder takes its lease to last from when it asked."""
    return (renewal.view.allocation.expire_time_us or 0) - renewal.time_us


@pytest.mark.parametrize("by_us", [HOUR_US, -HOUR_US])
def test_a_server_that_met_the_fleet_after_a_step_of_the_clock_does_not_fight_with_one_that_saw_it(
    shared: Shared, by_us: int
) -> None:
    old, new = shared.server(), shared.server()
    grant(old, "before the step")

    shared.set_by_us = by_us
    by_the_new = grant(new, "by the new time")
    by_the_old = grant(old, "by the old time")

    for _ in range(2):
        assert is_held(new, by_the_old), "the new one would end what the old one has just granted"
        assert is_held(old, by_the_new), "the old one would end what the new one has just granted"
    offset_us = shared.store.rows["gpu"].clock_offset_us
    assert is_held(new, by_the_old)
    assert shared.store.rows["gpu"].clock_offset_us == offset_us, "they agree on one time"


def test_a_server_that_was_stopped_while_it_waited_for_the_lock_sees_no_step(shared: Shared) -> None:
    server, other = shared.server(), shared.server()
    grant(server, "meets the fleet")
    lease = grant(other, "lease")

    def stop_after_the_clock_was_read() -> int:
        shown_us = shared.clock.now_us()
        shared.clock.advance(50 * SECOND_US)
        return shown_us

    shared.store.database_time_us = stop_after_the_clock_was_read
    server.carry_out("gpu", [acquire("long")])
    shared.store.database_time_us = shared.database_time_us

    assert shared.store.rows["gpu"].clock_offset_us < SECOND_US
    assert is_held(shared.server(), lease), "ten seconds are left of it"


def test_leases_that_were_extended_in_a_transaction_that_was_ended_are_extended_in_the_next(
    shared: Shared,
) -> None:
    lease = grant(shared.server(), "lease")

    shared.set_by_us = HOUR_US
    shared.store.before_commit = once(StoreConflict("deadlock detected"))

    assert is_held(shared.server(), lease)


def test_the_time_is_not_changed_by_who_extends_no_lease(shared: Shared) -> None:
    old, new = shared.server(), shared.server()
    grant(old, "before the step")
    shared.set_by_us = -HOUR_US
    lease = grant(new, "by the new time")

    old.in_transaction("gpu", lambda attempt: attempt.tx.set_halted(False), extend_leases=False)

    assert is_held(new, lease)


def test_a_fleet_that_was_halted_at_the_start_has_its_leases_extended_when_it_is_served_again() -> None:
    store, clock = filled_store(), ManualClock()
    server = Transactor(store, clock)
    lease = grant(server, "lease")
    server.halt("gpu", "the audit says so")

    ahead = ManualClock(clock.now_us() + HOUR_US)
    restarted = Transactor(store, ahead, grace_s=3600.0)
    for work in (restarted.load, restarted.extend_leases_on_takeover):
        with pytest.raises(InvariantViolated):
            work("gpu")
    restarted.in_transaction(
        "gpu", lambda attempt: attempt.tx.set_halted(False), extend_leases=False, even_if_halted=True
    )

    assert is_held(restarted, lease), "no time has passed; the wall clock was set forward before the start"


@pytest.mark.parametrize("by_us", [HOUR_US, -HOUR_US, -9 * SECOND_US])
def test_nobody_is_told_of_a_lease_longer_than_its_ttl_by_who_met_the_fleet_after_a_step_of_the_clock(
    shared: Shared, by_us: int
) -> None:
    old, new = shared.server(), shared.server()
    lease = grant(old, "lease")
    shared.set_by_us = by_us

    assert left_us(renew(new, lease)) <= TTL_US
    shared.clock.advance(TTL_US - SECOND_US)
    grant(old, "by the one that knows of the step")
    assert left_us(renew(old, lease)) <= TTL_US
    assert left_us(renew(new, lease)) <= TTL_US

    times_us = [event.time_us for event in shared.store.rows["gpu"].journal]
    assert times_us == sorted(times_us)


def test_a_start_with_a_clock_that_was_set_back_goes_on_from_the_latest_event() -> None:
    store, clock = filled_store(), ManualClock()
    lease = grant(Transactor(store, clock), "lease")

    behind = ManualClock(clock.now_us() - HOUR_US)
    restarted = Transactor(store, behind, grace_s=3600.0)
    restarted.extend_leases_on_takeover("gpu")
    assert left_us(renew(restarted, lease)) <= TTL_US
    assert restarted.times.now_us("gpu") == clock.now_us()
    behind.advance(TTL_US)
    assert not is_held(restarted, lease), "time goes on"

    right = ManualClock(clock.now_us() + HOUR_US)
    Transactor(store, right, grace_s=3600.0).extend_leases_on_takeover("gpu")
    assert store.rows["gpu"].clock_offset_us == 0, "and is the clock's again as soon as that is not behind"
