"""The one predicate: `expire_time <= now` has ended, to the microsecond."""

from collections.abc import Callable

import pytest

from blockyard_server.domain.answers import ReleaseOutcome
from blockyard_server.domain.errors import AllocationEnded, LeaseExpired
from blockyard_server.domain.lease import lease_ended
from blockyard_server.domain.requests import Demand
from tests.unit.pure_fleet import OFFLINE, SECOND, START, PureFleet

TTL_US = 5 * SECOND
END = START + TTL_US


@pytest.mark.parametrize(
    ("expire_time_us", "now_us", "ended"),
    [(END, END - 1, False), (END, END, True), (END, END + 1, True), (None, END, False)],
)
def test_a_lease_has_ended_at_its_expire_time(expire_time_us: int | None, now_us: int, *, ended: bool) -> None:
    assert lease_ended(expire_time_us, now_us) is ended


def is_renewed(fleet: PureFleet, held: int) -> bool:
    try:
        fleet.renew(held, 10 * SECOND)
    except LeaseExpired:
        return False
    return True


def is_released(fleet: PureFleet, held: int) -> bool:
    return fleet.release(held).outcome is ReleaseOutcome.RELEASED


def is_replayed(fleet: PureFleet, _held: int) -> bool:
    try:
        return fleet.acquire(Demand(blocks=2), token="t", ttl_us=TTL_US).replayed
    except AllocationEnded:
        return False


@pytest.mark.parametrize("is_held", [is_renewed, is_released, is_replayed])
@pytest.mark.parametrize(("late_by_us", "held"), [(-1, True), (0, False), (1, False)])
def test_every_decision_agrees_on_the_very_microsecond(
    is_held: Callable[[PureFleet, int], bool], late_by_us: int, *, held: bool
) -> None:
    fleet = PureFleet(8)
    allocation = fleet.acquire(Demand(blocks=2), token="t", ttl_us=TTL_US).revision
    fleet.now_us = END + late_by_us

    assert is_held(fleet, allocation) is held


def test_an_ended_lease_is_not_flagged_as_being_on_an_offline_instance() -> None:
    fleet = PureFleet(8)
    held = fleet.acquire(ttl_us=TTL_US).revision
    fleet.change("n1", state=OFFLINE)
    fleet.now_us = END

    view = fleet.release(held).view

    assert view is not None
    assert view.offline_instances == ()


def test_the_bound_below_which_no_lease_can_have_ended_follows_the_earliest() -> None:
    fleet = PureFleet(8)
    assert fleet.state.next_expire_time_us is None

    fleet.acquire()
    assert fleet.state.next_expire_time_us is None

    late = fleet.acquire(ttl_us=9 * SECOND).revision
    fleet.acquire(ttl_us=4 * SECOND)
    fleet.renew(late, 20 * SECOND)

    assert fleet.state.next_expire_time_us == START + 4 * SECOND
