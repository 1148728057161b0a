"""The writer: requests share commits, and nobody is answered before the commit."""

import asyncio
from dataclasses import replace

import pytest

from blockyard_server.domain.answers import Answer, Deleted, FleetRecord, Grant, ReleaseAnswer
from blockyard_server.domain.errors import FleetNotFound, NoCapacity, Refused
from blockyard_server.domain.requests import DeleteFleet, Release, Request
from blockyard_server.engine import batch as batch_module
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.failures import (
    InternalError,
    InvariantViolated,
    Overloaded,
    ShuttingDown,
    StoreUnavailable,
)
from blockyard_server.engine.store_protocol import InvariantBroken, StoreFailed
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.writer import Writer, WriterLimits
from blockyard_server.engine.writers import Writers
from tests.unit.engine_stories import PATIENCE_S, Gate, acquire, create, filled_store, once, register, writer_over
from tests.unit.hooked_store import HookedStore

NEVER = WriterLimits(linger_s=3600.0, max_linger_s=3600.0)
"""Whoever waits for this linger does not come back within a test's patience."""


class CpuTime:
    """The CPU time that a process has used, as the test says."""

    def __init__(self) -> None:
        self.used_s = 0.0

    def __call__(self) -> float:
        return self.used_s

    def use(self, seconds: float) -> None:
        self.used_s += seconds


def lingering_as_long_as_it_cost(store: HookedStore, cpu: CpuTime) -> Writer:
    """A writer that has started, and whose linger is the CPU time of its last round and nothing else."""
    limits = WriterLimits(linger_s=0.0, max_linger_s=3600.0)
    writer = Writer(Transactor(store, ManualClock()), limits, cpu_s=cpu)
    writer.start()
    return writer


async def answered(*asked: "asyncio.Future[Answer]") -> list[object]:
    """The answers and the failures, in order."""
    outcomes = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), PATIENCE_S)
    return list(outcomes)


async def test_requests_that_arrive_while_a_commit_is_under_way_share_the_next() -> None:
    store = filled_store(100)
    writer = writer_over(store)
    gate = Gate()
    store.before_commit = gate
    first = writer.enqueue(acquire("first"))
    await gate.reached()
    others = [writer.enqueue(acquire(f"t{n}")) for n in range(50)]
    gate.open()

    answers = await answered(first, *others)

    assert all(isinstance(answer, Grant) for answer in answers)
    assert store.commits == [("gpu", 1), ("gpu", 50)]
    await writer.stop()


async def test_nobody_is_answered_before_the_commit_returns() -> None:
    store = filled_store()
    writer = writer_over(store)
    gate = Gate()
    store.before_commit = gate
    asked = [writer.enqueue(acquire("a")), writer.enqueue(acquire("b", 9)), writer.enqueue(Release("gpu", "slurm", 99))]

    await gate.reached()
    for _ in range(20):
        await asyncio.sleep(0)
    assert not any(future.done() for future in asked)
    assert store.rows["gpu"].held == {}

    gate.open()
    answers = await answered(*asked)
    assert isinstance(answers[0], Grant)
    assert all(isinstance(answer, Refused) for answer in answers[1:])
    assert store.rows["gpu"].held == {("n1", 0): 3}
    await writer.stop()


async def test_a_batch_holds_at_most_the_limit_of_requests() -> None:
    store = filled_store(100)
    writer = writer_over(store, WriterLimits(max_batch=4))

    await answered(*(writer.enqueue(acquire(f"t{n}")) for n in range(10)))

    assert [events for _, events in store.commits] == [4, 4, 2]
    await writer.stop()


async def test_each_fleet_has_a_transaction_of_its_own_and_its_order() -> None:
    store = filled_store(8, "a", "b")
    writer = writer_over(store)

    answers = await answered(*(writer.enqueue(acquire(f"t{n}", fleet="ab"[n % 2])) for n in range(8)))

    assert sorted(store.commits) == [("a", 4), ("b", 4)]
    assert [answer.revision for answer in answers if isinstance(answer, Grant)] == [3, 3, 4, 4, 5, 5, 6, 6]
    await writer.stop()


