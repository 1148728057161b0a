"""The figures of a replay, reckoned by hand."""

import hashlib
from decimal import Decimal

from blockyard.cli.replay_log import LoggedInstance, LoggedRequest
from blockyard.cli.replay_tally import ReplayTally

INSTANCES = [LoggedInstance("a", 4, "x"), LoggedInstance("b", 4, "y")]


def make_request(
    row: int, blocks: int, *, instances: int = 1, duration_s: int | None = 10, any_label: tuple[str, ...] = ()
) -> LoggedRequest:
    return LoggedRequest(
        row=row,
        request_id=f"r{row}",
        arrival_s=Decimal(row),
        duration_s=None if duration_s is None else Decimal(duration_s),
        instances=instances,
        blocks=blocks,
        exclusive=False,
        any_label=any_label,
        owner="o",
    )


def test_the_digest_is_over_every_outcome_in_order() -> None:
    tally = ReplayTally(INSTANCES)
    tally.granted(make_request(0, 1, instances=2), [("b", 1), ("a", 1)])
    tally.refused(make_request(1, 9), unsatisfiable=True)

    expected = hashlib.sha256(b"r0:b,a;r1:-;").hexdigest()[:16]
    assert tally.figures().digest == expected


def test_block_seconds_count_the_granted_blocks_and_leave_out_what_has_no_duration() -> None:
    tally = ReplayTally(INSTANCES)
    tally.granted(make_request(0, 2, duration_s=10), [("a", 2)])
    # An exclusive request may be granted more than it asked for at least.
    tally.granted(make_request(1, 1, duration_s=3), [("b", 4)])
    tally.granted(make_request(2, 1, duration_s=None), [("a", 1)])

    assert tally.figures().accepted_block_seconds == 2 * 10 + 4 * 3


def test_the_share_before_the_first_refusal_is_not_moved_by_later_ones() -> None:
    tally = ReplayTally(INSTANCES)
    assert tally.figures().allocated_share_before_first_refusal is None
    tally.granted(make_request(0, 4), [("a", 4)])
    tally.refused(make_request(1, 5), unsatisfiable=False)
    tally.granted(make_request(2, 4), [("b", 4)])
    tally.refused(make_request(3, 1), unsatisfiable=False)

    assert tally.figures().allocated_share_before_first_refusal == 0.5


def test_a_refusal_counts_as_fragmentation_only_if_enough_blocks_were_idle() -> None:
    tally = ReplayTally(INSTANCES)
    tally.granted(make_request(0, 2), [("a", 2)])
    tally.granted(make_request(1, 2), [("b", 2)])
    tally.refused(make_request(2, 3), unsatisfiable=False)  # 4 idle, 2 + 2
    tally.refused(make_request(3, 5), unsatisfiable=False)  # 4 idle
    tally.refused(make_request(4, 3, any_label=("y",)), unsatisfiable=False)  # 4 idle, 2 of them with the label

    figures = tally.figures()
    assert figures.refused_although_idle == 2
    assert figures.refused_although_matching_idle == 1
    assert (figures.accepted, figures.refused, figures.no_capacity, figures.unsatisfiable) == (2, 3, 3, 0)


def test_what_is_released_is_idle_again() -> None:
    tally = ReplayTally(INSTANCES)
    large = make_request(0, 4, instances=2)
    tally.granted(large, [("a", 4), ("b", 4)])
    tally.refused(make_request(1, 1), unsatisfiable=False)
    tally.released(large)
    tally.refused(make_request(2, 5), unsatisfiable=False)

    assert tally.figures().refused_although_idle == 1
