"""Which calls are not begun under overload, because their answer would come too late."""

import pytest

from blockyard_server.rpc.load_shedding import HALF_LIFE_S, MARGIN, MIN_UNDER_WAY, RecentLatency

MANY = MIN_UNDER_WAY


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def latency(clock: Clock) -> RecentLatency:
    latency = RecentLatency(clock)
    for _ in range(1000):
        latency.note(0.2)
    return latency


def test_a_call_with_less_time_than_calls_take_is_too_late(latency: RecentLatency) -> None:
    assert latency.mean_s() == pytest.approx(0.2)
    assert latency.is_too_late(0.2 * MARGIN * 0.99, MANY)
    assert not latency.is_too_late(0.2 * MARGIN * 1.01, MANY)


def test_without_a_deadline_no_call_is_too_late(latency: RecentLatency) -> None:
    assert not latency.is_too_late(None, MANY)


def test_with_few_calls_under_way_each_is_begun_however_little_time_it_has(latency: RecentLatency) -> None:
    assert not latency.is_too_late(0.001, MANY - 1)


def test_when_none_is_begun_the_next_one_is_tried_soon(latency: RecentLatency, clock: Clock) -> None:
    left_s = 0.1
    assert latency.is_too_late(left_s, MANY)
    clock.now_s += 3 * HALF_LIFE_S

    assert not latency.is_too_late(left_s, MANY)


def test_a_server_that_has_answered_nothing_yet_begins_all(clock: Clock) -> None:
    assert not RecentLatency(clock).is_too_late(0.001, MANY)
