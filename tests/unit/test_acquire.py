"""Acquire: once for each token."""

from typing import Any

import pytest

from blockyard_server.domain.errors import (
    AllocationEnded,
    FleetNotFound,
    NoCapacity,
    Refused,
    TokenCancelled,
    TokenMismatch,
    Unsatisfiable,
)
from blockyard_server.domain.requests import Demand, FleetFields, UpdateFleet
from tests.unit.pure_fleet import BEST_FIT, OFFLINE, SECOND, START, WORST_FIT, PureFleet, shape


def test_a_grant_says_all_that_was_asked_and_all_that_was_given() -> None:
    fleet = PureFleet(8)
    notes = {"team": "nlp"}

    grant = fleet.acquire(Demand(blocks=2), token="t", holder="job 7", ttl_us=60 * SECOND, annotations=notes)

    held = grant.view.allocation
    assert (grant.revision, grant.time_us, grant.replayed) == (3, START, False)
    assert (held.allocation, held.revision) == (3, 3)
    assert (held.holder, held.caller, held.token, held.annotations) == ("job 7", "slurm", "t", notes)
    assert held.granted == held.placements == (("n1", (0, 1)),)
    assert (held.ttl_us, held.grant_time_us, held.expire_time_us) == (60 * SECOND, START, START + 60 * SECOND)
    assert (held.end_time_us, grant.view.offline_instances) == (None, ())


@pytest.mark.parametrize(
    ("default", "longest", "asked", "granted"),
    [
        (None, None, None, None),
        (None, None, 5, 5),
        (7, None, None, 7),
        (7, None, 9, 9),
        (None, 10, None, 10),
        (None, 10, 5, 5),
        (None, 10, 20, 10),
        (7, 10, None, 7),
        (7, 10, 20, 10),
    ],
)
def test_the_lease_is_what_was_asked_or_the_fleets_default_at_most_the_fleets_longest(
    default: int | None, longest: int | None, asked: int | None, granted: int | None
) -> None:
    fleet = PureFleet(8, fields=FleetFields(default_ttl_us=default, max_ttl_us=longest))

    held = fleet.acquire(ttl_us=asked).view.allocation

    assert held.ttl_us == granted
    assert held.expire_time_us == (None if granted is None else START + granted)


def test_the_same_token_and_request_gives_the_same_answer_and_changes_nothing() -> None:
    fleet = PureFleet(8)
    wish = fleet.wish(Demand(blocks=2), token="t", ttl_us=60 * SECOND)
    first = fleet.do(wish)
    before = fleet.picture()
    fleet.now_us += SECOND

    again = fleet.do(wish)

    assert again.replayed
    assert (again.view, again.revision) == (first.view, first.revision)
    assert again.time_us == START + SECOND
    assert fleet.picture() == before


def test_a_replay_after_a_renewal_and_a_partial_release_answers_the_allocation_as_it_is_now() -> None:
    fleet = PureFleet(8)
    wish = fleet.wish(Demand(blocks=4), token="t", ttl_us=60 * SECOND)
    held = fleet.do(wish).revision
    fleet.now_us += SECOND
    fleet.renew(held, 100 * SECOND)
    fleet.release(held, placements=(("n1", (0,)),))

    again = fleet.do(wish)

    assert again.replayed
    assert again.view.allocation.placements == (("n1", (1, 2, 3)),)
    assert again.view.allocation.expire_time_us == START + 101 * SECOND
    assert again.revision == fleet.state.revision == held + 2


def test_a_replay_flags_the_instances_that_have_gone_offline() -> None:
    fleet = PureFleet(8, 8)
    wish = fleet.wish(Demand(instances=2, blocks=1), token="t")
    fleet.do(wish)
    fleet.change("n2", state=OFFLINE)

    assert fleet.do(wish).view.offline_instances == ("n2",)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"holder": "another"}, "holder"),
        ({"ttl_us": 1}, "ttl"),
        ({"strategy": BEST_FIT}, "placement_strategy"),
        ({"annotations": {"a": "b"}}, "annotations"),
        ({"demands": (Demand(blocks=2),)}, "demands"),
        ({"demands": (Demand(blocks=2),), "holder": "another"}, "holder, demands"),
    ],
)
def test_a_token_that_is_used_for_another_request_is_refused_naming_what_differs(
    changes: dict[str, Any], fields: str
) -> None:
    fleet = PureFleet(8)
    fleet.acquire(Demand(blocks=1), token="t")
    before = fleet.picture()
    demands = changes.pop("demands", (Demand(blocks=1),))

    refusal = fleet.refusal(fleet.wish(*demands, token="t", **changes), TokenMismatch)

    assert refusal.metadata == {"idempotency_token": "t", "fields": fields, "allocation": "fleets/gpu/allocations/3"}
    assert fleet.picture() == before


