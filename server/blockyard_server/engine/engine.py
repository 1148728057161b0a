"""The engine: everything that the edge may ask for, put together from the writer, the sweeper and the readers."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from blockyard_server.domain.actor import Actor
from blockyard_server.domain.answers import (
    AllocationFilter,
    AllocationPage,
    AllocationView,
    Answer,
    DescribePage,
    EventFilter,
    EventPage,
    FleetListPage,
    FleetRecord,
    InstancePage,
    InstanceRecord,
    RepairReport,
    VerifyReport,
)
from blockyard_server.domain.errors import Refused
from blockyard_server.domain.fleet import FleetState, fleet_not_found, instance_not_found
from blockyard_server.domain.formats import NEWEST_RAISED, Formats
from blockyard_server.domain.journal import Watch, WatchPage, check_kept
from blockyard_server.domain.quotas import Quotas
from blockyard_server.domain.release import allocation_not_found
from blockyard_server.domain.requests import Acquire, Release, Renew, Request
from blockyard_server.engine.asker import ANYBODY, Asker, urgencies_of_call
from blockyard_server.engine.auditor import Auditor, AuditorSettings
from blockyard_server.engine.availability import Availability
from blockyard_server.engine.bounded_names import BoundedNames
from blockyard_server.engine.clock import Clock
from blockyard_server.engine.counts import MAX_FLEETS_SHOWN, Counts
from blockyard_server.engine.failures import (
    EngineFailure,
    InvariantViolated,
    Overloaded,
    StoreDamaged,
    StoreUnavailable,
)
from blockyard_server.engine.fleet_loader import FleetLoader
from blockyard_server.engine.formats import FormatKeeper, FormatSettings
from blockyard_server.engine.ledger import LedgerWork
from blockyard_server.engine.pulse import Pulse
from blockyard_server.engine.reader_protocol import Reader
from blockyard_server.engine.reads import Reads
from blockyard_server.engine.store_protocol import Store, StoreFailed, StoreRefused
from blockyard_server.engine.sweeper import Sweeper, SweeperSettings
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.watch import WatchHub
from blockyard_server.engine.writer import Writer, WriterLimits
from blockyard_server.engine.writers import Writers

MAX_WAITING_READS: Final = 1000
"""Reads that may be under way or waiting for a connection."""

MAX_SWEEPS_OF_A_READ: Final = 3
"""How often a read has ended leases swept before it reads what is there: it may join a sweep that began before it."""

T = TypeVar("T")

_FORMATS: Final = Formats(newest_raised=NEWEST_RAISED)


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the engine works."""

    writer: WriterLimits = field(default_factory=WriterLimits)
    sweeper: SweeperSettings = field(default_factory=SweeperSettings)
    auditor: AuditorSettings = field(default_factory=AuditorSettings)
    formats: FormatSettings = field(default_factory=FormatSettings)
    quotas: Quotas = field(default_factory=Quotas)
    fleets_shown: int = MAX_FLEETS_SHOWN
    """Fleets that are counted by name."""
    restart_grace_s: float | None = None
    """A start renews every live lease: its holder could not renew it meanwhile, and the wall clock may have been set
    forward. None: by its whole TTL. Otherwise for no longer than this."""