async def test_later_requests_of_a_batch_see_what_earlier_ones_did() -> None:
    writer = writer_over(HookedStore())
    wishes: list[Request] = [
        create(),
        register("n1", 1),
        acquire("a"),
        acquire("b"),
        Release("gpu", "slurm", token="a"),
        acquire("b"),
        acquire("b"),
        Release("gpu", "slurm", token="b"),
        DeleteFleet("gpu", force=True),
        acquire("c"),
    ]

    made, registered, a, full, released, b, again, freed, deleted, gone = await answered(*map(writer.enqueue, wishes))

    assert isinstance(made, FleetRecord)
    assert registered
    assert isinstance(a, Grant)
    assert isinstance(full, NoCapacity)
    assert isinstance(released, ReleaseAnswer)
    assert isinstance(b, Grant)
    assert isinstance(again, Grant)
    assert (b.replayed, again.replayed) == (False, True)
    assert isinstance(freed, ReleaseAnswer)
    assert isinstance(deleted, Deleted)
    assert isinstance(gone, Refused)
    await writer.stop()


async def test_fifty_copies_of_one_request_in_flight_are_one_grant_and_fifty_equal_answers() -> None:
    store = filled_store()
    writer = writer_over(store, WriterLimits(max_batch=7))

    answers = await answered(*(writer.enqueue(acquire("t", 2)) for _ in range(50)))

    grants = [answer for answer in answers if isinstance(answer, Grant)]
    assert len(grants) == 50
    assert [(grant.view, grant.revision) for grant in grants] == [(grants[0].view, grants[0].revision)] * 50
    assert sum(not grant.replayed for grant in grants) == 1
    assert len(store.rows["gpu"].held) == 2
    await writer.stop()


async def test_two_hundred_ask_for_a_hundred_blocks_and_exactly_a_hundred_get_one() -> None:
    store = filled_store(100)
    writer = writer_over(store)

    answers = await answered(*(writer.enqueue(acquire(f"t{n}")) for n in range(200)))

    assert sum(isinstance(answer, Grant) for answer in answers) == 100
    assert sum(isinstance(answer, NoCapacity) for answer in answers) == 100
    assert len(store.rows["gpu"].held) == 100
    await writer.stop()


async def test_a_waiter_that_goes_away_does_not_cancel_the_commit() -> None:
    store = filled_store()
    writer = writer_over(store)
    gate = Gate()
    store.before_commit = gate
    gone, stays = writer.enqueue(acquire("gone")), writer.enqueue(acquire("stays"))
    await gate.reached()

    gone.cancel()
    gate.open()

    assert isinstance((await answered(stays))[0], Grant)
    (again,) = await answered(writer.enqueue(acquire("gone")))
    assert isinstance(again, Grant)
    assert again.replayed
    assert len(store.rows["gpu"].held) == 2
    await writer.stop()


async def test_a_failed_commit_fails_its_batch_and_memory_is_loaded_anew() -> None:
    store = filled_store()
    writer = writer_over(store)
    await answered(writer.enqueue(acquire("before")))
    assert store.loads == ["gpu"]
    store.before_commit = once(StoreFailed("the disk is full"))

    failed = await answered(*(writer.enqueue(acquire(token)) for token in ("a", "b")))
    assert all(isinstance(failure, StoreUnavailable) for failure in failed)
    assert len(store.rows["gpu"].held) == 1

    (grant,) = await answered(writer.enqueue(acquire("a", 7)))
    assert isinstance(grant, Grant)
    assert (grant.revision, grant.replayed) == (4, False)
    assert store.loads == ["gpu", "gpu"]
    await writer.stop()


async def test_what_the_store_says_is_not_told_to_clients() -> None:
    store = filled_store()
    writer = writer_over(store)
    store.before_commit = once(StoreFailed("SELECT secret FROM /var/lib"))

    (failure,) = await answered(writer.enqueue(acquire("a")))

    assert isinstance(failure, StoreUnavailable)
    assert "secret" not in failure.message
    await writer.stop()


