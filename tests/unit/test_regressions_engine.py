"""One test for each fault that was found in the engine; the number never changes."""

import asyncio
import logging
import threading

import pytest

from blockyard_server.domain.allocation import AllocationState
from blockyard_server.domain.answers import FleetRecord, Grant, ReleaseAnswer, ReleaseOutcome
from blockyard_server.domain.audit import Findings
from blockyard_server.domain.events import InstanceCreated
from blockyard_server.domain.requests import Acquire, Release, Renew
from blockyard_server.engine import batch as batch_module
from blockyard_server.engine import writer as writer_module
from blockyard_server.engine.auditor import Auditor, AuditorSettings, Position
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.engine import Engine, EngineSettings
from blockyard_server.engine.failures import InvariantViolated, Overloaded, StoreUnavailable
from blockyard_server.engine.store_protocol import InvariantBroken, StoreFailed
from blockyard_server.engine.sweeper import Sweeper, SweeperSettings
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.verify_snapshot import VerifySnapshot
from blockyard_server.engine.writer import WriterLimits
from tests.memory.evidence import MemoryEvidence
from tests.unit.engine_stories import (
    PATIENCE_S,
    Gate,
    acquire,
    create,
    engine_over,
    filled_store,
    once,
    register,
    writer_over,
    writers_over,
)
from tests.unit.hooked_store import HookedStore


def coarse_loop() -> asyncio.AbstractEventLoop:
    """A loop with a coarse clock: its timers fire a little before their time, as uvloop's may."""
    loop = asyncio.new_event_loop()
    vars(loop)["_clock_resolution"] = 0.003
    return loop


def test_001_a_request_after_company_is_carried_out_though_the_linger_ended_early() -> None:
    async def story() -> None:
        writer = writer_over(HookedStore())
        await asyncio.gather(*(writer.enqueue(create(f"f{n}")) for n in range(5)))
        loop = asyncio.get_running_loop()
        until = loop.time() + 0.02
        for _ in range(1_000_000):  # a busy loop looks at its timers often: before their time, too
            await asyncio.sleep(0.00001)
            if loop.time() > until:
                break

        record = await asyncio.wait_for(writer.enqueue(create("alone")), PATIENCE_S)

        assert isinstance(record, FleetRecord)
        await writer.stop()

    with asyncio.Runner(loop_factory=coarse_loop) as runner:
        runner.run(story())


async def test_002_a_fault_in_a_batch_that_nobody_waits_for_any_more_does_not_end_the_writer() -> None:
    store = filled_store()
    writer = writer_over(store)
    store.before_begin = once(RuntimeError("a fault"))
    writer.enqueue(acquire("gone", fleet="gone")).cancel()
    asked = [writer.enqueue(acquire(token)) for token in ("a", "b")]

    answers = await asyncio.wait_for(asyncio.gather(*asked), PATIENCE_S)

    assert all(isinstance(answer, Grant) for answer in answers)
    await writer.stop()


async def test_003_what_waits_for_a_sweep_is_not_overtaken_by_what_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "MAX_EXPIRED_AT_ONCE", 2)
    clock = ManualClock()
    writer = writer_over(filled_store(8), clock=clock)
    leases = [writer.enqueue(acquire(f"lease-{n}", ttl_us=1_000_000)) for n in range(8)]
    await asyncio.gather(*leases)
    clock.advance(1_000_000)

    asked = [
        writer.enqueue(acquire("wide", 8)),
        writer.enqueue(Release("gpu", "slurm", token="wide")),
        writer.enqueue(acquire("late", 8)),
    ]
    wide, released, late = await asyncio.wait_for(asyncio.gather(*asked), PATIENCE_S)

    assert isinstance(wide, Grant)
    assert isinstance(released, ReleaseAnswer)
    assert released.outcome is ReleaseOutcome.RELEASED
    assert isinstance(late, Grant)
    await writer.stop()