def test_a_replay_does_not_depend_on_what_an_operator_has_changed_meanwhile() -> None:
    fleet = PureFleet(8)
    wish = fleet.wish(token="t")
    fleet.do(wish)
    fleet.do(UpdateFleet("gpu", {"default_ttl_us": SECOND, "default_placement_strategy": WORST_FIT}))
    fleet.change("n1", total_blocks=1)

    assert fleet.do(wish).replayed


def test_another_caller_may_have_the_same_token_for_something_else() -> None:
    fleet = PureFleet(8)
    fleet.acquire(Demand(blocks=1), token="t", caller="slurm")

    assert not fleet.acquire(Demand(blocks=2), token="t", caller="kueue").replayed
    assert fleet.busy == {"n1": 3}


def test_a_cancelled_token_is_never_granted() -> None:
    fleet = PureFleet(8)
    fleet.release(token="t")

    refusal = fleet.refusal(fleet.wish(token="t"), TokenCancelled)

    assert refusal.metadata == {"idempotency_token": "t"}
    assert fleet.busy == {"n1": 0}


def test_a_replay_of_a_released_allocation_is_refused_and_never_granted_anew() -> None:
    fleet = PureFleet(8)
    wish = fleet.wish(token="t")
    fleet.release(fleet.do(wish).revision)

    assert fleet.refusal(wish, AllocationEnded).metadata["allocation"] == "fleets/gpu/allocations/3"
    assert fleet.busy == {"n1": 0}


def test_a_replay_of_an_ended_lease_is_refused_even_before_it_is_swept() -> None:
    fleet = PureFleet(8)
    wish = fleet.wish(token="t", ttl_us=SECOND)
    fleet.do(wish)
    fleet.now_us += SECOND

    fleet.refusal(wish, AllocationEnded)


def test_a_replay_of_an_allocation_that_is_forgotten_is_refused() -> None:
    fleet = PureFleet(8)
    wish = fleet.wish(token="t")
    held = fleet.do(wish).revision
    del fleet.records.allocations[held]

    fleet.refusal(wish, AllocationEnded)


@pytest.mark.parametrize(("blocks", "kind"), [(8, NoCapacity), (9, Unsatisfiable)])
def test_a_refusal_consumes_nothing_and_the_token_may_be_tried_again(blocks: int, kind: type[Refused]) -> None:
    fleet = PureFleet(8)
    first = fleet.acquire().revision
    wish = fleet.wish(Demand(blocks=blocks), token="t")
    before = fleet.picture()

    fleet.refusal(wish, kind)
    assert fleet.picture() == before

    fleet.release(first)
    fleet.change("n1", total_blocks=9)
    assert not fleet.do(wish).replayed


def test_validate_only_says_what_would_be_granted_and_leaves_the_token_unused() -> None:
    fleet = PureFleet(8)
    before = fleet.picture()

    imagined = fleet.acquire(Demand(blocks=2), token="t", validate_only=True, ttl_us=SECOND)

    assert imagined.view.allocation.placements == (("n1", (0, 1)),)
    assert imagined.view.allocation.expire_time_us == START + SECOND
    assert (imagined.view.allocation.allocation, imagined.view.allocation.revision) == (0, 0)
    assert (imagined.revision, imagined.replayed) == (2, False)
    assert fleet.picture() == before
    assert not fleet.acquire(Demand(blocks=3), token="t").replayed


def test_validate_only_is_refused_as_the_request_would_be() -> None:
    fleet = PureFleet(8)
    fleet.release(token="cancelled")

    fleet.refusal(fleet.wish(Demand(blocks=9), validate_only=True), Unsatisfiable)
    fleet.refusal(fleet.wish(token="cancelled", validate_only=True), TokenCancelled)


def test_validate_only_of_a_request_that_was_granted_is_a_replay() -> None:
    fleet = PureFleet(8)
    first = fleet.acquire(token="t")

    again = fleet.acquire(token="t", validate_only=True)

    assert (again.replayed, again.view) == (True, first.view)


def test_the_blocks_of_an_offline_instance_are_not_flagged_for_an_allocation_that_has_none_there() -> None:
    fleet = PureFleet(8)
    fleet.add("away", shape(8, state=OFFLINE))
    wish = fleet.wish(token="t")
    fleet.do(wish)

    assert fleet.do(wish).view.offline_instances == ()


def test_a_fleet_that_is_not_there_grants_nothing() -> None:
    fleet = PureFleet(created=False)

    assert fleet.refusal(fleet.wish(), FleetNotFound).metadata == {"fleet": "fleets/gpu"}
