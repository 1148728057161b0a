"""A `Service` in memory: the real decisions over plain dicts, with no store and no writer.

What it cannot do by itself, tests ask of it: `failures` are raised by the next calls, one each.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection, Sequence
from itertools import islice
from typing import Any, TypeVar

from blockyard_server.domain.acquire import view_of
from blockyard_server.domain.actor import Actor
from blockyard_server.domain.answers import (
    AllocationFilter,
    AllocationPage,
    AllocationView,
    Answer,
    BlockCounts,
    DescribePage,
    Discrepancy,
    EventFilter,
    EventPage,
    FleetListPage,
    FleetRecord,
    Hold,
    InstanceBlocks,
    InstancePage,
    InstanceRecord,
    RepairReport,
    VerifyReport,
)
from blockyard_server.domain.corrections import Correction
from blockyard_server.domain.decide import decide
from blockyard_server.domain.events import Event
from blockyard_server.domain.fleet import FleetState, fleet_not_found
from blockyard_server.domain.index import Instance
from blockyard_server.domain.journal import Watch, WatchPage, matches
from blockyard_server.domain.records import Records
from blockyard_server.domain.release import find
from blockyard_server.domain.requests import Acquire, InstanceState, Release, Renew, Request
from blockyard_server.engine.asker import ANYBODY, Asker
from blockyard_server.engine.failures import ShuttingDown

Row = TypeVar("Row")


class _Fleet:
    def __init__(self, name: str) -> None:
        self.state = FleetState(name)
        self.records = Records()
        self.events: list[Event] = []


class FakeService:
    """Whatever is asked is decided at once, at the time that `now_us` shows."""

    def __init__(self) -> None:
        self.now_us = 1_700_000_000_123_456
        self.failures: deque[Exception] = deque()
        self.requests: list[Request] = []
        self.askers: list[Asker] = []
        """Of the requests."""
        self.discrepancies: tuple[Discrepancy, ...] = ()
        self.corrections: tuple[Correction, ...] = ()
        self.repaired_by: Actor | None = None
        self.watches: list[Watch] = []
        self.watches_end = asyncio.Event()
        self.news = asyncio.Condition()
        self._telling: set[asyncio.Task[None]] = set()
        self._fleets: dict[str, _Fleet] = {}

    async def submit(self, request: Request, asker: Asker = ANYBODY) -> Any:
        self._fail_if_asked_to()
        self.requests.append(request)
        self.askers.append(asker)
        fleet = self._fleets.setdefault(request.fleet, _Fleet(request.fleet))
        answer, event = decide(fleet.state, fleet.records, request, self.now_us)
        if event is not None:
            fleet.state.apply(event)
            fleet.records.apply(event)
            fleet.events.append(event)
            self._tell()
        return answer

    async def submit_many(
        self, requests: list[Acquire | Release | Renew], asker: Asker = ANYBODY
    ) -> list[Answer | Exception]:
        answers: list[Answer | Exception] = []
        for request in requests:
            try:
                answers.append(await self.submit(request, asker))
            except Exception as error:  # noqa: BLE001 - each outcome is its own, whatever it is
                answers.append(error)
        return answers

    async def describe(self, fleet: str, *, full: bool, after: int, limit: int) -> DescribePage:
        found = self._existing(fleet)
        instances = sorted(found.state.index.by_order.values(), key=lambda instance: instance.order)
        page, following = _page([i for i in instances if i.order > after], limit)
        busy = [instance.busy.bit_count() for instance in instances]
        active = [i.idle_count for i in instances if i.fields.state is InstanceState.ACTIVE]
        return DescribePage(
            fleet=fleet,
            revision=found.state.revision,
            totals=BlockCounts(len(instances), sum(i.total_blocks for i in instances), sum(busy), sum(active)),
            instances=tuple(_instance_blocks(found, instance, full=full) for instance in page),
            next_after=page[-1].order if following else None,
            time_us=self.now_us,
        )

    async def get_allocation(self, fleet: str, allocation: int) -> AllocationView:
        found = self._existing(fleet)
        return view_of(found.state, find(found.state, found.records, allocation), self.now_us)

    async def list_allocations(self, fleet: str, where: AllocationFilter, *, after: int, limit: int) -> AllocationPage:
        found = self._existing(fleet)
        views = [view_of(found.state, one, self.now_us) for _, one in sorted(found.records.allocations.items())]
        matching = [
            view
            for view in views
            if view.allocation.allocation > after
            and where.holder in {None, view.allocation.holder}
            and where.state in {None, view.allocation.state}
            and (where.tenant is None or _is_of(where, view.allocation.caller))
            and (where.instance is None or where.instance in dict(view.allocation.placements))
        ]
        page, following = _page(matching, limit)
        return AllocationPage(tuple(page), found.state.revision, page[-1].allocation.allocation if following else None)

    async def get_fleet(self, fleet: str) -> FleetRecord:
        return self._existing(fleet).state.existing()

    async def list_fleets(self, *, after: str, limit: int) -> FleetListPage:
        self._fail_if_asked_to()
        records = [fleet.state.record for _, fleet in sorted(self._fleets.items())]
        page, following = _page([r for r in records if r is not None and r.fleet > after], limit)
        return FleetListPage(tuple(page), page[-1].fleet if following else None)

    async def get_instance(self, fleet: str, instance: str) -> InstanceRecord:
        state = self._existing(fleet).state
        return state.instance_record(state.instance(instance))

    async def list_instances(self, fleet: str, *, after: int, limit: int) -> InstancePage:
        state = self._existing(fleet).state
        instances = sorted(state.index.by_order.values(), key=lambda instance: instance.order)
        page, following = _page([i for i in instances if i.order > after], limit)
        return InstancePage(tuple(map(state.instance_record, page)), page[-1].order if following else None)

    async def list_events(self, fleet: str, where: EventFilter, *, after: int, limit: int) -> EventPage:
        self._fail_if_asked_to()
        found = self._fleets.get(fleet)
        if found is None or not found.events:
            raise fleet_not_found(fleet)
        matching = [event for event in found.events if event.revision > after and matches(where, event)]
        page, following = _page(matching, limit)
        return EventPage(tuple(page), found.state.revision, page[-1].revision if following else None)

    async def watch(self, asked: Watch) -> AsyncGenerator[WatchPage, None]:
        """Each event by itself, as soon as it is there; the marks in between only when a test asks for them."""
        self._fail_if_asked_to()
        found = self._fleets.get(asked.fleet)
        if found is None or not found.events:
            raise fleet_not_found(asked.fleet)
        seen = asked.from_revision - 1 if asked.from_revision else found.state.revision
        self.watches.append(asked)
        yield WatchPage((), seen, self.now_us)
        while not self.watches_end.is_set():
            for event in found.events:
                if event.revision > seen and matches(asked.where, event):
                    yield WatchPage((event,), event.revision, self.now_us)
            seen = max(seen, found.state.revision)
            async with self.news:
                await self.news.wait()
        yield WatchPage((), seen, self.now_us)
        raise ShuttingDown("the server is stopping")

    def end_watches(self) -> None:
        self.watches_end.set()
        self._tell()

    def end_audits(self) -> None:
        """None of them takes any time here."""

    def give_up(self) -> None:
        """Nothing waits here."""

    def _tell(self) -> None:
        """Wakes who watches, once whoever has the condition lets it go."""
        task = asyncio.ensure_future(self._notify())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _notify(self) -> None:
        async with self.news:
            self.news.notify_all()

    async def verify(self, fleet: str) -> VerifyReport:
        found = self._existing(fleet)
        return VerifyReport(
            revision=found.state.revision,
            discrepancies=self.discrepancies,
            truncated=False,
            instances_checked=len(found.state.index.by_name),
            held_blocks_checked=found.state.held_blocks(),
            allocations_checked=len(found.records.allocations),
            events_replayed=len(found.events),
        )

    async def callers_of(self, fleet: str, numbers: Collection[int]) -> dict[int, str]:
        allocations = self._existing(fleet).records.allocations
        return {number: allocations[number].caller for number in numbers if number in allocations}

    async def repair(self, fleet: str, *, apply: bool, actor: Actor | None = None) -> RepairReport:
        self.repaired_by = actor
        revision = self._existing(fleet).state.revision
        left = self.discrepancies
        return RepairReport(revision, apply, self.corrections, left, truncated=False, halted=bool(left))

    def _existing(self, fleet: str) -> _Fleet:
        self._fail_if_asked_to()
        found = self._fleets.get(fleet)
        if found is None or found.state.record is None:
            raise fleet_not_found(fleet)
        return found

    def _fail_if_asked_to(self) -> None:
        if self.failures:
            raise self.failures.popleft()


def _page(rows: Sequence[Row], limit: int) -> tuple[list[Row], bool]:
    """The rows of a page, and whether others follow."""
    return list(islice(rows, limit)), len(rows) > limit


def _instance_blocks(fleet: _Fleet, instance: Instance, *, full: bool) -> InstanceBlocks:
    holds = tuple(
        Hold(allocation.allocation, allocation.holder, blocks)
        for _, allocation in sorted(fleet.records.allocations.items())
        if allocation.state == "HELD"
        for name, blocks in allocation.placements
        if name == instance.name
    )
    return InstanceBlocks(
        instance.name,
        instance.fields.state,
        instance.total_blocks,
        instance.busy.bit_count(),
        holds if full else (),
    )


def _is_of(where: AllocationFilter, caller: str) -> bool:
    return caller.split("/", maxsplit=1)[0] == where.tenant or caller in where.callers
