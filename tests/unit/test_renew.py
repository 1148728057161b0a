"""Renew: extends, never shortens, never revives."""

import pytest

from blockyard_server.domain.errors import (
    AllocationEnded,
    AllocationNotFound,
    FleetNotFound,
    LeaseExpired,
    NotHolder,
    StaleFencingToken,
)
from blockyard_server.domain.events import Renewed
from blockyard_server.domain.requests import Demand, FleetFields, Renew
from tests.unit.pure_fleet import OFFLINE, SECOND, START, PureFleet


def leased(ttl_us: int | None = 60 * SECOND, *, longest: int | None = None) -> tuple[PureFleet, int]:
    """A fleet and the one lease in it."""
    fleet = PureFleet(8, fields=FleetFields(max_ttl_us=longest))
    return fleet, fleet.acquire(Demand(blocks=2), token="t", ttl_us=ttl_us).revision


def test_a_lease_ends_as_long_after_the_renewal_as_its_own_time() -> None:
    fleet, held = leased()
    fleet.now_us += 20 * SECOND

    renewal = fleet.renew(held)

    assert renewal.view.allocation.expire_time_us == START + 80 * SECOND
    assert renewal.revision == renewal.view.allocation.revision == held + 1
    assert fleet.events[-1] == Renewed(held + 1, fleet.now_us, held, "job", 60 * SECOND, START + 80 * SECOND)


def test_a_renewal_may_ask_for_another_time() -> None:
    fleet, held = leased()

    renewal = fleet.renew(held, 100 * SECOND)

    assert renewal.view.allocation.expire_time_us == START + 100 * SECOND
    assert renewal.view.allocation.ttl_us == 100 * SECOND


def test_a_renewal_gets_at_most_the_fleets_longest() -> None:
    fleet, held = leased(longest=70 * SECOND)
    fleet.now_us += 50 * SECOND

    assert fleet.renew(held, 100 * SECOND).view.allocation.expire_time_us == START + 120 * SECOND


@pytest.mark.parametrize("ttl_us", [1, 59 * SECOND, 60 * SECOND])
def test_a_renewal_never_shortens_and_then_changes_nothing(ttl_us: int) -> None:
    fleet, held = leased()
    before = fleet.picture()

    renewal = fleet.renew(held, ttl_us)

    assert renewal.view.allocation.expire_time_us == START + 60 * SECOND
    assert renewal.view.allocation.ttl_us == 60 * SECOND
    assert renewal.revision == held
    assert fleet.picture() == before


def test_an_allocation_without_a_lease_stays_as_it_is() -> None:
    fleet, held = leased(None)
    before = fleet.picture()

    renewal = fleet.renew(held, SECOND)

    assert renewal.view.allocation.expire_time_us is None
    assert fleet.picture() == before


def test_a_renewal_flags_the_instances_that_are_offline() -> None:
    fleet, held = leased()
    fleet.change("n1", state=OFFLINE)

    assert fleet.renew(held).view.offline_instances == ("n1",)


def test_nothing_revives_a_lease_that_has_ended() -> None:
    fleet, held = leased()
    fleet.now_us += 60 * SECOND
    before = fleet.picture()

    refusal = fleet.refusal(Renew("gpu", held, 100 * SECOND), LeaseExpired)
    assert refusal.metadata["allocation"] == f"fleets/gpu/allocations/{held}"
    assert fleet.picture() == before

    fleet.release(held)
    fleet.refusal(Renew("gpu", held), LeaseExpired)


def test_what_was_released_is_not_renewed() -> None:
    fleet, held = leased()
    fleet.release(held)
    fleet.now_us += 3600 * SECOND

    refusal = fleet.refusal(Renew("gpu", held), AllocationEnded)
    assert refusal.metadata == {"allocation": f"fleets/gpu/allocations/{held}"}


def test_guards_that_do_not_agree_refuse_the_renewal() -> None:
    fleet, held = leased()
    fleet.now_us += SECOND

    fleet.refusal(Renew("gpu", held, holder="thief"), NotHolder)
    fleet.refusal(Renew("gpu", held, fencing_token=held + 1), StaleFencingToken)
    assert fleet.renew(held, holder="job", fencing_token=held).revision == held + 1


def test_what_is_not_there_cannot_be_renewed() -> None:
    PureFleet(8).refusal(Renew("gpu", 99), AllocationNotFound)
    PureFleet(created=False).refusal(Renew("gpu", 1), FleetNotFound)
