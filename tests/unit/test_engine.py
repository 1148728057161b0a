"""The engine as the edge sees it: start, answer, read, verify, stop."""

import asyncio
from collections.abc import Iterator

import pytest

from blockyard_server.domain.answers import AllocationFilter, EventFilter, Grant, ReleaseAnswer
from blockyard_server.domain.errors import AllocationNotFound, FleetNotFound, InstanceNotFound, NoCapacity
from blockyard_server.domain.requests import Acquire, DeleteFleet, Release, Renew
from blockyard_server.engine import engine as engine_module
from blockyard_server.engine import ledger as ledger_module
from blockyard_server.engine.clock import ManualClock, SystemClock
from blockyard_server.engine.engine import Engine
from blockyard_server.engine.failures import EngineFailure, Overloaded, ShuttingDown, StoreUnavailable
from blockyard_server.engine.store_protocol import StoreFailed
from blockyard_server.engine.sweeper import Sweeper, SweeperSettings
from blockyard_server.engine.transactor import Transactor
from tests.unit.engine_stories import PATIENCE_S, acquire, engine_over, filled_store, writers_over
from tests.unit.hooked_store import HookedStore

SECOND = 1_000_000


async def started(store: HookedStore | None = None, clock: ManualClock | None = None) -> Engine:
    engine = engine_over(store or filled_store(), clock)
    await engine.start()
    return engine


async def test_the_seeds_story() -> None:
    engine = await started()

    held = await asyncio.gather(*(engine.submit(acquire(f"t{n}")) for n in range(6)))
    totals = (await engine.describe("gpu", full=False, after=0, limit=10)).totals
    assert (totals.busy_blocks, totals.idle_blocks) == (6, 2)
    assert (await engine.verify("gpu")).clean

    names = [grant.view.allocation.allocation for grant in held] * 2
    await asyncio.gather(*(engine.submit(Release("gpu", "slurm", name)) for name in names))
    totals = (await engine.describe("gpu", full=False, after=0, limit=10)).totals
    assert (totals.busy_blocks, totals.idle_blocks) == (0, 8)
    report = await engine.verify("gpu")
    assert report.clean
    assert (report.instances_checked, report.held_blocks_checked, report.events_replayed) == (1, 0, 14)
    await engine.stop()


async def test_many_changes_in_one_call_each_have_their_own_outcome_in_order() -> None:
    engine = await started()
    operations: list[Acquire | Release | Renew] = [
        acquire("a", 8),
        acquire("b"),
        Release("gpu", "slurm", token="a"),
        acquire("b"),
        Renew("gpu", 999),
        acquire("x", fleet="nowhere"),
    ]

    a, full, released, b, unknown, nowhere = await engine.submit_many(operations)

    assert isinstance(a, Grant)
    assert isinstance(full, NoCapacity)
    assert isinstance(released, ReleaseAnswer)
    assert isinstance(b, Grant)
    assert isinstance(unknown, AllocationNotFound)
    assert isinstance(nowhere, FleetNotFound)
    await engine.stop()
    (late,) = await engine.submit_many([acquire("late")])
    assert isinstance(late, ShuttingDown)


async def test_a_reader_never_sees_an_ended_lease_held() -> None:
    clock = ManualClock()
    engine = await started(clock=clock)
    held = (await engine.submit(acquire("a", 3, ttl_us=SECOND))).revision
    clock.advance(SECOND)

    assert (await engine.describe("gpu", full=False, after=0, limit=10)).totals.busy_blocks == 0
    assert (await engine.get_allocation("gpu", held)).allocation.state == "EXPIRED"
    (view,) = (await engine.list_allocations("gpu", AllocationFilter(), after=0, limit=10)).views
    assert view.allocation.end_time_us == clock.now_us()
    assert (await engine.get_instance("gpu", "n1")).busy_blocks == 0
    assert [i.busy_blocks for i in (await engine.list_instances("gpu", after=0, limit=10)).instances] == [0]
    await engine.stop()


async def test_what_is_not_there_is_not_found_by_any_reader() -> None:
    engine = await started()

    for missing in (
        engine.describe("nowhere", full=False, after=0, limit=1),
        engine.get_allocation("nowhere", 1),
        engine.list_allocations("nowhere", AllocationFilter(), after=0, limit=1),
        engine.get_fleet("nowhere"),
        engine.get_instance("nowhere", "n1"),
        engine.list_instances("nowhere", after=0, limit=1),
        engine.list_events("nowhere", EventFilter(), after=0, limit=1),
        engine.verify("nowhere"),
    ):
        with pytest.raises(FleetNotFound):
            await missing
    with pytest.raises(InstanceNotFound):
        await engine.get_instance("gpu", "n9")
    with pytest.raises(AllocationNotFound):
        await engine.get_allocation("gpu", 99)
    await engine.stop()


