"""A fleet whose revision goes back is noticed, and an answer that is only old is not taken for it."""

from datetime import UTC, datetime
from typing import Any

import pytest

from blockyard import HistoryWentBack
from blockyard._history import History
from blockyard._leasing import Keeper, Lost
from blockyard._retry import DEFAULT_RETRY
from blockyard._watching import Follower, watch
from blockyard.errors import LeaseLost
from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import resources_pb2

ACQUIRE = pb.AcquireRequest(fleet="fleets/gpu")


def answered(history: History, answer: Any, *, fleet: str = "gpu") -> None:
    history.check(history.before(pb.AcquireRequest(fleet=f"fleets/{fleet}")), answer)


def test_a_grant_below_what_was_seen_says_that_history_went_back_and_goes_on_saying_it() -> None:
    history = History()
    answered(history, pb.DescribeResponse(revision=7))
    answered(history, pb.AcquireResponse(revision=8))
    for _ in range(2):
        with pytest.raises(HistoryWentBack, match="fleet gpu is at revision 3, and was at 8"):
            answered(history, pb.AcquireResponse(revision=3))
    answered(history, pb.AcquireResponse(revision=3), fleet="other")


@pytest.mark.parametrize(
    "old",
    [
        pb.AcquireResponse(revision=3, replayed=True),
        pb.RenewResponse(revision=3),
        pb.ReleaseResponse(revision=3),
        pb.DescribeResponse(revision=3),
    ],
)
def test_an_answer_that_may_be_old_is_not_taken_for_it(old: Any) -> None:
    history = History()
    answered(history, pb.AcquireResponse(revision=8))
    answered(history, old)


def test_answers_that_overtake_each_other_are_not_taken_for_it() -> None:
    history = History()
    first, second = history.before(ACQUIRE), history.before(ACQUIRE)
    history.check(second, pb.AcquireResponse(revision=8))
    history.check(first, pb.AcquireResponse(revision=7))
    with pytest.raises(HistoryWentBack, match="was at 8"):
        history.check(history.before(ACQUIRE), pb.AcquireResponse(revision=7))


def test_a_watch_that_goes_back_ends() -> None:
    follower = Follower(watch("gpu"), DEFAULT_RETRY, several=False)
    follower.received(pb.WatchResponse(revision=8))
    follower.received(pb.WatchResponse(revision=8))
    with pytest.raises(HistoryWentBack, match="was at 8"):
        follower.received(pb.WatchResponse(revision=7))


def test_a_lease_whose_allocation_goes_back_is_lost() -> None:
    keeper = Keeper(_grant(8), sent_at=0)
    keeper.renewed(_grant(8), sent_at=1)
    keeper.renewed(_grant(7), sent_at=2)
    step = keeper.next_step(2)
    assert isinstance(step, Lost)
    assert isinstance(step.error, LeaseLost)
    assert isinstance(step.error.__cause__, HistoryWentBack)


def _grant(revision: int) -> Any:
    from blockyard._codec import decode_grant  # noqa: PLC0415  # the one test that decodes

    message = pb.AcquireResponse(revision=revision)
    message.allocation.CopyFrom(
        resources_pb2.Allocation(
            name="fleets/gpu/allocations/2", revision=revision, state=resources_pb2.Allocation.State.HELD
        )
    )
    for time, second in ((message.allocation.expire_time, 90), (message.server_time, 0)):
        time.FromDatetime(datetime.fromtimestamp(second, UTC))
    return decode_grant(message)
