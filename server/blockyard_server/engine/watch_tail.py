"""The end of a fleet's journal, as all watches of the fleet share it: read once, kept for a few pages."""

import asyncio
from collections import deque
from contextlib import suppress
from itertools import chain, islice
from typing import Final

from blockyard_server.domain.answers import EventFilter, EventPage
from blockyard_server.domain.events import Event
from blockyard_server.domain.journal import matches

PAGE_EVENTS: Final = 256
"""How many events one answer has, and one read of the journal."""


class WatchTail:
    """What the watches of one fleet share: up to where its journal was read, and the last few events."""

    def __init__(self, fleet: str, revision: int) -> None:
        self.fleet = fleet
        self.revision = revision
        """The journal has been read up to here."""
        self.watches = 0
        self.dirty = asyncio.Event()
        """There may be something above `revision`."""
        self.task: asyncio.Task[None] | None = None
        self._begin = revision
        """The pages hold every event above this revision, up to `revision`."""
        self._pages: deque[tuple[int, tuple[Event, ...]]] = deque()
        self._wakeup = asyncio.Event()
        self._failure: Exception | None = None

    def take(self, read: EventPage) -> bool:
        """What was read next of the journal, all of its events. Answers whether it begins a page.

        Small reads share a page: else a few commits, each read by itself, would put those behind who are not.
        """
        self.revision = read.upto
        _, last = self._pages[-1] if self._pages else (0, ())
        begins = not self._pages or len(last) + len(read.events) > PAGE_EVENTS
        if begins:
            self._pages.append((read.upto, read.events))
        else:
            self._pages[-1] = (read.upto, last + read.events)
        self.wake_all()
        return begins

    @property
    def pages_held(self) -> int:
        """How many pages it holds."""
        return len(self._pages)

    def forget_oldest(self) -> None:
        """Who is still in front of the oldest page reads the journal from now on."""
        self._begin, _ = self._pages.popleft()

    def wake_all(self) -> None:
        """Wakes everybody who waits for news."""
        wakeup, self._wakeup = self._wakeup, asyncio.Event()
        wakeup.set()

    def fail(self, failure: Exception) -> None:
        """From now on every wait for news ends with the failure."""
        self._failure = failure
        self.wake_all()

    async def wait(self, until_s: float) -> None:
        """Returns once the tail has wakeup, or at this time of the event loop. Raises what it has failed with."""
        wakeup = self._wakeup
        if self._failure is None:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until_s):
                    await wakeup.wait()
        if self._failure is not None:
            raise self._failure.with_traceback(None)

    def after(self, revision: int, where: EventFilter) -> EventPage | None:
        """The next matching events above a revision; None if they are no longer all here."""
        if revision < self._begin:
            return None
        later = chain.from_iterable(events for upto, events in self._pages if upto > revision)
        found = (event for event in later if event.revision > revision and matches(where, event))
        events = tuple(islice(found, PAGE_EVENTS))
        upto = events[-1].revision if len(events) == PAGE_EVENTS else self.revision
        return EventPage(events, upto, None)
