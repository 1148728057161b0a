"""Release: repeating it changes nothing, and the outcome tells the cases apart."""

import pytest

from blockyard_server.domain.allocation import AllocationState
from blockyard_server.domain.answers import ReleaseOutcome
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.errors import (
    AllocationNotFound,
    BlockNotGranted,
    FleetNotFound,
    NotHolder,
    StaleFencingToken,
)
from blockyard_server.domain.events import Expired, Released
from blockyard_server.domain.requests import Demand, InstanceState, Release
from tests.unit.pure_fleet import ACTIVE, CORDONED, OFFLINE, SECOND, PureFleet

RELEASED, ALREADY_RELEASED = ReleaseOutcome.RELEASED, ReleaseOutcome.ALREADY_RELEASED
ALREADY_EXPIRED, CANCELLED = ReleaseOutcome.ALREADY_EXPIRED, ReleaseOutcome.CANCELLED_BEFORE_GRANT


def holding(blocks: int = 4, *sizes: int, ttl_us: int | None = None) -> tuple[PureFleet, int]:
    """A fleet and the one allocation in it."""
    fleet = PureFleet(*(sizes or (8,)))
    grant = fleet.acquire(Demand(instances=len(fleet.busy), blocks=blocks), token="t", holder="job", ttl_us=ttl_us)
    return fleet, grant.revision


@pytest.mark.parametrize("by_token", [False, True], ids=["by name", "by token"])
def test_the_first_release_frees_all_and_a_second_changes_nothing(*, by_token: bool) -> None:
    fleet, held = holding()
    wish = Release("gpu", "slurm", token="t") if by_token else Release("gpu", "slurm", held)

    first = fleet.do(wish)
    before = fleet.picture()
    fleet.now_us += SECOND
    second = fleet.do(wish)

    assert (first.outcome, second.outcome) == (RELEASED, ALREADY_RELEASED)
    assert first.view == second.view
    assert first.revision == second.revision == fleet.state.revision
    assert first.view.allocation.state is AllocationState.RELEASED
    assert first.view.allocation.end_time_us == first.time_us
    assert first.view.allocation.placements == (("n1", (0, 1, 2, 3)),)
    assert fleet.busy == {"n1": 0}
    assert fleet.picture() == before


def test_a_release_of_an_ended_lease_says_so_and_frees_it_once() -> None:
    fleet, held = holding(ttl_us=SECOND)
    fleet.now_us += SECOND

    first = fleet.release(held)
    second = fleet.release(held)

    assert (first.outcome, second.outcome) == (ALREADY_EXPIRED, ALREADY_EXPIRED)
    assert first.view == second.view
    assert first.view is not None
    assert first.view.allocation.state is AllocationState.EXPIRED
    assert fleet.events[-1] == Expired(4, fleet.now_us, held, "job", (("n1", (0, 1, 2, 3)),))
    assert fleet.busy == {"n1": 0}


def test_a_release_by_an_unknown_token_closes_the_door_and_repeats() -> None:
    fleet = PureFleet(8)

    first = fleet.release(token="t")
    second = fleet.release(token="t")

    assert (first.outcome, first.view, first.revision) == (CANCELLED, None, 3)
    assert (second.outcome, second.view, second.revision) == (CANCELLED, None, 3)
    assert fleet.state.revision == 3


def test_a_token_is_the_callers_own() -> None:
    fleet, _ = holding()

    assert fleet.do(Release("gpu", "kueue", token="t")).outcome is CANCELLED
    assert fleet.busy == {"n1": 4}


def test_a_partial_release_leaves_the_rest_held() -> None:
    fleet, held = holding(2, 8, 8)

    answer = fleet.release(held, placements=(("n2", (1,)),))

    assert answer.outcome is RELEASED
    assert answer.view is not None
    assert answer.view.allocation.state is AllocationState.HELD
    assert answer.view.allocation.placements == (("n1", (0, 1)), ("n2", (0,)))
    assert answer.view.allocation.granted == (("n1", (0, 1)), ("n2", (0, 1)))
    assert fleet.events[-1] == Released(
        5, fleet.now_us, held, "job", freed=(("n2", (1,)),), left=(("n1", (0, 1)), ("n2", (0,)))
    )
    assert fleet.busy == {"n1": 2, "n2": 1}


