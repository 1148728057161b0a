"""What happens when an answer does not come."""

import grpc
import pytest

from blockyard import (
    Allocation,
    DeadlineExceeded,
    EtagMismatch,
    FleetNotFound,
    Grant,
    InternalError,
    NoCapacity,
    OutcomeUnknown,
    Overloaded,
    ReleaseOutcome,
    RetryPolicy,
    Unavailable,
    operations,
)
from blockyard._allocator import get_allocation
from blockyard._call import Call
from blockyard._fleet_admin import delete_fleet, update_fleet
from blockyard._retry import LONGEST_CHANGE_TIMEOUT_S, Attempts, total_s
from blockyard.errors import CallFailed
from blockyard.reasons import REASONS, Reason
from tests.sdk.conftest import Carrier
from tests.sdk.fake_server import Broken, FakeServer, Refused, Silent

CHANGE = operations.acquire("gpu", blocks=2, holder="train", token="t-1")
READ: Call[Allocation] = get_allocation("fleets/gpu/allocations/1")


def test_unavailable_is_tried_again_with_the_same_token(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("Acquire", Refused(Reason.OVERLOADED), Broken(), Refused(Reason.STORE_UNAVAILABLE))
    grant: Grant = carry_out(operations.acquire("gpu", blocks=2, holder="train"))
    tokens = {request.idempotency_token for request in fake.requests("Acquire")}
    assert len(fake.requests("Acquire")) == 4
    assert tokens == {grant.allocation.idempotency_token}
    assert not grant.replayed


def test_a_grant_whose_answer_was_lost_is_found_again_by_its_token(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("Acquire", Broken(after=True))
    grant: Grant = carry_out(CHANGE)
    assert grant.replayed
    assert list(fake.held) == ["t-1"]


def test_a_change_without_an_answer_in_time_is_asked_for_again(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("Acquire", Silent(after=True))
    grant: Grant = carry_out(CHANGE, timeout_s=2)
    assert grant.replayed
    assert [request.idempotency_token for request in fake.requests("Acquire")] == ["t-1", "t-1"]


def test_a_change_that_is_never_answered_says_what_to_do(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("Acquire", *[Silent()] * 20)
    with pytest.raises(
        OutcomeUnknown, match=r"acquire again with token 't-1', or release_by_token\('gpu', 't-1'\)"
    ) as e:
        carry_out(CHANGE, timeout_s=0.6)
    assert e.value.token == "t-1"
    assert e.value.call == "Acquire"
    assert isinstance(e.value.__cause__, DeadlineExceeded)


def test_a_read_that_is_never_answered_is_no_mystery(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("GetAllocation", Silent())
    with pytest.raises(DeadlineExceeded):
        carry_out(READ, timeout_s=0.3)
    assert len(fake.requests("GetAllocation")) == 1


def test_a_dry_run_without_an_answer_advises_nothing_that_would_cancel_its_token(
    fake: FakeServer, carry_out: Carrier
) -> None:
    fake.disturb("Acquire", *[Silent()] * 20)
    dry_run = operations.acquire("gpu", blocks=2, holder="train", token="t-1", validate_only=True, timeout_s=0.6)
    with pytest.raises(DeadlineExceeded) as e:
        carry_out(dry_run)
    assert "release" not in str(e.value)
    assert "t-1" not in str(e.value)


def test_a_server_that_stays_unavailable_is_given_up_in_the_total_time(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("GetAllocation", *[Refused(Reason.OVERLOADED)] * 1000)
    # On a busy machine the last attempt may have too little time left to be refused in.
    with pytest.raises((Overloaded, DeadlineExceeded)):
        carry_out(READ, timeout_s=1)
    assert len(fake.requests("GetAllocation")) > 1


@pytest.mark.parametrize("reason", [reason for reason, spec in REASONS.items() if not spec.retriable])
def test_a_refusal_is_not_tried_again(fake: FakeServer, carry_out: Carrier, reason: Reason) -> None:
    fake.disturb("Acquire", Refused(reason))
    with pytest.raises(CallFailed) as e:
        carry_out(CHANGE)
    assert e.value.reason == reason
    assert e.value.lost_attempts == 0
    assert len(fake.requests("Acquire")) == 1


def test_a_refusal_after_a_lost_attempt_says_so(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("Acquire", Broken(), Refused(Reason.NO_CAPACITY))
    with pytest.raises(NoCapacity) as e:
        carry_out(CHANGE)
    assert e.value.lost_attempts == 1


def test_a_broken_transport_is_not_taken_for_a_refusal(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("Acquire", Broken(grpc.StatusCode.INTERNAL, after=True))
    with pytest.raises(OutcomeUnknown):
        carry_out(CHANGE)
    assert len(fake.requests("Acquire")) == 1


def test_a_fault_that_the_server_reports_is_an_answer(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("Acquire", Refused(Reason.INTERNAL_ERROR))
    with pytest.raises(InternalError):
        carry_out(CHANGE)


def test_a_delete_that_finds_nothing_after_a_lost_attempt_is_unknown(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("DeleteFleet", Broken(), Refused(Reason.FLEET_NOT_FOUND))
    with pytest.raises(OutcomeUnknown) as e:
        carry_out(delete_fleet("gpu"))
    assert isinstance(e.value.__cause__, FleetNotFound)


def test_a_guarded_update_that_mismatches_after_a_lost_attempt_is_unknown(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("UpdateFleet", Broken(), Refused(Reason.ETAG_MISMATCH))
    with pytest.raises(OutcomeUnknown) as e:
        carry_out(update_fleet("gpu", labels={}, etag="e-1"))
    assert isinstance(e.value.__cause__, EtagMismatch)


def test_repeating_a_release_is_a_success(fake: FakeServer, carry_out: Carrier) -> None:
    grant: Grant = carry_out(CHANGE)
    fake.disturb("Release", Broken(after=True))
    result = carry_out(operations.release(grant.allocation))
    assert result.outcome == ReleaseOutcome.ALREADY_RELEASED
    assert fake.held == {}


def test_pauses_grow_up_to_their_bound_and_are_spread() -> None:
    policy = RetryPolicy(initial_s=1, multiplier=2, max_s=5)
    assert [policy.pause_s(n, jitter=0) for n in range(5)] == [0.5, 1, 2, 2.5, 2.5]
    assert policy.pause_s(10_000, jitter=0.5) == 3.75


def test_a_pause_is_as_long_as_the_server_asks_for(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("GetAllocation", Refused(Reason.OVERLOADED, retry_after_s=60))
    with pytest.raises(Overloaded) as e:
        carry_out(READ)  # 60 s are not left: it gives up at once
    assert e.value.retry_delay is not None
    assert e.value.retry_delay.total_seconds() == 60


def test_each_attempt_of_a_change_leaves_time_for_another_one() -> None:
    attempts = Attempts(CHANGE, RetryPolicy(), deadline=110.0)
    assert attempts.timeout_s(100.0) == 5.0
    assert attempts.timeout_s(105.0) == 2.5
    assert attempts.timeout_s(109.75) == 0.25
    assert attempts.timeout_s(111.0) == 0.0


def test_an_attempt_of_a_read_has_all_the_time() -> None:
    assert Attempts(READ, RetryPolicy(), deadline=110.0).timeout_s(100.0) == 10.0


def test_a_change_is_asked_for_again_for_no_longer_than_servers_remember_its_token() -> None:
    a_day_s = 86_400.0
    assert total_s(CHANGE, a_day_s) == LONGEST_CHANGE_TIMEOUT_S
    assert total_s(CHANGE, 7.0) == 7.0
    assert total_s(READ, a_day_s) == a_day_s


def test_no_attempt_begins_after_the_total_time() -> None:
    attempts = Attempts(READ, RetryPolicy(initial_s=1, max_s=1), deadline=110.0)
    broken = Unavailable("gone", status="UNAVAILABLE")
    assert attempts.pause_s(broken, now=109.0, jitter=0) == 0.5
    with pytest.raises(Unavailable):
        attempts.pause_s(broken, now=109.5, jitter=0)


def test_an_attempt_that_the_callers_time_cut_short_says_nothing_and_the_failure_before_is_raised() -> None:
    broken, late = Unavailable("gone", status="UNAVAILABLE"), DeadlineExceeded("late", status="DEADLINE_EXCEEDED")
    attempts = Attempts(READ, RetryPolicy(initial_s=1, max_s=1), deadline=110.0)
    attempts.timeout_s(109.0)
    attempts.pause_s(broken, now=109.1, jitter=0)
    attempts.timeout_s(109.9)
    with pytest.raises(Unavailable, match="gone"):
        attempts.pause_s(late, now=110.0, jitter=0)

    alone = Attempts(READ, RetryPolicy(), deadline=110.0)
    alone.timeout_s(109.9)
    with pytest.raises(DeadlineExceeded):
        alone.pause_s(late, now=110.0, jitter=0)

    long = Attempts(READ, RetryPolicy(initial_s=1, max_s=1), deadline=110.0)
    long.timeout_s(100.0)
    long.pause_s(broken, now=100.1, jitter=0)
    long.timeout_s(101.0)
    with pytest.raises(DeadlineExceeded):
        long.pause_s(late, now=110.0, jitter=0)