async def test_004_a_request_alone_does_not_linger_for_itself_while_leases_are_swept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_module, "MAX_EXPIRED_AT_ONCE", 1)
    clock = ManualClock()
    writer = writer_over(filled_store(8), WriterLimits(linger_s=3600.0, max_linger_s=3600.0), clock)
    for n in range(4):
        await writer.enqueue(acquire(f"lease-{n}", 2, ttl_us=1_000_000))
    clock.advance(1_000_000)

    answer = await asyncio.wait_for(writer.enqueue(acquire("wide", 8)), PATIENCE_S)

    assert isinstance(answer, Grant)
    await writer.stop()


async def test_005_a_verify_that_nobody_waits_for_any_more_gives_its_snapshot_back() -> None:
    store = filled_store()
    engine = engine_over(store)
    await engine.start()
    asked = [asyncio.ensure_future(engine.verify("gpu")) for _ in range(3)]
    await asyncio.sleep(0)

    for verify in asked:
        verify.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await engine.stop()

    assert store.evidence
    assert all(evidence.closed for evidence in store.evidence)


async def test_006_a_fleet_whose_invariants_do_not_hold_does_not_keep_the_server_from_starting() -> None:
    clock = ManualClock()
    store = filled_store(8, "broken", "sound")
    for fleet in ("broken", "sound"):
        Transactor(store, clock).carry_out(fleet, [acquire("lease", fleet=fleet, ttl_us=1)])
    store.before_write = once(InvariantBroken("a row is not as it should be"))
    engine = engine_over(store, clock, restart_grace_s=10.0)

    await engine.start()

    with pytest.raises(InvariantViolated):
        await engine.submit(acquire("a", fleet="broken"))
    assert isinstance(await engine.submit(acquire("a", fleet="sound")), Grant)
    assert (await engine.verify("broken")).clean
    await engine.stop()


async def test_007_a_fault_over_one_fleet_does_not_keep_the_sweeper_from_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    store = filled_store(8, "a", "b")
    transactor = Transactor(store, clock)
    for fleet in ("a", "b"):
        transactor.carry_out(fleet, [acquire("lease", fleet=fleet, ttl_us=1_000_000)])
    clock.advance(1_000_000)
    writers = writers_over(store, clock)
    store.before_write = once(ValueError("a fault"))

    await Sweeper(store, writers, Transactor(store, clock), SweeperSettings()).round()

    assert [fleet for fleet in ("a", "b") if store.rows[fleet].held] == ["a"]
    assert "fleet a could not be swept" in caplog.text
    await writers.stop()


async def test_008_verify_of_a_fleet_whose_journal_does_not_follow_says_so_and_halts_it() -> None:
    store = filled_store()
    engine = engine_over(store)
    await engine.start()
    await engine.submit(acquire("a"))
    other = Transactor(store, ManualClock())
    other.carry_out("gpu", [register("n2")])
    rows = store.rows["gpu"]
    rows.journal[-1] = InstanceCreated(rows.revision + 1, 0, "n2", 2, rows.instances["n2"].fields)

    assert not (await engine.verify("gpu")).clean
    assert store.rows["gpu"].halted
    with pytest.raises(InvariantViolated):
        await engine.submit(acquire("b"))
    await engine.stop()


async def test_009_refusals_of_a_batch_that_nobody_waits_for_any_more_are_not_reported_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = filled_store()
    engine = engine_over(store)
    await engine.start()
    gate = Gate()
    store.before_commit = gate
    operations: list[Acquire | Release | Renew] = [acquire("a"), acquire("too much", 9), Renew("gpu", 999)]
    batch = asyncio.ensure_future(engine.submit_many(operations))
    await gate.reached()

    batch.cancel()
    gate.open()
    await asyncio.gather(batch, return_exceptions=True)
    await engine.stop()
    del batch

    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_010_work_aside_alone_does_not_end_the_writer() -> None:
    writer = writer_over(filled_store())
    await writer.run_exclusive(lambda: None)
    await asyncio.sleep(0.01)

    answer = await asyncio.wait_for(writer.enqueue(acquire("next")), PATIENCE_S)

    assert isinstance(answer, Grant)
    await writer.stop()


