"""Tenants beside each other: batches, the places of the queue, the order of a call, background work."""

import asyncio

import pytest

from blockyard_server.domain.answers import Answer, Grant, ReleaseAnswer, ReleaseOutcome
from blockyard_server.domain.requests import Acquire, Release, Renew
from blockyard_server.engine import writer as writer_module
from blockyard_server.engine.asker import Asker, Urgency, cost_of, urgencies_of_call, urgency_of
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.engine import Engine, EngineSettings
from blockyard_server.engine.failures import Overloaded
from blockyard_server.engine.sweeper import SweeperSettings
from blockyard_server.engine.waiting_room import ROOM_FOR_OTHERS_S, Company, WaitingRoom
from blockyard_server.engine.writer import MAX_SHARED_BATCH, MIN_SHARED_BATCH, WriterLimits
from tests.unit.engine_stories import PATIENCE_S, Gate, acquire, create, filled_store, register, writer_over

FLOOD, QUIET = Asker("flood"), Asker("quiet")
SECOND_US = 1_000_000


async def finished(*asked: "asyncio.Future[Answer]") -> list[object]:
    return list(await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), PATIENCE_S))


class Seconds:
    """A monotonic clock that stands still."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_tenant_alone_has_large_batches_and_beside_another_small_ones() -> None:
    store = filled_store(4096)
    writer = writer_over(store)
    gate = Gate()
    store.before_commit = gate
    first = writer.enqueue(acquire("first"), FLOOD)
    await gate.reached()
    alone = [writer.enqueue(acquire(f"a{n}"), FLOOD) for n in range(400)]
    gate.open()
    await finished(first, *alone)
    assert store.commits == [("gpu", 1), ("gpu", 400)]

    beside = [writer.enqueue(acquire(f"b{n}"), FLOOD) for n in range(400)]
    quiet = writer.enqueue(acquire("quiet"), QUIET)
    await finished(quiet)
    assert store.commits[2:] == [("gpu", MAX_SHARED_BATCH)], "its request was in the first batch"
    await finished(*beside)
    assert max(events for _, events in store.commits[2:]) == MAX_SHARED_BATCH
    await writer.stop()


async def test_a_shared_batch_is_smaller_the_longer_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SHARED_TURN_S", 1e-9)
    store = filled_store(4096)
    writer = writer_over(store)
    asked = [writer.enqueue(acquire(f"t{n}"), (FLOOD, QUIET)[n % 2]) for n in range(600)]

    await finished(*asked)

    assert [events for _, events in store.commits[-10:]] == [MIN_SHARED_BATCH] * 9 + [600 % MIN_SHARED_BATCH]
    await writer.stop()


async def test_a_large_request_counts_for_many_in_a_shared_batch() -> None:
    store = filled_store(4096)
    writer = writer_over(store)
    large = [writer.enqueue(acquire(f"a{n}", 640), FLOOD) for n in range(5)]
    small = [writer.enqueue(acquire(f"b{n}"), QUIET) for n in range(200)]
    assert cost_of(acquire("a", 640)) == 11

    await finished(*large, *small)

    assert store.commits[0][1] < MAX_SHARED_BATCH
    await writer.stop()


async def test_a_renewal_overtakes_the_acquires_that_wait() -> None:
    store = filled_store(100)
    writer = writer_over(store, WriterLimits(max_batch=8))
    (held,) = await finished(writer.enqueue(acquire("held", ttl_us=SECOND_US)))
    assert isinstance(held, Grant)
    gate = Gate()
    store.before_commit = gate
    waiting = [writer.enqueue(acquire(f"t{n}")) for n in range(40)]
    await gate.reached()
    renewal = writer.enqueue(Renew("gpu", held.revision, SECOND_US))
    gate.open()

    await finished(renewal)

    assert sum(future.done() for future in waiting) < 24
    await finished(*waiting)
    await writer.stop()


async def test_the_requests_of_one_call_keep_their_order_however_many_wait() -> None:
    """Were the release to overtake the acquire, it would cancel it."""
    store = filled_store(100)
    engine = Engine(
        store,
        ManualClock(),
        EngineSettings(writer=WriterLimits(max_batch=4), sweeper=SweeperSettings(interval_s=3600.0)),
    )
    await engine.start()
    gate = Gate()
    store.before_commit = gate
    backlog = [asyncio.ensure_future(engine.submit(acquire(f"t{n}"))) for n in range(40)]
    await gate.reached()
    call: list[Acquire | Release | Renew] = []
    for n in range(10):
        call += [acquire(f"short {n}"), Release("gpu", "slurm", token=f"short {n}")]
    answers = asyncio.ensure_future(engine.submit_many(call))
    for _ in range(20):
        await asyncio.sleep(0)
    gate.open()

    found = await asyncio.wait_for(answers, PATIENCE_S)

    for granted, released in zip(found[::2], found[1::2], strict=True):
        assert isinstance(granted, Grant)
        assert isinstance(released, ReleaseAnswer)
        assert released.outcome is ReleaseOutcome.RELEASED
    await asyncio.gather(*backlog)
    await engine.stop()


def test_a_call_has_the_class_of_its_least_urgent_request_on_each_fleet() -> None:
    renew, release = Renew("a", 1), Release("a", "me", allocation=1)

    assert [urgency_of(one) for one in (renew, release, acquire("t"), create(), register())] == [
        Urgency.CONTROL,
        Urgency.CONTROL,
        Urgency.ACQUIRE,
        Urgency.ADMIN,
        Urgency.ADMIN,
    ]
    assert urgencies_of_call([renew, release, renew]) == {"a": Urgency.CONTROL}
    assert urgencies_of_call([renew, acquire("t", fleet="a"), Renew("b", 1)]) == {
        "a": Urgency.ACQUIRE,
        "b": Urgency.CONTROL,
    }


def test_one_tenant_alone_may_fill_the_queue_but_for_what_is_kept_for_renewals() -> None:
    room = WaitingRoom(100)
    for _ in range(90):
        room.enter(FLOOD, Urgency.ACQUIRE)

    with pytest.raises(Overloaded) as refusal:
        room.enter(FLOOD, Urgency.ACQUIRE)
    assert refusal.value.metadata == {"maximum": "90"}
    for _ in range(10):
        room.enter(FLOOD, Urgency.CONTROL)
    with pytest.raises(Overloaded) as refusal:
        room.enter(QUIET, Urgency.CONTROL)
    assert refusal.value.metadata == {"maximum": "100"}


def fill(room: WaitingRoom, asker: Asker, urgency: Urgency = Urgency.ACQUIRE) -> int:
    """How many of its requests there is room for."""
    for number in range(1000):
        try:
            room.enter(asker, urgency)
        except Overloaded:
            return number
    raise AssertionError("the room has no bound")


def test_beside_others_a_tenant_has_as_many_places_as_it_leaves_free() -> None:
    room = WaitingRoom(100)
    room.enter(QUIET, Urgency.ACQUIRE)
    assert fill(room, FLOOD) == 45
    assert fill(room, FLOOD, Urgency.CONTROL) == 5, "its renewals count with the rest, and have a few places more"
    assert fill(room, Asker("another flood")) == 20
    assert fill(room, QUIET) == 9


def test_a_known_tenant_leaves_room_even_if_nobody_else_asks() -> None:
    assert fill(WaitingRoom(100), Asker("known", is_known=True)) == 45


def test_whoever_has_not_asked_for_long_is_no_company() -> None:
    clock = Seconds()
    room = WaitingRoom(100, clock)
    room.enter(QUIET, Urgency.ACQUIRE)
    room.leave([QUIET])
    assert fill(room, FLOOD) == 45
    clock.now_s += ROOM_FOR_OTHERS_S
    assert fill(room, FLOOD) == 45


def test_whoever_has_had_its_turn_leaves_its_place() -> None:
    room = WaitingRoom(10)
    assert fill(room, QUIET) == 9
    room.leave([QUIET] * 9)
    assert room.waiting == 0
    room.come_back([QUIET] * 2)
    assert room.waiting == 2
    assert fill(room, QUIET) == 7


def test_whoever_has_had_some_of_its_turns_has_places_for_as_many_more() -> None:
    room, known = WaitingRoom(10), Asker("known", is_known=True)
    assert fill(room, known) == 5
    room.leave([known] * 3)
    assert fill(room, known) == 3


def test_one_name_alone_is_no_company() -> None:
    clock = Seconds()
    company = Company(1.0, clock)
    for _ in range(3):
        company.note("a")
    assert not company.is_present()
    company.note("b")
    assert company.is_present()
    clock.now_s += 1.0
    assert not company.is_present()


async def test_background_work_does_not_wait_for_the_turns_of_all_fleets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "EXCLUSIVE_TURN_S", 0.0)
    fleets = [f"fleet-{n}" for n in range(10)]
    store = filled_store(8, *fleets)
    writer = writer_over(store)
    done: list[str] = []
    store.after_commit = done.append
    gate = Gate()
    store.before_commit = gate
    asked = [writer.enqueue(acquire("t", fleet=fleet)) for fleet in fleets]
    await gate.reached()
    sweep = asyncio.ensure_future(writer.run_exclusive(lambda: done.append("sweep")))
    await asyncio.sleep(0)
    gate.open()

    await finished(*asked)
    await asyncio.wait_for(sweep, PATIENCE_S)

    assert done.index("sweep") == 1
    await writer.stop()
