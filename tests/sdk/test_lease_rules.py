"""When a lease is renewed, and when it is lost: the rules, on a clock that the test turns."""

from datetime import UTC, datetime, timedelta

import pytest

from blockyard import Allocation, AllocationState, Grant, Renewal
from blockyard._leasing import Keeper, Lost, Renew, Wait, may_be_held
from blockyard.errors import (
    AllocationEnded,
    AllocationNotFound,
    BlockyardError,
    CallFailed,
    InternalError,
    LeaseExpired,
    NoCapacity,
    OutcomeUnknown,
    TokenMismatch,
    UnexpectedAnswer,
)

SERVER_TIME = datetime(2027, 1, 15, tzinfo=UTC)


def allocation(lease_s: float | None) -> Allocation:
    return Allocation(
        name="fleets/gpu/allocations/17",
        fleet="gpu",
        holder="train",
        state=AllocationState.HELD,
        placements=(),
        fencing_token=17,
        revision=17,
        ttl=None if lease_s is None else timedelta(seconds=lease_s),
        grant_time=SERVER_TIME,
        expire_time=None if lease_s is None else SERVER_TIME + timedelta(seconds=lease_s),
        end_time=None,
        annotations={},
        idempotency_token="t-1",
        offline_instances=(),
    )


def granted(lease_s: float | None) -> Grant:
    return Grant(allocation=allocation(lease_s), revision=17, server_time=SERVER_TIME, replayed=False)


def renewed(lease_s: float) -> Renewal:
    return Renewal(allocation=allocation(lease_s), revision=18, server_time=SERVER_TIME)


def test_a_lease_is_renewed_at_a_third_of_it() -> None:
    keeper = Keeper(granted(30), sent_at=100)
    assert keeper.next_step(101) == Wait(9)
    assert keeper.next_step(110) == Renew(10)


def test_a_renewal_may_take_until_the_lease_counts_as_lost() -> None:
    assert Keeper(granted(30), sent_at=100).next_step(115) == Renew(5)


def test_a_lease_counts_from_before_the_request_was_sent() -> None:
    keeper = Keeper(granted(30), sent_at=100)
    keeper.renewed(renewed(30), sent_at=110)  # whenever the answer came
    assert keeper.next_step(119) == Wait(1)
    assert keeper.next_step(120) == Renew(10)


def test_a_lease_is_as_long_as_the_server_says_and_not_as_was_asked_for() -> None:
    assert Keeper(granted(3), sent_at=100).next_step(101) == Renew(1)


def test_a_lease_is_lost_at_two_thirds_unrenewed_while_the_server_still_honours_it() -> None:
    keeper = Keeper(granted(30), sent_at=100)
    assert isinstance(keeper.next_step(119.9), Renew)
    step = keeper.next_step(120)
    assert isinstance(step, Lost)
    assert str(step.error) == "the lease of fleets/gpu/allocations/17 could not be renewed in time"


def test_a_failed_renewal_is_tried_again_until_then() -> None:
    keeper = Keeper(granted(30), sent_at=100)
    unavailable = InternalError("a fault")
    keeper.failed(unavailable, now=110)
    assert keeper.next_step(110) == Wait(2.5)
    assert keeper.next_step(112.5) == Renew(7.5)
    step = keeper.next_step(120)
    assert isinstance(step, Lost)
    assert step.error.__cause__ is unavailable


def test_a_renewal_forgives_the_failures_before_it() -> None:
    keeper = Keeper(granted(30), sent_at=100)
    keeper.failed(OutcomeUnknown("no answer"), now=112)
    keeper.renewed(renewed(30), sent_at=115)
    assert keeper.next_step(120) == Wait(5)


@pytest.mark.parametrize("failure", [LeaseExpired("over"), AllocationEnded("over"), AllocationNotFound("over")])
def test_a_lease_that_has_ended_is_lost_at_once(failure: CallFailed) -> None:
    keeper = Keeper(granted(30), sent_at=100)
    keeper.failed(failure, now=110)
    step = keeper.next_step(110)
    assert isinstance(step, Lost)
    assert step.error.__cause__ is failure
    assert str(step.error).endswith("has ended: over")


def test_a_lease_that_is_lost_stays_lost_whatever_answers_still_come() -> None:
    keeper = Keeper(granted(30), sent_at=100)
    lost = keeper.next_step(125)
    keeper.renewed(renewed(30), sent_at=119)
    assert isinstance(lost, Lost)
    assert keeper.next_step(126) is lost


def test_what_is_held_until_released_is_never_renewed_and_never_lost() -> None:
    assert Keeper(granted(None), sent_at=100).next_step(1e9) == Wait(float("inf"))


@pytest.mark.parametrize(
    "error",
    [
        OutcomeUnknown("no answer"),
        KeyboardInterrupt(),
        InternalError("a fault"),
        UnexpectedAnswer("an answer that cannot be read"),
    ],
)
def test_what_may_have_been_granted_is_known_from_the_error(error: BaseException) -> None:
    assert may_be_held(error)


@pytest.mark.parametrize(
    "error", [NoCapacity("full"), AllocationEnded("over"), TokenMismatch("not ours, and so not ours to release")]
)
def test_what_was_refused_for_certain_is_known_from_the_error(error: BlockyardError) -> None:
    assert not may_be_held(error)


def test_a_refusal_after_a_lost_attempt_leaves_a_doubt() -> None:
    refusal = NoCapacity("full")
    refusal.lost_attempts = 1
    assert may_be_held(refusal)


def test_somebody_elses_token_is_left_alone_even_in_doubt() -> None:
    mismatch = TokenMismatch("of another request")
    mismatch.lost_attempts = 1
    assert not may_be_held(mismatch)
