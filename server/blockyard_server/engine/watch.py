"""Watches: a fleet's journal as it grows, for its followers, each at a pace of its own (docs/adr/0007-watch.md).

Nothing is pushed and no queue grows. A watch knows the revision up to which it has sent, and reads on from there: out
of the last few events that all watches of a fleet share, or, further behind, out of the journal itself. A commit only
wakes it. So a wake-up that is lost delays and never loses, and any server can take a watch over at any revision.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from blockyard_server.domain.answers import EventFilter, EventPage
from blockyard_server.domain.fleet import fleet_not_found
from blockyard_server.domain.formats import Formats
from blockyard_server.domain.journal import JournalBounds, Watch, WatchPage, check_kept
from blockyard_server.engine.change_notifier import ChangeNotifier
from blockyard_server.engine.failures import EngineFailure, Overloaded, ShuttingDown
from blockyard_server.engine.reader_protocol import Reader
from blockyard_server.engine.reads import Reads
from blockyard_server.engine.store_protocol import Store
from blockyard_server.engine.watch_tail import PAGE_EVENTS, WatchTail

MAX_WATCHES: Final = 2000
"""Watches that may be open at once; one more is refused with OVERLOADED."""
RECENT_PAGES: Final = 16
"""How many pages of events the watches of a fleet share; who is further behind reads the journal."""
RECENT_PAGES_IN_ALL: Final = 512
"""The same of all fleets together: beyond it the page that was read first goes, whosever it is."""
CURRENT_AT_ONCE: Final = 1
"""Reads of what is new, at a time: each serves all watches of a fleet that are current. The other readers keep their
database connections."""
CATCHING_UP_AT_ONCE: Final = 1
"""Reads for single watches that are behind, at a time. They have a turn of their own: however many catch up, those who
are current do not wait for them."""
BEGINNING_AT_ONCE: Final = 1
"""The same for watches that begin: of a thousand at once each takes a millisecond."""
ALL_EVENTS: Final = EventFilter()

_FORMATS: Final = Formats()

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """How watches are woken."""

    look_interval_s: float = 1.0
    """Between two looks at the revisions of all watched fleets: so long a lost notification delays."""
    notify_interval_s: float = 0.02
    """Between two notifications of the other servers; what is committed meanwhile goes with the next one."""
    read_interval_s: float = 0.01
    """Between two reads of one fleet's new events: under load one read serves many commits."""


@dataclass(slots=True, eq=False)
class _Following:
    """Up to where an open watch has sent."""

    tail: WatchTail
    seen: int


