"""Watches that catch up and watches that are current: the second never wait for the first."""

import asyncio
from contextlib import AsyncExitStack, aclosing

import pytest

from blockyard_server.domain.answers import EventFilter, EventPage
from blockyard_server.domain.journal import JournalBounds, Watch
from blockyard_server.engine.watch import ALL_EVENTS
from blockyard_server.engine.watch_tail import PAGE_EVENTS
from tests.memory.reader import MemoryReader
from tests.unit.engine_stories import PATIENCE_S, acquire, filled_store
from tests.unit.test_watch import events, mark, revisions, running

BEHIND = 10
GRANTS = EventFilter(kinds=("GRANTED",))


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> "SlowJournal":
    return SlowJournal(monkeypatch)


class SlowJournal:
    """Reads of a single watch wait until they may go on; those that serve all watches of a fleet do not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reads = 0
        """How many reads of single watches have begun."""
        self.read = asyncio.Event()
        """One has begun."""
        self.goes_on = asyncio.Event()
        self._events = MemoryReader.events
        monkeypatch.setattr(MemoryReader, "events", self._slowly())

    def _slowly(self) -> object:
        async def events_of(
            reader: MemoryReader, fleet: str, where: EventFilter, *, after: int, limit: int
        ) -> EventPage:
            if where != ALL_EVENTS:
                self.reads += 1
                self.read.set()
                await self.goes_on.wait()
            return await self._events(reader, fleet, where, after=after, limit=limit)

        return events_of


async def test_who_is_current_and_who_comes_anew_do_not_wait_for_those_who_catch_up(journal: SlowJournal) -> None:
    async with running(filled_store(total_blocks=100)) as engine, AsyncExitStack() as watches:
        for number in range(5):
            await engine.submit(acquire(f"t{number}"))
        current = await watches.enter_async_context(aclosing(engine.watch(Watch("gpu"))))
        assert await mark(current) == 7
        behind = [
            await watches.enter_async_context(aclosing(engine.watch(Watch("gpu", 1, GRANTS)))) for _ in range(BEHIND)
        ]
        assert {await mark(pages) for pages in behind} == {0}
        catching_up = [asyncio.create_task(events(pages, 6)) for pages in behind]
        async with asyncio.timeout(PATIENCE_S):
            await journal.read.wait()
            await engine.submit(acquire("now"))
            assert revisions(await events(current, 1)) == [8]
            anew = await watches.enter_async_context(aclosing(engine.watch(Watch("gpu"))))
            assert await mark(anew) == 8
        assert journal.reads == 1, "one of them reads, the others wait for their turn"

        journal.goes_on.set()
        assert {tuple(revisions(found)) for found in await asyncio.gather(*catching_up)} == {(3, 4, 5, 6, 7, 8)}


async def test_who_is_current_does_not_wait_for_those_who_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()
    read = MemoryReader.journal_bounds

    async def slowly(reader: MemoryReader, fleet: str) -> JournalBounds | None:
        begun.set()
        await goes_on.wait()
        return await read(reader, fleet)

    async with running(filled_store(total_blocks=100)) as engine, AsyncExitStack() as watches:
        current = await watches.enter_async_context(aclosing(engine.watch(Watch("gpu"))))
        assert await mark(current) == 2
        monkeypatch.setattr(MemoryReader, "journal_bounds", slowly)
        anew = [await watches.enter_async_context(aclosing(engine.watch(Watch("gpu")))) for _ in range(BEHIND)]
        marks = [asyncio.create_task(mark(pages)) for pages in anew]

        async with asyncio.timeout(PATIENCE_S):
            await begun.wait()
            await engine.submit(acquire("now"))
            assert revisions(await events(current, 1)) == [3]
        goes_on.set()
        # The one that had begun has looked before the change.
        assert await asyncio.gather(*marks) == [2, *[3] * (BEHIND - 1)]


async def test_events_that_were_read_one_by_one_are_shared_like_those_that_were_read_together(
    journal: SlowJournal,
) -> None:
    """Who is a hundred commits behind has them from memory, however few each read brought."""
    async with (
        running(filled_store(total_blocks=PAGE_EVENTS)) as engine,
        aclosing(engine.watch(Watch("gpu"))) as fast,
        aclosing(engine.watch(Watch("gpu", where=GRANTS))) as slow,
    ):
        assert (await mark(fast), await mark(slow)) == (2, 2)
        for number in range(100):
            await engine.submit(acquire(f"t{number}"))
            await events(fast, 1)
        assert revisions(await events(slow, 100)) == list(range(3, 103))
    assert journal.reads == 0
