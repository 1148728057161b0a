"""How often the sweeper searches, and how many fleets with a past it looks at: deleted ones cost next to nothing."""

import pytest

from blockyard_server.domain.requests import DeleteFleet
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.engine import Engine, EngineSettings
from blockyard_server.engine.pace import Pace
from blockyard_server.engine.store_protocol import StoreFailed
from blockyard_server.engine.sweeper import MAX_AGED_AT_ONCE, MAX_PAST_AT_ONCE, Sweeper, SweeperSettings
from blockyard_server.engine.transactor import Transactor
from tests.unit.engine_stories import filled_store
from tests.unit.hooked_store import HookedStore

DELETED = 3 * MAX_PAST_AT_ONCE


class Watch:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_what_took_long_rests_so_long_that_it_has_its_share() -> None:
    watch = Watch()
    pace = Pace(0.25, max_rest_s=100, monotonic_s=watch)

    with pace.measured():
        watch.now_s += 2
    watch.now_s += 5.9
    early = pace.is_due
    watch.now_s += 0.1
    assert (early, pace.is_due) == (False, True)


def test_no_rest_is_longer_than_its_bound_and_a_failure_rests_too() -> None:
    watch = Watch()
    pace = Pace(0.01, max_rest_s=30, monotonic_s=watch)

    def fail() -> None:
        with pace.measured():
            watch.now_s += 1000
            raise StoreFailed("the database is away")

    with pytest.raises(StoreFailed):
        fail()
    early = pace.is_due
    watch.now_s += 30
    assert (early, pace.is_due) == (False, True)


def deleted_fleets() -> HookedStore:
    """Many fleets that were deleted and whose events are still kept."""
    names = [f"f{number:03}" for number in range(DELETED)]
    store = filled_store(8, *names)
    transactor = Transactor(store, ManualClock())
    for name in names:
        transactor.carry_out(name, [DeleteFleet(name, force=True)])
    store.transactions.clear()
    return store


async def test_a_round_lets_few_fleets_grow_older_and_the_rounds_come_to_all_of_them() -> None:
    store = deleted_fleets()
    settings = EngineSettings(sweeper=SweeperSettings(interval_s=3600.0))
    engine = Engine(store, ManualClock(), settings)
    await engine.start()

    looked_at: list[list[str]] = []
    for _ in range(DELETED // MAX_AGED_AT_ONCE):
        store.transactions.clear()
        await engine._sweeper.round()
        looked_at.append(list(store.transactions))

    assert {len(fleets) for fleets in looked_at} == {MAX_AGED_AT_ONCE}
    assert sorted(fleet for fleets in looked_at for fleet in fleets) == sorted(store.rows)

    store.transactions.clear()
    for _ in range(DELETED // MAX_PAST_AT_ONCE + 1):
        await engine._sweeper.round()
    assert store.transactions == [], "none of them can grow older by a step yet"
    await engine.stop()


async def test_a_paced_round_searches_only_when_the_last_search_is_long_enough_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = deleted_fleets()
    engine = Engine(store, ManualClock(), EngineSettings(sweeper=SweeperSettings(interval_s=3600.0)))
    await engine.start()
    watch = Watch()
    sweeper: Sweeper = engine._sweeper
    monkeypatch.setattr(sweeper, "_past_pace", Pace(0.01, max_rest_s=100, monotonic_s=watch))
    with sweeper._past_pace.measured():
        watch.now_s += 1

    store.transactions.clear()
    await sweeper.round(paced=True)
    assert store.transactions == []
    await sweeper.round()
    assert len(store.transactions) == MAX_AGED_AT_ONCE
    await engine.stop()