class Engine:
    """Implements `engine.service.Service` over a store and a clock. `start` before use, `stop` in the end."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        settings: EngineSettings,
        *,
        available: Callable[[bool], None] = lambda _available: None,
        clock_decides: bool = False,
        formats: Formats = _FORMATS,
    ) -> None:
        """`available` is told in the event loop when the database goes away and when it comes back.

        `clock_decides`: also if the database has a clock of its own (`fleet_time.FleetTimes`).
        """
        self._store = store
        self._snapshots = Reads(store, formats)
        self._watches = WatchHub(store, self._now_us, formats=formats)
        self.counts = Counts(fleets=BoundedNames(settings.fleets_shown))
        self._transactor = Transactor(
            store,
            clock,
            grace_s=settings.restart_grace_s,
            clock_decides=clock_decides,
            committed=self._watches.committed,
            counts=self.counts,
            monotonic_s=time.monotonic,
            formats=formats,
            quotas=settings.quotas,
        )
        self._writers = Writers(self._transactor, settings.writer, store.writer_shards, self.counts)
        self.pulse = Pulse(self.writer_busy_s)
        self._loader = FleetLoader(store, self._writers, self._transactor)
        self._sweeper = Sweeper(store, self._writers, self._transactor, settings.sweeper)
        self._keeper = FormatKeeper(store, self._writers, self._transactor, settings.formats, formats)
        self._availability = Availability(store, available, self._writers, self._keeper)
        self._ledger = LedgerWork(self._writers, self._transactor, self.counts)
        self._auditor = Auditor(store, self._writers, self._transactor, self._ledger, self.counts, settings.auditor)
        self._reads = 0

    async def start(self) -> None:
        """Opens the store, brings fleets into memory and begins to work. Raises StoreRefused, EngineFailure.

        A fleet whose invariants do not hold is halted; the others are served, and Verify tells what is wrong with it.
        """
        self._store.open()
        self._writers.start()
        self.pulse.start()
        self._watches.start()
        try:
            await self._keeper.register()  # before it serves anything: raising a fleet's format counts it
            self._expect_not_restored()  # after that: a restore looks for servers once it has said so
            await self._loader.load()
        except BaseException as failure:
            await self.stop()
            if isinstance(failure, StoreUnavailable | StoreDamaged | StoreFailed):
                raise StoreRefused(f"the data cannot be loaded: {failure.__cause__ or failure}") from failure
            raise
        self._keeper.start()
        self._loader.start()
        self._sweeper.start()
        self._auditor.start()
        self._availability.start()

    def _expect_not_restored(self) -> None:
        """Raises StoreRefused, StoreFailed."""
        if (why := self._store.why_restored()) is not None:
            raise StoreRefused(
                f"the data was restored, and names and fencing tokens would be issued a second time: {why}. "
                "Run `blockyard admin restored` with the --data or --database of this server, then start it again"
            )

    def _now_us(self, fleet: str) -> int:
        return self._transactor.times.now_us(fleet)

    async def stop(self) -> None:
        """Carries out what was accepted, then closes the store."""
        await self.pulse.stop()
        await self._availability.stop()
        await self._keeper.stop()
        await self._loader.stop()
        await self._sweeper.stop()
        self._writers.refuse()
        self._ledger.end()
        # What these find must still halt its fleet, in the writers' threads, where what was accepted is carried out.
        await self._auditor.stop()
        await self._ledger.stop()
        await self._writers.stop()
        await self._watches.stop()
        await self._snapshots.settle()
        await self._store.close()

    async def submit(self, request: Request, asker: Asker = ANYBODY) -> Any:
        """Carries out one change, durably, before it answers."""
        return await self._writers.of(request.fleet).enqueue(request, asker)

    async def submit_many(
        self, requests: list[Acquire | Release | Renew], asker: Asker = ANYBODY
    ) -> list[Answer | Exception]:
        """Carries out many changes, each by itself; refusals and failures are returned in place."""
        futures: list[asyncio.Future[Answer] | EngineFailure] = []
        urgencies = urgencies_of_call(requests)
        called: set[Writer] = set()
        for request in requests:
            writer = self._writers.of(request.fleet)
            begins_call = writer not in called
            called.add(writer)
            try:
                urgency = urgencies[request.fleet]
                futures.append(writer.enqueue(request, asker, urgency=urgency, begins_call=begins_call))
            except EngineFailure as failure:
                futures.append(failure.with_traceback(None))  # else it keeps this frame, and the frame keeps it
        try:
            return [await _settled(future) for future in futures]
        except asyncio.CancelledError:
            for future in futures:
                if isinstance(future, asyncio.Future):
                    future.add_done_callback(_notice)
            raise

    async def describe(self, fleet: str, *, full: bool, after: int, limit: int) -> DescribePage:
        """One page of a snapshot."""

        async def read(reader: Reader, now_us: int) -> DescribePage:
            await self._existing(reader, fleet)
            return await reader.snapshot(fleet, full=full, after=after, limit=limit, now_us=now_us)

        return await self._read_swept(fleet, read)

    async def get_allocation(self, fleet: str, allocation: int) -> AllocationView:
        """One allocation."""

        async def read(reader: Reader, _now_us: int) -> AllocationView:
            await self._existing(reader, fleet)
            view = await reader.allocation(fleet, allocation)
            if view is None:
                raise allocation_not_found(fleet, allocation)
            return view

        return await self._read_swept(fleet, read)

    async def callers_of(self, fleet: str, numbers: Collection[int]) -> dict[int, str]:
        """The callers of those of these allocations that are remembered."""
        return await self._read(lambda reader: reader.callers_of(fleet, numbers), fleet)

    async def list_allocations(self, fleet: str, where: AllocationFilter, *, after: int, limit: int) -> AllocationPage:
        """A page of allocations."""

        async def read(reader: Reader, _now_us: int) -> AllocationPage:
            await self._existing(reader, fleet)
            return await reader.allocations(fleet, where, after=after, limit=limit)

        return await self._read_swept(fleet, read)

    async def get_fleet(self, fleet: str) -> FleetRecord:
        """One fleet."""
        return await self._read(lambda reader: self._existing(reader, fleet), fleet)

    async def list_fleets(self, *, after: str, limit: int) -> FleetListPage:
        """A page of fleets."""
        page = await self._read(lambda reader: reader.fleets(after=after, limit=limit))
        for record in page.fleets:
            self._snapshots.expect_known_format(record.fleet, record.format)
        return page

    async def get_instance(self, fleet: str, instance: str) -> InstanceRecord:
        """One instance."""

        async def read(reader: Reader, _now_us: int) -> InstanceRecord:
            await self._existing(reader, fleet)
            record = await reader.instance(fleet, instance)
            if record is None:
                raise instance_not_found(fleet, instance)
            return record

        return await self._read_swept(fleet, read)

    async def list_instances(self, fleet: str, *, after: int, limit: int) -> InstancePage:
        """A page of instances."""

        async def read(reader: Reader, _now_us: int) -> InstancePage:
            await self._existing(reader, fleet)
            return await reader.instances(fleet, after=after, limit=limit)

        return await self._read_swept(fleet, read)

    async def list_events(self, fleet: str, where: EventFilter, *, after: int, limit: int) -> EventPage:
        """A page of the journal, also of a deleted fleet."""

        async def read(reader: Reader) -> EventPage:
            if await reader.revision(fleet) is None:
                raise fleet_not_found(fleet)
            page = await reader.events(fleet, where, after=after, limit=limit)
            self._snapshots.expect_known_format(fleet, page.format)
            if after >= 0:
                check_kept(fleet, after, page.compacted_revision)
            return page

        return await self._read(read, fleet)

    def watch(self, asked: Watch) -> AsyncGenerator[WatchPage, None]:
        """The events to come."""
        return self._watches.watch(asked)

    def end_watches(self) -> None:
        """Ends every watch with a last progress notification."""
        self._watches.end()

    def end_audits(self) -> None:
        """Every Verify and Repair ends with ShuttingDown; new ones are refused."""
        self._ledger.end()

    def give_up(self) -> None:
        """Changes that wait and were not begun end with ShuttingDown; new ones are refused."""
        self._writers.give_up()

    async def verify(self, fleet: str) -> VerifyReport:
        """Compares all records of a fleet at one revision, changes nothing, and halts the fleet if they differ."""
        return await self._ledger.verify(fleet)

    async def repair(self, fleet: str, *, apply: bool, actor: Actor | None = None) -> RepairReport:
        """Says what would make a fleet's records agree and, with `apply`, does it."""
        return await self._ledger.repair(fleet, apply=apply, actor=actor)

    @property
    def watches(self) -> WatchHub:
        """For what it counts."""
        return self._watches

    @property
    def fleets(self) -> list[FleetState]:
        """Those in memory, as this server has last seen them. From any thread, for their sizes alone."""
        return self._transactor.fleets

    def writer_busy_s(self) -> float:
        """For how long a writer has been at its present work, the longest of all. From any thread."""
        return self._writers.busy_s()

    @property
    def requests_waiting(self) -> int:
        """How many changes wait for a transaction now."""
        return self._writers.waiting

    async def _read_swept(self, fleet: str, read: Callable[[Reader, int], Awaitable[T]]) -> T:
        """Reads a snapshot in which no lease that has ended by now is still held."""
        now_us = self._transactor.times.now_us(fleet)

        async def read_if_swept(reader: Reader) -> tuple[T] | None:
            return None if await reader.has_due_leases(fleet, now_us) else (await read(reader, now_us),)

        # A sweep that others began may have looked before a lease ended that has ended by now; the next one has not.
        for _ in range(MAX_SWEEPS_OF_A_READ):
            found = await self._read(read_if_swept, fleet)
            if found is not None:
                return found[0]
            try:
                await self._sweeper.sweep_fleet(fleet)
            except InvariantViolated:
                break  # a halted fleet is never swept again, but who looks for the reason must be able to read it
        return await self._read(lambda reader: read(reader, now_us), fleet)

    async def _existing(self, reader: Reader, fleet: str) -> FleetRecord:
        record = await reader.fleet(fleet)
        if record is None:
            raise fleet_not_found(fleet)
        self._snapshots.expect_known_format(fleet, record.format)
        return record

    async def _read(self, read: Callable[[Reader], Awaitable[T]], fleet: str | None = None) -> T:
        if self._reads >= MAX_WAITING_READS:
            raise Overloaded(
                f"{MAX_WAITING_READS} reads are waiting, the most that this server accepts; try again later",
                maximum=MAX_WAITING_READS,
            )
        self._reads += 1
        try:
            return await self._snapshots.run(read, fleet)
        finally:
            self._reads -= 1


async def _settled(future: "asyncio.Future[Answer] | EngineFailure") -> Answer | Exception:
    if isinstance(future, EngineFailure):
        return future
    try:
        return await future
    except (Refused, EngineFailure) as failure:
        return failure


def _notice(future: "asyncio.Future[Answer]") -> None:
    """Takes note of an outcome that nobody waits for any more, or asyncio would report its refusal as lost."""
    if not future.cancelled():
        future.exception()
