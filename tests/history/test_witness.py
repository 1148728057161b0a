"""What checker A refuses, one thing at a time."""

from dataclasses import replace

import pytest

from tests.history.record import (
    HELD,
    Acquire,
    Answer,
    Asked,
    Describe,
    Described,
    Event,
    Freed,
    Get,
    Got,
    Granted,
    History,
    Op,
    Refused,
    Release,
    Shape,
    View,
)
from tests.history.witness import check_with_witness

ONE = (Shape(1, 1),)
SIZES = (2,)
GRANT_1 = Event(1, "GRANTED", 10, 1, ((0, 1),), token="a")
GRANT_2 = Event(2, "GRANTED", 20, 2, ((0, 2),), token="b")
VIEW_1 = View(1, "a", HELD, ((0, 1),), 1)
VIEW_2 = View(2, "b", HELD, ((0, 2),), 2)


def described(revision: int, busy: int) -> Described:
    return Described(revision, busy, 2 - busy, (busy,), (2 - busy,), None)


def history(*calls: tuple[int, int | None, Asked, Answer | None], journal: tuple[Event, ...]) -> History:
    """Calls as (start, end, asked, answer)."""
    ops = [Op(number, number, start, end, asked, answer) for number, (start, end, asked, answer) in enumerate(calls)]
    return History(SIZES, ops, journal)


def the_violation(wrong: History) -> str:
    (violation,) = check_with_witness(wrong).violations
    return violation


A = (0, 10, Acquire("a", ONE), Granted(VIEW_1, replayed=False))
B = (20, 30, Acquire("b", ONE), Granted(VIEW_2, replayed=False))


def test_two_grants_and_what_is_seen_of_them_are_right() -> None:
    right = history(A, B, (40, 50, Describe(full=False), described(2, 2)), journal=(GRANT_1, GRANT_2))

    assert check_with_witness(right).linearizable


def test_a_read_that_misses_what_was_answered_before_it_began_is_stale() -> None:
    wrong = history(A, B, (40, 50, Describe(full=False), described(1, 1)), journal=(GRANT_1, GRANT_2))

    assert "contradicts real time" in the_violation(wrong)


def test_the_same_read_is_right_if_it_began_before_the_answer() -> None:
    right = history(A, B, (29, 50, Describe(full=False), described(1, 1)), journal=(GRANT_1, GRANT_2))

    assert check_with_witness(right).linearizable


def test_a_later_call_with_an_earlier_revision_contradicts_real_time() -> None:
    early, late = (*A[:2], *B[2:]), (*B[:2], *A[2:])
    wrong = history(early, late, journal=(GRANT_1, GRANT_2))

    assert "contradicts real time" in the_violation(wrong)


def test_a_wrong_count_is_not_what_a_replay_gives() -> None:
    wrong = history(A, (20, 30, Describe(full=False), described(1, 0)), journal=(GRANT_1,))

    assert "a replay answers" in the_violation(wrong)


def test_a_grant_of_other_blocks_than_the_strategy_takes_is_not_what_a_replay_gives() -> None:
    other = replace(GRANT_1, placements=((0, 2),))
    answer = Granted(replace(VIEW_1, placements=((0, 2),)), replayed=False)
    wrong = history((0, 10, Acquire("a", ONE), answer), journal=(other,))

    assert "a replay gives" in check_with_witness(wrong).violations[0]


def test_what_nobody_asked_for_must_not_happen() -> None:
    assert "nobody asked for" in the_violation(history(A, journal=(GRANT_1, GRANT_2)))


def test_a_call_without_an_answer_explains_what_happened() -> None:
    report = check_with_witness(history(A, (20, None, Acquire("b", ONE), None), journal=(GRANT_1, GRANT_2)))

    assert report.linearizable
    assert (report.unknown, report.took_effect) == (1, 1)


def test_a_call_explains_nothing_that_was_seen_before_it_was_sent() -> None:
    seen = (12, 15, Describe(full=False), described(2, 2))
    wrong = history(A, seen, (20, None, Acquire("b", ONE), None), journal=(GRANT_1, GRANT_2))

    assert "contradicts real time" in the_violation(wrong)


def test_an_answer_that_the_journal_has_lost_is_a_violation() -> None:
    assert "names a revision that the journal does not have" in the_violation(history(A, B, journal=(GRANT_1,)))


def test_two_answers_cannot_have_made_the_same_change() -> None:
    twice = history(A, (0, 10, Acquire("a", ONE), Granted(VIEW_1, replayed=False)), journal=(GRANT_1,))

    assert any("two answers claim" in each for each in check_with_witness(twice).violations)


@pytest.mark.parametrize(("start", "is_right"), [(5, False), (25, True)])
def test_a_refusal_for_want_of_room_needs_a_moment_without_room(start: int, *, is_right: bool) -> None:
    refused = (start, start + 3, Acquire("c", ONE), Refused("NO_CAPACITY"))

    assert check_with_witness(history(A, B, refused, journal=(GRANT_1, GRANT_2))).linearizable is is_right


def test_several_demands_are_refused_where_the_strategy_of_the_fleet_finds_no_room() -> None:
    """BEST_FIT takes all of the small instance for the first demand; FIRST_FIT would have left a block on each."""
    refused = Op(0, 0, 0, 10, Acquire("a", (Shape(1, 2), Shape(2, 1))), Refused("NO_CAPACITY"))

    assert check_with_witness(History((3, 2), [refused], ())).linearizable


def test_a_refusal_that_nothing_explains_is_a_violation() -> None:
    refused = (20, 30, Acquire("a", ONE), Refused("ALLOCATION_ENDED", 1))

    assert "nothing explains" in the_violation(history(A, refused, journal=(GRANT_1,)))


def test_what_has_ended_is_not_seen_as_held() -> None:
    freed = View(1, "a", "RELEASED", ((0, 1),), 2)
    release = (20, 30, Release(1), Freed("RELEASED", freed, 2))
    event = Event(2, "RELEASED", 20, 1, ((0, 1),), ended=True)
    wrong = history(A, release, (40, 50, Get(1), Got(VIEW_1)), journal=(GRANT_1, event))

    assert "contradicts real time" in the_violation(wrong)
    right = history(A, release, (25, 50, Get(1), Got(VIEW_1)), journal=(GRANT_1, event))
    assert check_with_witness(right).linearizable


@pytest.mark.parametrize(("time_us", "is_right"), [(5009, False), (5010, True)])
def test_no_lease_ends_before_its_time(time_us: int, *, is_right: bool) -> None:
    grant = replace(GRANT_1, expire_us=5010)
    answer = Granted(replace(VIEW_1, expire_us=5010), replayed=False)
    expired = Event(2, "EXPIRED", time_us, 1, ((0, 1),), ended=True)
    told = history((0, 10, Acquire("a", ONE, 5), answer), journal=(grant, expired))

    assert check_with_witness(told).linearizable is is_right