def test_releasing_a_block_twice_is_fine_and_changes_nothing() -> None:
    fleet, held = holding()
    fleet.release(held, placements=(("n1", (1,)),))
    fleet.acquire(Demand(blocks=5), token="another")
    before = fleet.picture()

    answer = fleet.release(held, placements=(("n1", (1,)),))

    assert answer.outcome is ALREADY_RELEASED
    assert fleet.picture() == before


def test_a_partial_release_frees_only_what_is_still_held_of_it() -> None:
    fleet, held = holding()
    fleet.release(held, placements=(("n1", (1,)),))
    fleet.acquire(Demand(blocks=5), token="another")

    answer = fleet.release(held, placements=(("n1", (0, 1)),))

    assert answer.outcome is RELEASED
    assert fleet.busy == {"n1": 7}


@pytest.mark.parametrize("last", [(), (("n1", (0, 1, 2)),), (("n1", (0, 1, 2, 3)),)])
def test_an_allocation_ends_with_its_last_block(last: Placements) -> None:
    fleet, held = holding()
    fleet.release(held, placements=(("n1", (3,)),))

    answer = fleet.release(held, placements=last)

    assert answer.view is not None
    assert answer.view.allocation.state is AllocationState.RELEASED
    assert answer.view.allocation.placements == (("n1", (0, 1, 2)),)
    assert fleet.busy == {"n1": 0}


def test_a_release_frees_what_was_granted_whatever_else_is_on_the_instance() -> None:
    fleet, held = holding()
    fleet.acquire(Demand(blocks=4), token="another")
    fleet.change("n1", total_blocks=16)

    fleet.release(held)

    assert fleet.busy == {"n1": 4}
    assert fleet.state.index.by_name["n1"].busy == 0b1111_0000


@pytest.mark.parametrize("wrong", [(("n1", (0, 4)),), (("n2", (0,)),), (("n1", (4095,)),)])
def test_a_block_that_was_never_granted_is_refused_and_nothing_is_released(wrong: Placements) -> None:
    fleet, held = holding()
    before = fleet.picture()

    refusal = fleet.refusal(Release("gpu", "slurm", held, placements=wrong), BlockNotGranted)

    instance, blocks = wrong[0]
    assert refusal.metadata == {
        "allocation": f"fleets/gpu/allocations/{held}",
        "instance": f"fleets/gpu/instances/{instance}",
        "block": str(blocks[-1]),
    }
    assert fleet.picture() == before


@pytest.mark.parametrize("state", [ACTIVE, CORDONED, OFFLINE])
def test_a_release_works_on_instances_of_any_state(state: InstanceState) -> None:
    fleet, held = holding()
    fleet.change("n1", state=state)

    answer = fleet.release(held)

    assert answer.outcome is RELEASED
    assert answer.view is not None
    assert answer.view.offline_instances == ()
    assert fleet.busy == {"n1": 0}


def test_a_partial_release_flags_the_instances_that_are_offline() -> None:
    fleet, held = holding()
    fleet.change("n1", state=OFFLINE)

    answer = fleet.release(held, placements=(("n1", (0,)),))

    assert answer.view is not None
    assert answer.view.offline_instances == ("n1",)


def test_guards_that_agree_let_the_release_through() -> None:
    fleet, held = holding()

    assert fleet.release(held, holder="job", fencing_token=held).outcome is RELEASED


@pytest.mark.parametrize("ended", [False, True])
def test_guards_that_do_not_agree_refuse_even_a_repetition(*, ended: bool) -> None:
    fleet, held = holding()
    if ended:
        fleet.release(held)
    before = fleet.picture()

    fleet.refusal(Release("gpu", "slurm", held, holder="thief"), NotHolder)
    fleet.refusal(Release("gpu", "slurm", held, fencing_token=held - 1), StaleFencingToken)
    fleet.refusal(Release("gpu", "slurm", token="t", holder="thief"), NotHolder)
    assert fleet.picture() == before


def test_what_is_not_there_cannot_be_released() -> None:
    fleet = PureFleet(8)

    refusal = fleet.refusal(Release("gpu", "slurm", 99), AllocationNotFound)
    assert refusal.metadata == {"allocation": "fleets/gpu/allocations/99"}
    PureFleet(created=False).refusal(Release("gpu", "slurm", token="t"), FleetNotFound)
