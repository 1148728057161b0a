"""The journal's compaction by the sweeper, and whoever meets a journal whose beginning is gone."""

from contextlib import aclosing

import pytest

from blockyard_server.domain.answers import EventFilter, Grant
from blockyard_server.domain.errors import Compacted
from blockyard_server.domain.journal import Watch
from blockyard_server.domain.requests import Release
from blockyard_server.engine import sweeper as sweeper_module
from blockyard_server.engine import transactor as transactor_module
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.engine import Engine, EngineSettings
from blockyard_server.engine.store_protocol import InvariantBroken
from blockyard_server.engine.sweeper import SweeperSettings
from blockyard_server.engine.transactor import Transactor
from tests.unit.engine_stories import acquire, create, filled_store, once, register
from tests.unit.hooked_store import HookedStore

RETENTION_S = 60.0
AGES_US = 61_000_000
NOTED_US = 2_000_000


def engine_of(store: HookedStore, clock: ManualClock) -> Engine:
    """An engine that sweeps when asked, and keeps a minute of history."""
    sweeping = SweeperSettings(interval_s=3600.0, journal_retention_s=RETENTION_S)
    return Engine(store, clock, EngineSettings(sweeper=sweeping, restart_grace_s=0.0))


async def sweep(engine: Engine) -> None:
    await engine._sweeper.round()


async def grow_old(engine: Engine, clock: ManualClock) -> None:
    """The sweeper notes how old the fleets are, and then more time passes than their history is kept."""
    for pass_us in (NOTED_US, AGES_US):
        await sweep(engine)
        clock.advance(pass_us)


async def test_a_round_forgets_what_is_older_than_the_retention_and_verify_stays_clean() -> None:
    store, clock = filled_store(), ManualClock()
    engine = engine_of(store, clock)
    await engine.start()
    held = await engine.submit(acquire("held"))
    ended = await engine.submit(acquire("ended"))
    await sweep(engine)
    assert store.rows["gpu"].compacted_revision == 0
    await grow_old(engine, clock)
    await engine.submit(Release("gpu", "slurm", allocation=ended.revision))
    await sweep(engine)

    assert store.rows["gpu"].compacted_revision == ended.revision
    report = await engine.verify("gpu")
    assert (report.clean, report.events_replayed, report.held_blocks_checked) == (True, 1, 1)
    await engine.submit(Release("gpu", "slurm", allocation=held.revision))
    assert (await engine.verify("gpu")).clean
    await engine.stop()


async def test_events_are_listed_from_the_first_that_is_kept_and_not_from_one_that_is_gone() -> None:
    store, clock = filled_store(), ManualClock()
    engine = engine_of(store, clock)
    await engine.start()
    for token in "abc":
        await engine.submit(acquire(token))
    await grow_old(engine, clock)
    await engine.submit(acquire("d"))
    await sweep(engine)

    page = await engine.list_events("gpu", EventFilter(), after=-1, limit=100)
    assert [event.revision for event in page.events] == [6]
    assert (await engine.list_events("gpu", EventFilter(), after=5, limit=100)).events == page.events
    for after in (0, 4):
        with pytest.raises(Compacted) as refused:
            await engine.list_events("gpu", EventFilter(), after=after, limit=100)
        assert refused.value.metadata == {
            "fleet": "fleets/gpu",
            "from_revision": str(after + 1),
            "oldest_revision": "6",
        }
    await engine.stop()


async def test_history_goes_in_bounded_steps_and_the_rest_in_the_next_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactor_module, "MAX_COMPACTED_AT_ONCE", 2)
    monkeypatch.setattr(sweeper_module, "MAX_COMPACTIONS", 2)
    store, clock = filled_store(), ManualClock()
    engine = engine_of(store, clock)
    await engine.start()
    for token in "abcde":
        await engine.submit(acquire(token))
    await grow_old(engine, clock)

    compacted = []
    for _ in range(3):
        await sweep(engine)
        compacted.append(store.rows["gpu"].compacted_revision)
    assert compacted == [4, 6, 6]
    await engine.stop()


async def test_a_halted_fleets_history_is_evidence_and_stays() -> None:
    store, clock = filled_store(8, "a", "b"), ManualClock()
    engine = engine_of(store, clock)
    await engine.start()
    store.before_write = once(InvariantBroken("a test says so"))
    with pytest.raises(Exception, match="invariant"):
        await engine.submit(acquire("x", fleet="a"))
    await grow_old(engine, clock)
    await sweep(engine)

    assert [store.rows[fleet].compacted_revision for fleet in "ab"] == [0, 1]
    await engine.stop()


async def test_a_watch_of_what_is_kept_goes_on_over_a_compaction() -> None:
    store, clock = filled_store(), ManualClock()
    engine = engine_of(store, clock)
    await engine.start()
    async with aclosing(engine.watch(Watch("gpu"))) as pages:
        assert (await anext(pages)).revision == 2
        await engine.submit(acquire("a"))
        assert (await anext(pages)).revision == 3
        await grow_old(engine, clock)
        await engine.submit(acquire("b"))
        await sweep(engine)
        assert (await anext(pages)).revision == 4
        await engine.submit(acquire("c"))
        assert (await anext(pages)).revision == 5
    assert store.rows["gpu"].compacted_revision == 3
    await engine.stop()


def test_a_server_that_was_away_for_longer_than_the_journal_is_kept_loads_the_fleet_anew() -> None:
    store, clock = HookedStore(), ManualClock()
    here, there = Transactor(store, clock), Transactor(store, clock)
    here.carry_out("gpu", [create(), register()])
    there.carry_out("gpu", [acquire("a")])
    for token in "bcd":
        here.carry_out("gpu", [acquire(token)])
    assert here.compact("gpu", store.rows["gpu"].revision) is False
    assert store.rows["gpu"].compacted_revision == 5
    loads = len(store.loads)

    (outcome,) = there.carry_out("gpu", [acquire("e")])

    assert isinstance(outcome, Grant)
    assert outcome.view.allocation.placements == (("n1", (4,)),)
    assert len(store.loads) == loads + 1