async def test_011_work_aside_is_bounded_like_all_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING_EXCLUSIVE", 1)
    writer = writer_over(filled_store())
    gate = threading.Event()
    under_way = asyncio.ensure_future(writer.run_exclusive(gate.wait))
    await asyncio.sleep(0.01)
    waiting = asyncio.ensure_future(writer.run_exclusive(lambda: "done"))
    await asyncio.sleep(0)

    with pytest.raises(Overloaded):
        await writer.run_exclusive(lambda: "too much")

    gate.set()
    assert list(await asyncio.gather(under_way, waiting)) == [True, "done"]
    await writer.stop()


async def test_012_what_the_audit_finds_while_the_server_stops_still_halts_the_fleet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = filled_store()
    engine = Engine(store, ManualClock(), EngineSettings(auditor=AuditorSettings(interval_s=0.01), restart_grace_s=0))
    comparing, go_on = threading.Event(), threading.Event()
    compare = Auditor._compare

    def slowly(auditor: Auditor, snapshot: VerifySnapshot, position: Position) -> Findings:
        comparing.set()
        assert go_on.wait(PATIENCE_S)
        return compare(auditor, snapshot, position)

    monkeypatch.setattr(Auditor, "_compare", slowly)
    await engine.start()
    store.rows["gpu"].held["n1", 0] = 99  # nobody's
    assert await asyncio.to_thread(comparing.wait, PATIENCE_S)

    stop = asyncio.ensure_future(engine.stop())
    await asyncio.sleep(0.01)
    go_on.set()
    await stop

    assert store.rows["gpu"].halted


async def test_013_a_halt_waits_for_its_turn_however_many_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "MAX_WAITING_EXCLUSIVE", 0)
    writer = writer_over(filled_store())

    assert await writer.run_exclusive(lambda: "halted", however_many=True) == "halted"

    await writer.stop()


async def test_014_a_fleet_that_the_store_fails_at_keeps_no_other_from_being_swept_and_audited(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = ManualClock()
    store = filled_store(8, "a", "b")
    engine = engine_over(store, clock)
    await engine.start()
    for fleet in ("a", "b"):
        await engine.submit(acquire("lease", fleet=fleet, ttl_us=1_000_000))
    clock.advance(1_000_000)

    def fail_at_a(fleet: str) -> None:
        if fleet == "a":
            raise StoreFailed("its pages are damaged")

    store.before_commit = fail_at_a
    await engine._sweeper.round()
    store.rows["b"].held["n1", 7] = 99  # nobody's
    await engine._auditor.round()

    assert [fleet for fleet in ("a", "b") if len(store.rows[fleet].held) == 1] == ["a", "b"]
    assert store.rows["b"].allocations[3].state is AllocationState.EXPIRED
    assert store.rows["b"].halted
    assert "fleet a could not be swept" in caplog.text
    await engine.stop()


async def test_015_a_slice_that_cannot_be_read_gives_its_snapshot_back(monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store()
    transactor = Transactor(store, ManualClock())

    def fail(*_: object) -> list[tuple[str, int, int]]:
        raise StoreFailed("it cannot be read")

    monkeypatch.setattr(MemoryEvidence, "instances_after", fail)
    with pytest.raises(StoreUnavailable):
        transactor.snapshot_slice("gpu", "", 10)

    assert [evidence.closed for evidence in store.evidence] == [True]


async def test_016_a_halt_that_could_not_be_recorded_is_recorded_by_the_next_audit_and_counted_until_then() -> None:
    store = filled_store()
    engine = engine_over(store)
    await engine.start()
    store.before_commit = once(StoreFailed("the database is away"))
    await engine._writers.of("gpu").run_exclusive(lambda: engine._transactor.halt("gpu", "for the test"))
    before = store.rows["gpu"].halted

    await engine._auditor.round()

    assert (before, store.rows["gpu"].halted) == (False, True)
    assert engine.counts.halted_fleets == {"gpu"}
    await engine.stop()
