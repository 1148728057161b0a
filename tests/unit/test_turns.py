"""Who goes first on a writer: fleets, requests, background work and reads each get their turn."""

import asyncio
from collections.abc import Sequence

import pytest

from blockyard_server.domain.answers import Grant
from blockyard_server.domain.requests import Request
from blockyard_server.engine import batch as batch_module
from blockyard_server.engine import writer as writer_module
from blockyard_server.engine.batch import Outcome
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.failures import StoreUnavailable
from blockyard_server.engine.store_protocol import StoreFailed
from blockyard_server.engine.writer import WriterLimits
from tests.unit.engine_stories import PATIENCE_S, Gate, acquire, engine_over, filled_store, once, writer_over

SECOND_US = 1_000_000


async def test_a_fleet_that_comes_anew_goes_before_the_rest_of_one_that_has_much_to_do() -> None:
    store = filled_store(100, "heavy", "light")
    writer = writer_over(store, WriterLimits(max_batch=2))
    gate = Gate()
    store.before_commit = gate
    heavy = [writer.enqueue(acquire(f"t{n}", fleet="heavy")) for n in range(8)]
    await gate.reached()
    light = writer.enqueue(acquire("small", fleet="light"))
    gate.open()

    await asyncio.wait_for(asyncio.gather(*heavy, light), PATIENCE_S)

    assert store.commits[:2] == [("heavy", 2), ("light", 1)]
    assert store.commits[2:] == [("heavy", 2)] * 3
    await writer.stop()


async def test_after_a_failure_half_as_many_requests_share_a_transaction_and_then_more_again() -> None:
    store = filled_store(100)
    writer = writer_over(store, WriterLimits(max_batch=8))
    store.before_commit = once(StoreFailed("the statement took too long"))
    failed = [writer.enqueue(acquire(f"t{n}")) for n in range(8)]
    outcomes = await asyncio.wait_for(asyncio.gather(*failed, return_exceptions=True), PATIENCE_S)
    assert all(isinstance(outcome, StoreUnavailable) for outcome in outcomes)

    again = [writer.enqueue(acquire(f"t{n}")) for n in range(20)]
    assert all(isinstance(a, Grant) for a in await asyncio.wait_for(asyncio.gather(*again), PATIENCE_S))

    assert store.commits == [("gpu", 4), ("gpu", 8), ("gpu", 8)]
    await writer.stop()


async def test_after_a_batch_that_was_too_large_fewer_requests_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "MAX_BLOCKS_AT_ONCE", 1)
    store = filled_store(100)
    writer = writer_over(store, WriterLimits(max_batch=64))
    taken: list[int] = []
    carry_out = writer._transactor.carry_out

    def counted(fleet: str, requests: Sequence[Request]) -> list[Outcome]:
        taken.append(len(requests))
        return carry_out(fleet, requests)

    monkeypatch.setattr(writer._transactor, "carry_out", counted)
    asked = [writer.enqueue(acquire(f"t{n}", 2)) for n in range(20)]
    await asyncio.wait_for(asyncio.gather(*asked), PATIENCE_S)

    assert taken == [20, *[2] * 18, 1]
    await writer.stop()


async def test_however_much_background_work_waits_requests_get_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "EXCLUSIVE_TURN_S", 0.0)
    store = filled_store(100)
    writer = writer_over(store)
    done: list[str] = []
    gate = Gate()
    store.before_commit = gate
    first = writer.enqueue(acquire("first"))
    await gate.reached()
    store.after_commit = lambda _fleet: done.append("commit")
    exclusive = [asyncio.ensure_future(writer.run_exclusive(lambda n=n: done.append(f"aside {n}"))) for n in range(3)]  # type: ignore[misc]  # a default binds the number
    await asyncio.sleep(0)
    second = writer.enqueue(acquire("second"))
    gate.open()

    await asyncio.wait_for(asyncio.gather(first, second, *exclusive), PATIENCE_S)

    assert done == ["commit", "aside 0", "commit", "aside 1", "aside 2"]
    await writer.stop()


async def test_reads_that_find_ended_leases_share_one_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "MAX_EXPIRED_AT_ONCE", 1)
    clock = ManualClock()
    store = filled_store()
    engine = engine_over(store, clock)
    await engine.start()
    for n in range(8):
        await engine.submit(acquire(f"lease {n}", ttl_us=SECOND_US))
    clock.advance(SECOND_US)
    store.transactions.clear()

    pages = await asyncio.gather(*(engine.describe("gpu", full=False, after=0, limit=10) for _ in range(30)))

    assert {page.totals.busy_blocks for page in pages} == {0}
    assert len(store.transactions) <= 8 + 1
    await engine.stop()


async def test_a_read_that_joins_a_sweep_sees_no_lease_that_ended_while_the_sweep_was_under_way() -> None:
    clock = ManualClock()
    store = filled_store()
    engine = engine_over(store, clock)
    await engine.start()
    await engine.submit(acquire("early", ttl_us=SECOND_US))
    await engine.submit(acquire("late", 2, ttl_us=2 * SECOND_US))
    clock.advance(SECOND_US)
    gate = Gate()
    store.before_commit = gate
    before = asyncio.ensure_future(engine.describe("gpu", full=False, after=0, limit=10))
    await gate.reached()
    clock.advance(SECOND_US)
    joined = asyncio.ensure_future(engine.describe("gpu", full=False, after=0, limit=10))
    for _ in range(20):
        await asyncio.sleep(0)
    gate.open()

    assert (await asyncio.wait_for(joined, PATIENCE_S)).totals.busy_blocks == 0
    await asyncio.wait_for(before, PATIENCE_S)
    await engine.stop()