class WatchHub:
    """All watches of this server. `start` and everything but `committed` belong to one event loop."""

    def __init__(
        self,
        store: Store,
        now_us: Callable[[str], int],
        settings: WatchSettings | None = None,
        formats: Formats = _FORMATS,
    ) -> None:
        """`now_us` is a fleet's time."""
        self._store = store
        self._now_us = now_us
        self._snapshots = Reads(store, formats)
        self._settings = settings or WatchSettings()
        self._tails: dict[str, WatchTail] = {}
        self._recent: deque[WatchTail] = deque()
        """Whose the pages are that all tails together hold, in the order in which they were read."""
        self._following: set[_Following] = set()
        self._watches = 0
        self.pages_sent = 0
        """Answers of watches, progress notifications among them, that were taken so far."""
        self._current = asyncio.Semaphore(CURRENT_AT_ONCE)
        self._catching_up = asyncio.Semaphore(CATCHING_UP_AT_ONCE)
        self._beginning = asyncio.Semaphore(BEGINNING_AT_ONCE)
        self._changes = ChangeNotifier(store, self._mark_dirty, self._settings.notify_interval_s)
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def open_watches(self) -> int:
        """How many watches are open now."""
        return self._watches

    @property
    def lag_revisions(self) -> int:
        """How far the slowest watch is behind what was read of its fleet's journal. From any thread."""
        return max((each.tail.revision - each.seen for each in self._following.copy()), default=0)

    def start(self) -> None:
        """Begins to hear of commits, of this server and of others."""
        self._changes.start()
        for work in (self._listen, self._changes.notify_others, self._look):
            self._tasks.append(asyncio.create_task(self._keep(work), name=f"blockyard-watch{work.__name__}"))

    def end(self) -> None:
        """Every watch sends a last progress notification and ends with ShuttingDown; new ones are refused."""
        self._ending = True
        for tail in self._tails.values():
            tail.wake_all()

    async def stop(self) -> None:
        """Ends all watches and all that runs in the background. What was committed is told before."""
        self.end()
        await self._changes.flush()
        tasks = [*self._tasks, *(tail.task for tail in self._tails.values() if tail.task is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._snapshots.settle()

    def committed(self, fleet: str) -> None:
        """This server has committed a change of the fleet. From any thread; costs no more when commits come fast."""
        self._changes.committed(fleet)

    def on_change(self, fleet: str) -> None:
        """Another server says that it has changed the fleet; empty: any fleet may have been changed."""
        if fleet:
            self._mark_dirty(fleet)
        else:
            self._mark_all_dirty()

    async def watch(self, asked: Watch) -> AsyncGenerator[WatchPage, None]:
        """What matches, in order, without a gap or a repeat; first a progress notification: where it begins. Close it.

        Raises FleetNotFound, Compacted, EngineFailure: Overloaded, StoreUnavailable, ShuttingDown (after one more
        progress notification).
        """
        if self._ending:
            raise ShuttingDown("the server is stopping; watch on at another one or later")
        if self._watches >= MAX_WATCHES:
            message = f"{MAX_WATCHES} watches are open, the most that this server accepts; try another one or later"
            raise Overloaded(message, maximum=MAX_WATCHES)
        self._watches += 1
        try:
            bounds = await self._bounds(asked.fleet)
            seen = asked.from_revision - 1 if asked.from_revision else bounds.revision
            check_kept(asked.fleet, seen, bounds.compacted_revision)
            tail = self._join(asked.fleet, bounds.revision)
            following = _Following(tail, seen)
            self._following.add(following)
            try:
                async with aclosing(self._pages(asked, tail, seen)) as pages:
                    async for page in pages:
                        yield page
                        following.seen = page.revision
                        self.pages_sent += 1
            finally:
                self._following.discard(following)
                self._leave(tail)
        finally:
            self._watches -= 1

    async def _pages(self, asked: Watch, tail: WatchTail, seen: int) -> AsyncGenerator[WatchPage, None]:
        loop = asyncio.get_running_loop()
        yield self._progress(asked, seen)
        notified_s = loop.time()
        while True:
            if seen < tail.revision:
                page = tail.after(seen, asked.where)
                if page is None:
                    page = await self._events(self._catching_up, asked.fleet, asked.where, seen)
                seen = max(seen, page.upto)
                if page.events:
                    yield WatchPage(page.events, seen, self._now_us(asked.fleet))
                    notified_s = loop.time()
            if self._ending:
                yield self._progress(asked, seen)
                raise ShuttingDown("the server is stopping; watch on at another one or later")
            if loop.time() >= notified_s + asked.progress_interval_us / 1e6:
                yield self._progress(asked, seen)
                notified_s = loop.time()
            if seen >= tail.revision:
                await tail.wait(notified_s + asked.progress_interval_us / 1e6)

    def _progress(self, asked: Watch, revision: int) -> WatchPage:
        return WatchPage((), revision, self._now_us(asked.fleet))

    def _join(self, fleet: str, revision: int) -> WatchTail:
        tail = self._tails.get(fleet)
        if tail is None:
            tail = self._tails[fleet] = WatchTail(fleet, revision)
            tail.task = asyncio.create_task(self._read_on(tail), name="blockyard-watch-tail")
            # Nobody was woken by what was committed since the revision was read.
            tail.dirty.set()
        elif tail.revision < revision:
            tail.dirty.set()
        tail.watches += 1
        return tail

    def _leave(self, tail: WatchTail) -> None:
        tail.watches -= 1
        if not tail.watches:
            self._drop(tail)

    def _drop(self, tail: WatchTail) -> None:
        if self._tails.get(tail.fleet) is tail:
            del self._tails[tail.fleet]
            self._recent = deque(other for other in self._recent if other is not tail)
        if tail.task is not None and tail.task is not asyncio.current_task():
            tail.task.cancel()

    async def _read_on(self, tail: WatchTail) -> None:
        """Reads a fleet's new events, once for all its watches."""
        while True:
            await tail.dirty.wait()
            tail.dirty.clear()
            try:
                page = await self._events(self._current, tail.fleet, ALL_EVENTS, tail.revision)
            except Exception as failure:  # noqa: BLE001 - it is not lost: every watch of the fleet raises it
                # The client looks for a server that can read; if it comes back here, this is found out again.
                self._drop(tail)
                tail.fail(failure)
                return
            self._share(tail, page)
            if page.next_after is not None:
                tail.dirty.set()
            await asyncio.sleep(self._settings.read_interval_s)

    def _share(self, tail: WatchTail, page: EventPage) -> None:
        """Gives a fleet's watches the events that were read, and has what is too old for that forgotten."""
        if page.upto <= tail.revision or self._tails.get(tail.fleet) is not tail:
            return
        if not tail.take(page):
            return
        self._recent.append(tail)
        if tail.pages_held > RECENT_PAGES:
            tail.forget_oldest()
            self._recent.remove(tail)  # the first that is found is the oldest of this one
        if len(self._recent) > RECENT_PAGES_IN_ALL:
            self._recent.popleft().forget_oldest()

    async def _bounds(self, fleet: str) -> JournalBounds:
        bounds = await self._read(self._beginning, lambda reader: reader.journal_bounds(fleet), fleet)
        if bounds is None:
            raise fleet_not_found(fleet)
        self._snapshots.expect_known_format(fleet, bounds.format)
        return bounds

    async def _events(self, turn: asyncio.Semaphore, fleet: str, where: EventFilter, after: int) -> EventPage:
        """A page of the journal. Raises Compacted if what follows is no longer kept."""
        page = await self._read(turn, lambda reader: reader.events(fleet, where, after=after, limit=PAGE_EVENTS), fleet)
        self._snapshots.expect_known_format(fleet, page.format)
        check_kept(fleet, after, page.compacted_revision)
        return page

    async def _read(
        self, turn: asyncio.Semaphore, read: Callable[[Reader], Awaitable[T]], fleet: str | None = None
    ) -> T:
        async with turn:
            return await self._snapshots.run(read, fleet)

    def _mark_dirty(self, fleet: str) -> None:
        tail = self._tails.get(fleet)
        if tail is not None:
            tail.dirty.set()

    def _mark_all_dirty(self) -> None:
        for tail in self._tails.values():
            tail.dirty.set()

    async def _listen(self) -> None:
        await self._store.listen(self.on_change)

    async def _look(self) -> None:
        await asyncio.sleep(self._settings.look_interval_s)
        fleets = list(self._tails)
        if not fleets:
            return
        try:
            revisions = await self._read(self._current, lambda reader: reader.revisions(fleets))
        except EngineFailure:
            # Each finds out for itself whether it can still be read, and tells its watches.
            self._mark_all_dirty()
            return
        for fleet, revision in revisions.items():
            tail = self._tails.get(fleet)
            if tail is not None and tail.revision < revision:
                tail.dirty.set()

    async def _keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Does the work again and again; a fault in it delays the watches, and must not silence them."""
        while True:
            try:
                await work()
            except Exception:  # noqa: BLE001 - whatever it is, the next look or notification comes
                _log.exception("watches are woken late: %s failed", work.__name__)
                await asyncio.sleep(self._settings.look_interval_s)