async def test_a_broken_invariant_halts_that_fleet_and_no_other() -> None:
    store = filled_store(8, "broken", "sound")
    writer = writer_over(store)
    store.before_write = once(InvariantBroken("UNIQUE constraint failed"))

    (failure,) = await answered(writer.enqueue(acquire("a", fleet="broken")))
    assert isinstance(failure, InvariantViolated)
    assert failure.metadata == {"fleet": "fleets/broken"}
    assert "UNIQUE" not in failure.message

    commits = len(store.commits)
    still, sound = await answered(*(writer.enqueue(acquire("b", fleet=fleet)) for fleet in ("broken", "sound")))
    assert isinstance(still, InvariantViolated)
    assert isinstance(sound, Grant)
    assert store.commits[commits:] == [("sound", 1)]
    assert store.rows["broken"].halted
    assert store.rows["broken"].held == {}
    await writer.stop()


async def test_memory_that_does_not_follow_its_journal_halts_the_fleet() -> None:
    store = filled_store()
    writer = writer_over(store)
    await answered(writer.enqueue(acquire("a")))
    Transactor(store, ManualClock()).carry_out("gpu", [acquire("b"), acquire("c"), acquire("e")])
    journal = store.rows["gpu"].journal
    journal[-2], journal[-1] = journal[-1], journal[-2]  # were the first one wrong, memory would be loaded anew

    (failure,) = await answered(writer.enqueue(acquire("d")))

    assert isinstance(failure, InvariantViolated)
    await writer.stop()


async def test_a_fault_in_one_request_fails_only_it(caplog: pytest.LogCaptureFixture) -> None:
    store = filled_store()
    writer = writer_over(store)

    class Nonsense:
        """No request at all."""

        fleet, token_key, allocation_id = "gpu", None, None

    wishes = [acquire("a"), Nonsense(), acquire("b")]
    a, failure, b = await answered(*(writer.enqueue(wish) for wish in wishes))  # type: ignore[arg-type]  # on purpose

    assert isinstance(a, Grant)
    assert isinstance(b, Grant)
    assert isinstance(failure, InternalError)
    assert "Nonsense" not in failure.message
    assert failure.metadata["incident"] in caplog.text
    assert "Nonsense" in caplog.text
    await writer.stop()


async def test_more_than_the_queue_holds_is_refused_at_once_and_the_rest_is_carried_out() -> None:
    store = filled_store()
    writer = writer_over(store, WriterLimits(max_waiting=3))
    gate = Gate()
    store.before_commit = gate
    first = writer.enqueue(acquire("first"))
    await gate.reached()
    waiting = [writer.enqueue(acquire(f"t{n}")) for n in range(3)]

    with pytest.raises(Overloaded) as refusal:
        writer.enqueue(acquire("one more"))

    assert refusal.value.metadata == {"maximum": "3"}
    assert refusal.value.retry_after_s is not None
    gate.open()
    assert all(isinstance(answer, Grant) for answer in await answered(first, *waiting))
    await writer.stop()


async def test_the_bound_holds_for_the_requests_of_all_lanes_together() -> None:
    writer_shards = Writers(Transactor(filled_store(), ManualClock()), WriterLimits(max_waiting=3), 8)
    one, other = writer_shards.of("gpu"), writer_shards.of("another")
    assert one is not other
    elsewhere = replace(acquire("b"), fleet="another")
    waiting = [one.enqueue(acquire("a")), other.enqueue(elsewhere), one.enqueue(acquire("c"))]

    for shard in (one, other):
        with pytest.raises(Overloaded):
            shard.enqueue(acquire("one more"))

    writer_shards.start()
    assert [type(outcome) for outcome in await answered(*waiting)] == [Grant, FleetNotFound, Grant]
    await writer_shards.stop()


async def test_stopping_carries_out_what_was_accepted_and_refuses_the_rest() -> None:
    store = filled_store(100)
    writer = writer_over(store, replace(NEVER, max_batch=4))
    gate = Gate()
    store.before_commit = gate
    accepted = [writer.enqueue(acquire(f"t{n}")) for n in range(10)]
    await gate.reached()

    stop = asyncio.ensure_future(writer.stop())
    await asyncio.sleep(0)
    with pytest.raises(ShuttingDown):
        writer.enqueue(acquire("late"))
    with pytest.raises(ShuttingDown):
        await writer.run_exclusive(lambda: None)
    gate.open()
    await asyncio.wait_for(stop, PATIENCE_S)

    assert all(isinstance(future.result(), Grant) for future in accepted)
    assert len(store.rows["gpu"].held) == 10


