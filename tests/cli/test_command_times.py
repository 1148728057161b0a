"""When a command has to stop and to be over, as its lease allows."""

from math import inf

import pytest

from blockyard.cli.command_times import CommandTimes, command_times


def times(span_s: float, wanted_grace_s: float | None) -> CommandTimes:
    return command_times(lost_at=1000 + span_s * 2 / 3, ends_at=1000 + span_s, wanted_grace_s=wanted_grace_s)


@pytest.mark.parametrize(
    ("span_s", "wanted_s", "grace_s"),
    [
        (30, None, 7.5),  # a quarter
        (3600, None, 10),  # at most ten seconds
        (3600, 600, 600),
        (3600, 3600, 900),  # a quarter at most, whatever is asked for
        (30, 60, 7.5),
        (30, 0, 0),
    ],
)
def test_the_grace_is_never_more_than_a_quarter_of_the_lease(
    span_s: float, wanted_s: float | None, grace_s: float
) -> None:
    assert times(span_s, wanted_s).grace_s == pytest.approx(grace_s)


@pytest.mark.parametrize("wanted_s", [None, 0, 1, 60, 10_000])
@pytest.mark.parametrize("span_s", [0.5, 3, 30, 3600])
def test_whenever_the_command_is_told_to_stop_it_is_killed_while_a_twelfth_of_the_lease_is_left(
    span_s: float, wanted_s: float | None
) -> None:
    allowed = times(span_s, wanted_s)

    for stopped_at in (1000, allowed.stop_at, 1000 + span_s, 1000 + 2 * span_s):
        assert allowed.kill_at(stopped_at) <= 1000 + span_s * 11 / 12 + 1e-9


def test_a_command_whose_lease_was_lost_early_gets_its_grace() -> None:
    assert times(3600, 60).kill_at(1200) == 1260


def test_blocks_that_are_held_until_released_set_no_end() -> None:
    assert command_times(lost_at=inf, ends_at=inf, wanted_grace_s=None) == CommandTimes(inf, inf, 10)
    assert command_times(lost_at=inf, ends_at=inf, wanted_grace_s=99) == CommandTimes(inf, inf, 99)