async def test_the_journal_of_a_deleted_fleet_can_still_be_read() -> None:
    engine = await started()
    await engine.submit(DeleteFleet("gpu", force=True))

    page = await engine.list_events("gpu", EventFilter(), after=0, limit=10)

    assert [event.kind for event in page.events] == ["FLEET_CREATED", "INSTANCE_CREATED", "FLEET_DELETED"]
    assert (await engine.list_fleets(after="", limit=10)).fleets == ()
    with pytest.raises(FleetNotFound):
        await engine.verify("gpu")
    await engine.stop()


async def test_verify_finds_a_falsified_row() -> None:
    store = filled_store()
    engine = await started(store)
    await engine.submit(acquire("a", 2))
    store.rows["gpu"].held["n1", 7] = 99

    report = await engine.verify("gpu")

    assert not report.clean
    assert {d.check for d in report.discrepancies} == {"COUNTER", "HELD_BLOCKS", "MEMORY", "JOURNAL"}
    assert store.rows["gpu"].held["n1", 7] == 99
    assert all(evidence.closed for evidence in store.evidence)
    await engine.stop()


async def test_a_restart_reads_what_was_held_and_forgets_nothing() -> None:
    clock = ManualClock()
    store = filled_store()
    first = await started(store, clock)
    await first.submit(acquire("a", 3))
    await first.stop()
    assert store.closed

    second = await started(store, clock)

    assert (await second.submit(acquire("a", 3))).replayed
    assert (await second.submit(acquire("b", 5))).view.allocation.placements == (("n1", (3, 4, 5, 6, 7)),)
    assert (await second.verify("gpu")).clean
    await second.stop()


async def test_a_store_that_cannot_be_read_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store()
    engine = await started(store)

    def fail(_fleet: str) -> Iterator[None]:
        raise StoreFailed("no connection to /var/lib/secret")

    monkeypatch.setattr(store, "open_evidence", fail)
    monkeypatch.setattr(store, "reader", lambda: fail(""))

    for reading in (engine.get_fleet("gpu"), engine.verify("gpu")):
        with pytest.raises(StoreUnavailable) as failure:
            await reading
        assert "secret" not in failure.value.message
    await engine.stop()


async def test_more_reads_and_verifies_than_may_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "MAX_WAITING_READS", 0)
    monkeypatch.setattr(ledger_module, "MAX_WAITING_AUDITS", 0)
    engine = await started()

    for refused in (engine.get_fleet("gpu"), engine.verify("gpu")):
        with pytest.raises(Overloaded):
            await refused
    await engine.stop()


async def test_a_round_of_the_sweeper_frees_ended_leases_and_forgets_what_is_old() -> None:
    clock = ManualClock()
    store = filled_store(8, "a", "b")
    transactor = Transactor(store, clock)
    for fleet in ("a", "b"):
        transactor.carry_out(fleet, [acquire("lease", fleet=fleet, ttl_us=SECOND), acquire("held", fleet=fleet)])
    writers = writers_over(store, clock)
    sweeper = Sweeper(store, writers, Transactor(store, clock), SweeperSettings(retention_s=10.0))

    clock.advance(SECOND)
    await sweeper.round()
    assert [len(store.rows[fleet].held) for fleet in ("a", "b")] == [1, 1]
    assert [len(store.rows[fleet].allocations) for fleet in ("a", "b")] == [2, 2]

    for pass_us in (2 * SECOND, 11 * SECOND):
        clock.advance(pass_us)
        await sweeper.round()
    assert [[a.token for a in store.rows[fleet].allocations.values()] for fleet in ("a", "b")] == [["held"]] * 2
    await writers.stop()


async def test_the_sweeper_goes_on_after_a_failure() -> None:
    store = filled_store()
    clock = ManualClock()
    Transactor(store, clock).carry_out("gpu", [acquire("lease", ttl_us=SECOND)])
    clock.advance(SECOND)
    failures: list[Exception] = [StoreFailed("away"), ValueError("a fault")]
    swept, loop = asyncio.Event(), asyncio.get_running_loop()

    def fail(_fleet: str) -> None:
        if failures:
            raise failures.pop()

    def notice(_fleet: str) -> None:
        loop.call_soon_threadsafe(swept.set)

    store.before_begin = fail
    store.before_commit = notice
    writers = writers_over(store, clock)
    sweeper = Sweeper(store, writers, Transactor(store, clock), SweeperSettings(interval_s=0.001))
    sweeper.start()

    async with asyncio.timeout(PATIENCE_S):
        await swept.wait()

    assert failures == []
    await sweeper.stop()
    await writers.stop()


async def test_after_the_stop_nothing_is_accepted() -> None:
    engine = await started()
    await engine.stop()

    for refused in (engine.submit(acquire("a")), engine.verify("gpu")):
        with pytest.raises(EngineFailure):
            await refused


def test_clocks_never_go_back() -> None:
    clock = ManualClock(5)
    clock.advance(0)
    with pytest.raises(ValueError, match="never goes back"):
        clock.advance(-1)
    assert clock.now_us() == 5

    system = SystemClock()
    times = [system.now_us() for _ in range(100)]
    assert times == sorted(times)