async def test_stopping_an_idle_writer_ends_at_once_even_while_it_lingers() -> None:
    writer = writer_over(filled_store(), NEVER)
    await answered(*(writer.enqueue(acquire(f"t{n}")) for n in range(3)))

    await asyncio.wait_for(writer.stop(), PATIENCE_S)

    with pytest.raises(ShuttingDown):
        writer.enqueue(acquire("late"))


async def test_a_request_alone_never_waits_for_the_linger() -> None:
    writer = writer_over(filled_store(), NEVER)

    for n in range(5):
        (answer,) = await answered(writer.enqueue(acquire(f"t{n}")))
        assert isinstance(answer, Grant)

    await writer.stop()


async def test_after_company_the_writer_lingers_until_as_many_have_come() -> None:
    store = filled_store()
    writer = writer_over(store, NEVER)
    await answered(*(writer.enqueue(acquire(f"t{n}")) for n in range(3)))

    early = [writer.enqueue(acquire(f"early {n}")) for n in range(2)]
    await asyncio.sleep(0.005)
    assert not any(future.done() for future in early)
    answers = await answered(*early, writer.enqueue(acquire("third")))

    assert all(isinstance(answer, Grant) for answer in answers)
    assert store.commits == [("gpu", 3), ("gpu", 3)]
    await writer.stop()


async def test_a_busy_process_lingers_for_as_long_as_the_last_round_took_of_the_cpu() -> None:
    store, cpu = filled_store(), CpuTime()
    writer = lingering_as_long_as_it_cost(store, cpu)
    store.before_commit = lambda _fleet: cpu.use(3600.0)
    await answered(writer.enqueue(acquire("a")), writer.enqueue(acquire("b")))

    early = writer.enqueue(acquire("early"))
    await asyncio.sleep(0.02)
    assert not early.done()
    answers = await answered(early, writer.enqueue(acquire("second")))

    assert all(isinstance(answer, Grant) for answer in answers)
    assert store.commits == [("gpu", 2), ("gpu", 2)]
    await writer.stop()


async def test_what_the_process_does_while_nobody_asks_is_no_reason_to_linger() -> None:
    store, cpu = filled_store(), CpuTime()
    writer = lingering_as_long_as_it_cost(store, cpu)
    await answered(writer.enqueue(acquire("a")), writer.enqueue(acquire("b")))
    await asyncio.sleep(0.02)
    cpu.use(3600.0)
    await answered(writer.enqueue(acquire("c")), writer.enqueue(acquire("d")))

    (answer,) = await answered(writer.enqueue(acquire("single")))

    assert isinstance(answer, Grant)
    assert store.commits == [("gpu", 2), ("gpu", 2), ("gpu", 1)]
    await writer.stop()


async def test_work_aside_runs_between_batches_and_its_fault_is_its_own() -> None:
    store = filled_store()
    writer = writer_over(store, NEVER)
    await answered(*(writer.enqueue(acquire(f"t{n}")) for n in range(3)))

    assert await asyncio.wait_for(writer.run_exclusive(lambda: len(store.commits)), PATIENCE_S) == 1
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(writer.run_exclusive(lambda: 1 // 0), PATIENCE_S)

    assert await asyncio.wait_for(writer.run_exclusive(lambda: 2), PATIENCE_S) == 2
    await asyncio.wait_for(writer.stop(), PATIENCE_S)


async def test_a_writer_that_never_started_can_be_stopped() -> None:
    writer = Writer(Transactor(filled_store(), ManualClock()), WriterLimits())

    await asyncio.wait_for(writer.stop(), PATIENCE_S)

    with pytest.raises(ShuttingDown):
        writer.enqueue(acquire("a"))


async def test_more_leases_than_one_sweep_takes_are_swept_before_a_refusal_that_hangs_on_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_module, "MAX_EXPIRED_AT_ONCE", 3)
    clock = ManualClock()
    store = filled_store()
    writer = writer_over(store, clock=clock)
    await answered(*(writer.enqueue(acquire(f"lease {n}", ttl_us=1_000_000)) for n in range(8)))
    clock.advance(1_000_000)

    (answer,) = await answered(writer.enqueue(acquire("wide", 8)))

    assert isinstance(answer, Grant)
    assert [events for _, events in store.commits] == [8, 3, 3, 3]
    await writer.stop()
