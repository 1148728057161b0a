"""The hub of watches over the store in memory: order, filters, marks, wake-ups, and every way to end."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest

from blockyard_server.domain.answers import EventFilter
from blockyard_server.domain.errors import Compacted, FleetNotFound
from blockyard_server.domain.events import Event
from blockyard_server.domain.journal import Watch, WatchPage, matches
from blockyard_server.domain.requests import DeleteFleet, Release
from blockyard_server.engine import watch, watch_tail
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.engine import Engine
from blockyard_server.engine.failures import InvariantViolated, Overloaded, ShuttingDown, StoreUnavailable
from blockyard_server.engine.store_protocol import InvariantBroken, StoreFailed
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.watch import WatchHub, WatchSettings
from tests.memory.reader import MemoryReader
from tests.unit.engine_stories import PATIENCE_S, acquire, create, engine_over, filled_store, once, register
from tests.unit.hooked_store import HookedStore

Pages = AsyncGenerator[WatchPage, None]
SOON_US = 100_000


@asynccontextmanager
async def running(store: HookedStore) -> AsyncIterator[Engine]:
    engine = engine_over(store)
    await engine.start()
    yield engine
    await engine.stop()


async def mark(pages: Pages) -> int:
    """The revision of the next answer, which has no events."""
    page = await anext(pages)
    assert page.events == ()
    return page.revision


async def events(pages: Pages, count: int) -> list[Event]:
    """The next events, from as many answers as it takes."""
    found: list[Event] = []
    while len(found) < count:
        page = await anext(pages)
        assert [event.revision for event in page.events] == sorted({event.revision for event in page.events})
        found += page.events
        assert not page.events or page.revision >= found[-1].revision
    assert len(found) == count
    return found


def revisions(found: list[Event]) -> list[int]:
    return [event.revision for event in found]


async def test_a_watch_from_now_begins_with_a_mark_and_tells_what_is_committed_from_then_on() -> None:
    async with running(filled_store()) as engine, aclosing(engine.watch(Watch("gpu"))) as pages:
        assert await mark(pages) == 2
        grants = [await engine.submit(acquire(token)) for token in "abc"]
        found = await events(pages, 3)

    assert revisions(found) == [3, 4, 5] == [grant.revision for grant in grants]
    assert [event.kind for event in found] == ["GRANTED"] * 3


async def test_a_watch_from_a_revision_begins_with_it_and_goes_on_with_what_comes() -> None:
    async with running(filled_store()) as engine:
        for token in "abc":
            await engine.submit(acquire(token))
        async with aclosing(engine.watch(Watch("gpu", from_revision=2))) as pages:
            assert await mark(pages) == 1
            before = await events(pages, 4)
            await engine.submit(acquire("d"))
            after = await events(pages, 1)

    assert revisions(before + after) == [2, 3, 4, 5, 6]


async def test_a_watch_from_a_revision_to_come_waits_for_it() -> None:
    async with running(filled_store()) as engine, aclosing(engine.watch(Watch("gpu", from_revision=5))) as pages:
        assert await mark(pages) == 4
        for token in "abc":
            await engine.submit(acquire(token))
        assert revisions(await events(pages, 1)) == [5]


async def test_only_what_matches_is_told_and_the_marks_go_on() -> None:
    asked = Watch("gpu", 0, EventFilter(kinds=("RELEASED",), holder="job b"), SOON_US)
    async with running(filled_store()) as engine, aclosing(engine.watch(asked)) as pages:
        assert await mark(pages) == 2
        grants = [await engine.submit(acquire(token)) for token in "ab"]
        while await mark(pages) != 4:
            pass
        for grant in grants:
            await engine.submit(Release("gpu", "slurm", allocation=grant.revision))
        [found] = await events(pages, 1)

    assert (found.kind, found.revision) == ("RELEASED", 6)


async def test_a_silent_watch_marks_its_progress_again_and_again() -> None:
    async with running(filled_store()) as engine:
        asked = Watch("gpu", progress_interval_us=SOON_US)
        async with aclosing(engine.watch(asked)) as pages:
            assert [await mark(pages) for _ in range(4)] == [2] * 4


async def test_a_deleted_fleet_and_the_one_that_comes_after_it_are_told_by_the_same_watch() -> None:
    async with running(filled_store()) as engine, aclosing(engine.watch(Watch("gpu"))) as pages:
        assert await mark(pages) == 2
        await engine.submit(DeleteFleet("gpu", force=True))
        await engine.submit(create())
        await engine.submit(register())
        found = await events(pages, 3)
        async with aclosing(engine.watch(Watch("gpu", from_revision=3))) as again:
            assert await mark(again) == 2
            assert await events(again, 3) == found

    assert [event.kind for event in found] == ["FLEET_DELETED", "FLEET_CREATED", "INSTANCE_CREATED"]


async def test_the_journal_of_a_deleted_fleet_can_be_watched() -> None:
    async with running(filled_store()) as engine:
        await engine.submit(DeleteFleet("gpu", force=True))
        async with aclosing(engine.watch(Watch("gpu", from_revision=1))) as pages:
            assert await mark(pages) == 0
            assert revisions(await events(pages, 3)) == [1, 2, 3]


async def test_a_halted_fleet_can_be_watched() -> None:
    store = filled_store()
    async with running(store) as engine:
        store.before_write = once(InvariantBroken("a test says so"))
        with pytest.raises(InvariantViolated):
            await engine.submit(acquire("a"))
        async with aclosing(engine.watch(Watch("gpu", from_revision=1, progress_interval_us=SOON_US))) as pages:
            assert await mark(pages) == 0
            assert revisions(await events(pages, 2)) == [1, 2]
            assert await mark(pages) == 2


async def test_a_fleet_that_never_was_is_not_found() -> None:
    async with running(filled_store()) as engine:
        with pytest.raises(FleetNotFound):
            await anext(engine.watch(Watch("nope")))


async def test_what_is_compacted_cannot_be_watched_and_what_is_kept_can() -> None:
    store = filled_store()
    async with running(store) as engine:
        for token in "abc":
            await engine.submit(acquire(token))
        store.rows["gpu"].compacted_revision = 3
        with pytest.raises(Compacted) as refused:
            await anext(engine.watch(Watch("gpu", from_revision=3)))
        async with aclosing(engine.watch(Watch("gpu", from_revision=4))) as pages:
            assert await mark(pages) == 3
            assert revisions(await events(pages, 2)) == [4, 5]

    assert refused.value.metadata == {"fleet": "fleets/gpu", "from_revision": "3", "oldest_revision": "4"}


async def test_a_watch_that_is_overtaken_by_the_compaction_ends_instead_of_leaving_a_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (watch, watch_tail):
        monkeypatch.setattr(module, "PAGE_EVENTS", 2)
    store = filled_store()
    async with running(store) as engine:
        for token in "abcdef":
            await engine.submit(acquire(token))
        async with aclosing(engine.watch(Watch("gpu", from_revision=1))) as pages:
            assert await mark(pages) == 0
            assert revisions(await events(pages, 2)) == [1, 2]
            store.rows["gpu"].compacted_revision = 5
            with pytest.raises(Compacted):
                await anext(pages)


async def test_who_is_behind_what_the_watches_share_reads_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (watch, watch_tail):
        monkeypatch.setattr(module, "PAGE_EVENTS", 3)
    monkeypatch.setattr(watch, "RECENT_PAGES", 2)
    async with (
        running(filled_store(total_blocks=100)) as engine,
        aclosing(engine.watch(Watch("gpu"))) as fast,
        aclosing(engine.watch(Watch("gpu"))) as slow,
    ):
        assert (await mark(fast), await mark(slow)) == (2, 2)
        told = []
        for number in range(40):
            await engine.submit(acquire(f"t{number}"))
            told += await events(fast, 1)
        late = await events(slow, 40)

    assert late == told
    assert revisions(late) == list(range(3, 43))


async def test_all_fleets_together_share_a_bounded_number_of_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "RECENT_PAGES_IN_ALL", 3)
    fleets = [f"f{number}" for number in range(5)]
    async with running(HookedStore()) as engine, AsyncExitStack() as watches:
        slow: list[Pages] = []
        fast: list[Pages] = []
        for fleet in fleets:
            await engine.submit(create(fleet))
            for watched in (slow, fast):
                watched.append(await watches.enter_async_context(aclosing(engine.watch(Watch(fleet)))))
                assert await mark(watched[-1]) == 1
        for number in range(4):
            for fleet, pages in zip(fleets, fast, strict=True):
                await engine.submit(register(f"n{number}", fleet=fleet))
                assert revisions(await events(pages, 1)) == [2 + number]

        held = sum(tail.pages_held for tail in engine._watches._tails.values())
        late = [revisions(await events(pages, 4)) for pages in slow]

    assert held == 3
    assert late == [[2, 3, 4, 5]] * len(fleets)


async def test_many_watches_of_a_fleet_share_its_reads() -> None:
    store = filled_store(total_blocks=100)
    async with running(store) as engine:
        watches = [engine.watch(Watch("gpu")) for _ in range(200)]
        assert {await mark(pages) for pages in watches} == {2}
        before = store.reads
        for number in range(5):
            await engine.submit(acquire(f"t{number}"))
            assert {revisions(await events(pages, 1))[0] for pages in watches} == {3 + number}
        assert store.reads - before < 50
        for pages in watches:
            await pages.aclose()


async def test_one_watch_too_many_is_overload_and_the_place_of_one_that_was_closed_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "MAX_WATCHES", 2)
    async with running(filled_store()) as engine:
        first, second, third, fourth = (engine.watch(Watch("gpu")) for _ in range(4))
        assert (await mark(first), await mark(second)) == (2, 2)
        with pytest.raises(Overloaded) as refused:
            await anext(third)
        await first.aclose()
        assert await mark(fourth) == 2
        await second.aclose()
        await fourth.aclose()

    assert refused.value.metadata == {"maximum": "2"}


async def test_a_drain_ends_every_watch_with_a_last_mark_and_refuses_new_ones() -> None:
    async with running(filled_store()) as engine, aclosing(engine.watch(Watch("gpu"))) as pages:
        assert await mark(pages) == 2
        waiting = asyncio.ensure_future(anext(pages))
        await asyncio.sleep(0)
        engine.end_watches()
        assert (await waiting).revision == 2
        with pytest.raises(ShuttingDown):
            await anext(pages)
        with pytest.raises(ShuttingDown):
            await anext(engine.watch(Watch("gpu")))


class FailingStore(HookedStore):
    """Cannot be read while a test says so."""

    down = False

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[MemoryReader]:
        if self.down:
            raise StoreFailed("gone")
        async with super().reader() as reader:
            yield reader


async def test_a_watch_of_a_database_that_is_away_ends_and_is_taken_up_when_it_is_back() -> None:
    store = FailingStore()
    store.rows = filled_store().rows
    hub = WatchHub(store, lambda _fleet: 0, WatchSettings(look_interval_s=0.01))
    hub.start()
    async with aclosing(hub.watch(Watch("gpu"))) as pages:
        assert await mark(pages) == 2
        store.down = True
        with pytest.raises(StoreUnavailable):
            await anext(pages)
    with pytest.raises(StoreUnavailable):
        await anext(hub.watch(Watch("gpu")))
    store.down = False
    async with aclosing(hub.watch(Watch("gpu"))) as pages:
        assert await mark(pages) == 2
    await hub.stop()


class BusyStore(HookedStore):
    """Something is committed as soon as somebody has read."""

    def __init__(self) -> None:
        super().__init__()
        self.after_read: list[Callable[[], object]] = []

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[MemoryReader]:
        async with super().reader() as reader:
            yield reader
        if self.after_read:
            self.after_read.pop()()
            await asyncio.sleep(0.01)  # so that it was noticed before anybody waits for it


async def test_what_is_committed_while_a_watch_begins_is_told_at_once() -> None:
    store = BusyStore()
    store.rows = filled_store().rows
    hub = WatchHub(store, lambda _fleet: 0, WatchSettings(look_interval_s=3600.0))
    hub.start()
    transactor = Transactor(store, ManualClock(), committed=hub.committed)
    store.after_read.append(lambda: transactor.carry_out("gpu", [acquire("a")]))
    async with asyncio.timeout(PATIENCE_S), aclosing(hub.watch(Watch("gpu"))) as pages:
        assert await mark(pages) == 2
        assert revisions(await events(pages, 1)) == [3]
    await hub.stop()


class SharedStore(HookedStore):
    """Two hubs over it are two servers: what one tells, the other hears, unless a test loses it."""

    deaf = False

    def __init__(self) -> None:
        super().__init__()
        self.told: list[set[str]] = []
        self._heard: list[Any] = []

    async def listen(self, on_change: Any) -> None:
        self._heard.append(on_change)
        await super().listen(on_change)

    async def notify(self, fleets: Collection[str]) -> None:
        self.told.append(set(fleets))
        for heard in [] if self.deaf else self._heard:
            for fleet in fleets:
                heard(fleet)


@pytest.mark.parametrize("deaf", [False, True], ids=["told", "found by looking"])
async def test_what_one_server_commits_the_watches_of_another_tell(deaf: bool) -> None:  # noqa: FBT001 - a parameter
    store = SharedStore()
    store.rows = filled_store().rows
    store.deaf = deaf
    look_interval_s = 0.01 if deaf else 3600.0
    here = engine_over(store)
    await here.start()
    there = WatchHub(store, lambda _fleet: 0, WatchSettings(look_interval_s=look_interval_s))
    there.start()
    async with aclosing(there.watch(Watch("gpu"))) as pages:
        assert await mark(pages) == 2
        for token in "abc":
            await here.submit(acquire(token))
        assert revisions(await events(pages, 3)) == [3, 4, 5]
    await there.stop()
    await here.stop()


async def test_after_a_lost_connection_any_fleet_may_have_changed() -> None:
    store = filled_store()
    hub = WatchHub(store, lambda _fleet: 0, WatchSettings(look_interval_s=3600.0))
    hub.start()
    async with aclosing(hub.watch(Watch("gpu"))) as pages:
        assert await mark(pages) == 2
        async with running(store) as engine:
            await engine.submit(acquire("a"))
        hub.on_change("")
        assert revisions(await events(pages, 1)) == [3]
    await hub.stop()


async def test_the_last_commits_of_a_server_that_stops_are_told() -> None:
    store = SharedStore()
    store.rows = filled_store().rows
    hub = WatchHub(store, lambda _fleet: 0, WatchSettings(notify_interval_s=3600.0))
    hub.start()
    for fleet in ("one", "two", "three"):
        hub.committed(fleet)
        await asyncio.sleep(0.01)
    await hub.stop()

    assert set.union(*store.told) == {"one", "two", "three"}


async def test_a_filter_finds_what_the_store_finds() -> None:
    store = filled_store(8)
    async with running(store) as engine:
        await engine.submit(register("n2"))
        grant = await engine.submit(acquire("a", 8))
        await engine.submit(acquire("b", 1))
        await engine.submit(Release("gpu", "slurm", allocation=grant.revision))
    journal = store.rows["gpu"].journal

    def found(**where: Any) -> list[int]:
        return [event.revision for event in journal if matches(EventFilter(**where), event)]

    assert found() == [1, 2, 3, 4, 5, 6]
    assert found(kinds=("GRANTED", "RELEASED")) == [4, 5, 6]
    assert found(holder="job a") == [4, 6]
    assert found(instance="n1") == [2, 4, 6]
    assert found(instance="n2", kinds=("GRANTED",)) == [5]
