"""The read side: one snapshot of everything, through SQLAlchemy Core on an asynchronous connection.

Every statement finds its rows by an index, and looks at a bounded number of them; a test asks the planner.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, case, exists, func, literal_column, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import override

from blockyard_server.domain import limits
from blockyard_server.domain.allocation import Allocation, AllocationState
from blockyard_server.domain.answers import (
    AllocationFilter,
    AllocationPage,
    AllocationView,
    BlockCounts,
    DescribePage,
    EventFilter,
    EventPage,
    FleetListPage,
    FleetRecord,
    Hold,
    InstanceBlocks,
    InstancePage,
    InstanceRecord,
)
from blockyard_server.domain.journal import JournalBounds
from blockyard_server.domain.requests import InstanceState
from blockyard_server.engine.reader_protocol import Reader
from blockyard_server.store.allocation_search import AllocationSearch
from blockyard_server.store.codec import (
    ALLOCATION_COLUMNS,
    EVENT_COLUMNS,
    FLEET_COLUMNS,
    INSTANCE_COLUMNS,
    Row,
    decode_allocation,
    decode_fleet,
    decode_instance,
    decode_journal,
)
from blockyard_server.store.event_search import EventSearch
from blockyard_server.store.pages import (
    estimate_allocation_size,
    estimate_event_size,
    estimate_fleet_size,
    estimate_holds_size,
    estimate_instance_size,
    fill_page,
)
from blockyard_server.store.schema import allocations, fleets, held_blocks, instances, journal, tokens

NAMES_AT_ONCE = 500
"""How many instances or allocations one statement names."""

_LIVE = allocations.c.live == literal_column("1")
_ENDED = allocations.c.live == literal_column("0")
# Not a join: before there are statistics, PostgreSQL would rather walk all allocations of the fleet.
_HOLDER = (
    select(allocations.c.holder)
    .where(allocations.c.fleet == held_blocks.c.fleet, allocations.c.allocation == held_blocks.c.allocation)
    .scalar_subquery()
)
_HELD_COLUMNS = (held_blocks.c.instance, held_blocks.c.allocation, _HOLDER, held_blocks.c.block)


def _of_the_fleet(clock_us: int) -> ColumnElement[int]:
    """The time of the fleet of a row when the store's clock shows this."""
    return fleets.c.clock_offset_us + clock_us


class SqlReader(Reader):
    """One read-only snapshot, taken by the first statement."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    @override
    async def has_due_leases(self, fleet: str, now_us: int) -> bool:
        due = exists().where(allocations.c.fleet == fleet, _LIVE, allocations.c.expire_time_us <= now_us)
        return bool(await self._connection.scalar(select(due)))

    @override
    async def fleets_with_due_leases(self, now_us: int, limit: int) -> list[str]:
        due = exists().where(
            allocations.c.fleet == fleets.c.fleet, _LIVE, allocations.c.expire_time_us <= _of_the_fleet(now_us)
        )
        return await self._names(select(fleets.c.fleet).where(fleets.c.deleted == 0, due), limit)

    @override
    async def fleets_with_past(self, after: str, limit: int) -> list[str]:
        """With no range of revisions SQLite would walk the primary keys."""
        ended = exists().where(allocations.c.fleet == fleets.c.fleet, _ENDED, allocations.c.revision > 0)
        cancelled = exists().where(
            tokens.c.fleet == fleets.c.fleet, tokens.c.allocation.is_(None), tokens.c.revision > 0
        )
        events = fleets.c.compacted_revision + 1 < fleets.c.revision
        named = select(fleets.c.fleet).where(fleets.c.fleet > after, or_(events, ended, cancelled))
        return await self._names(named, limit)

    @override
    async def fleets_to_audit(self, after: str, limit: int) -> list[str]:
        served = select(fleets.c.fleet).where(fleets.c.fleet > after, fleets.c.deleted == 0, fleets.c.halted == 0)
        return await self._names(served, limit)

    @override
    async def halted_fleets(self, limit: int) -> list[str]:
        return await self._names(select(fleets.c.fleet).where(fleets.c.deleted == 0, fleets.c.halted == 1), limit)

    @override
    async def fleets_below_format(self, fleet_format: int, limit: int) -> list[str]:
        return await self._names(select(fleets.c.fleet).where(fleets.c.format < fleet_format), limit)

    @override
    async def formats(self) -> tuple[int, int] | None:
        found = select(func.min(fleets.c.format), func.max(fleets.c.format)).where(fleets.c.deleted == 0)
        [(oldest, newest)] = await self._rows(found)
        return None if oldest is None else (oldest, newest)

    @override
    async def revision(self, fleet: str) -> int | None:
        found: int | None = await self._connection.scalar(select(fleets.c.revision).where(fleets.c.fleet == fleet))
        return found

    @override
    async def journal_bounds(self, fleet: str) -> JournalBounds | None:
        bounds = select(fleets.c.revision, fleets.c.compacted_revision, fleets.c.format).where(fleets.c.fleet == fleet)
        rows = await self._rows(bounds)
        return JournalBounds(*rows[0]) if rows else None

    @override
    async def revisions(self, names: Collection[str]) -> dict[str, int]:
        rows = await self._rows(select(fleets.c.fleet, fleets.c.revision).where(fleets.c.fleet.in_(names)))
        return {row[0]: row[1] for row in rows}

    @override
    async def fleet(self, fleet: str) -> FleetRecord | None:
        rows = await self._rows(_select_fleets().where(fleets.c.fleet == fleet))
        return decode_fleet(rows[0]) if rows else None

    @override
    async def fleets(self, *, after: str, limit: int) -> FleetListPage:
        async def fetch(name: str, count: int) -> Sequence[Row]:
            return await self._rows(_select_fleets().where(fleets.c.fleet > name).order_by(fleets.c.fleet).limit(count))

        page = await fill_page(
            fetch, decode_fleet, lambda fleet: fleet.fleet, estimate_fleet_size, after=after, limit=limit
        )
        return FleetListPage(tuple(page.items), page.items[-1].fleet if page.more else None)

    @override
    async def instance(self, fleet: str, instance: str) -> InstanceRecord | None:
        rows = await self._rows(_select_instances(fleet).where(instances.c.instance == instance))
        return decode_instance(rows[0]) if rows else None

    @override
    async def instances(self, fleet: str, *, after: int, limit: int) -> InstancePage:
        async def fetch(order: int, count: int) -> Sequence[Row]:
            above = _select_instances(fleet).where(instances.c.instance_order > order)
            return await self._rows(above.order_by(instances.c.instance_order).limit(count))

        page = await fill_page(
            fetch, decode_instance, lambda i: i.order, estimate_instance_size, after=after, limit=limit
        )
        return InstancePage(tuple(page.items), page.items[-1].order if page.more else None)

    @override
    async def snapshot(self, fleet: str, *, full: bool, after: int, limit: int, now_us: int) -> DescribePage:
        revision = await self.revision(fleet)
        assert revision is not None, "the fleet exists"
        found = await self._rows(
            select(
                instances.c.instance_order,
                instances.c.instance,
                instances.c.state,
                instances.c.total_blocks,
                instances.c.busy_blocks,
            )
            .where(instances.c.fleet == fleet, instances.c.instance_order > after)
            .order_by(instances.c.instance_order)
            .limit(limit + 1)
        )
        rows = found[:limit]
        holds: dict[str, tuple[Hold, ...]] = {}
        if full and rows:
            rows = _as_many_as_held_blocks_allow(rows)
            holds = await self._holds(fleet, [row[1] for row in rows])
            rows = _as_many_as_holds_allow(rows, holds)
        return DescribePage(
            fleet=fleet,
            revision=revision,
            totals=await self._totals(fleet),
            instances=tuple(
                InstanceBlocks(name, InstanceState(state), total, busy, holds.get(name, ()))
                for _, name, state, total, busy in rows
            ),
            next_after=rows[-1][0] if len(rows) < len(found) else None,
            time_us=now_us,
        )

    @override
    async def allocation(self, fleet: str, allocation: int) -> AllocationView | None:
        rows = await self._rows(_select_allocations(fleet).where(allocations.c.allocation == allocation))
        if not rows:
            return None
        return (await self._views(fleet, [decode_allocation(rows[0])]))[0]

    @override
    async def callers_of(self, fleet: str, numbers: Collection[int]) -> dict[int, str]:
        found: dict[int, str] = {}
        wanted = sorted(numbers)
        for begin in range(0, len(wanted), NAMES_AT_ONCE):
            among = allocations.c.allocation.in_(wanted[begin : begin + NAMES_AT_ONCE])
            columns = select(allocations.c.allocation, allocations.c.caller)
            rows = await self._rows(columns.where(allocations.c.fleet == fleet, among))
            found.update((row[0], row[1]) for row in rows)
        return found

    @override
    async def allocations(self, fleet: str, where: AllocationFilter, *, after: int, limit: int) -> AllocationPage:
        """With a filter, a page also ends once so many rows were looked at, even if it is empty."""
        revision = await self.revision(fleet)
        search = AllocationSearch(self._connection, fleet, where)
        upto = await search.begin(after)

        async def fetch(number: int, count: int) -> Sequence[Row]:
            numbers = await search.after(number, count)
            if not numbers:
                return []
            among = _select_allocations(fleet).where(allocations.c.allocation.in_(numbers))
            return await self._rows(among.order_by(allocations.c.allocation))

        page = await fill_page(
            fetch, decode_allocation, lambda a: a.allocation, estimate_allocation_size, after=after, limit=limit
        )
        views = await self._views(fleet, page.items)
        return AllocationPage(views, revision or 0, page.items[-1].allocation if page.more else upto)

    @override
    async def events(self, fleet: str, where: EventFilter, *, after: int, limit: int) -> EventPage:
        """With a filter, a page also ends once so many rows were looked at, even if it is empty."""
        bounds = await self.journal_bounds(fleet) or JournalBounds(0, 0)
        search = EventSearch(fleet, where, bounds.revision)
        after = bounds.compacted_revision if after < 0 else after
        upto = search.begin(after)

        async def fetch(last: int, count: int) -> Sequence[Row]:
            columns = select(*(journal.c[name] for name in EVENT_COLUMNS))
            return await self._rows(columns.where(*search.after(last)).order_by(journal.c.revision).limit(count))

        page = await fill_page(
            fetch, decode_journal, lambda e: e.revision, estimate_event_size, after=after, limit=limit
        )
        next_after = page.items[-1].revision if page.more else upto
        return EventPage(tuple(page.items), bounds.revision, next_after, bounds.compacted_revision, bounds.format)

    async def _rows(self, statement: Select[Any]) -> list[Row]:
        return [tuple(row) for row in await self._connection.execute(statement)]

    async def _names(self, statement: Select[Any], limit: int) -> list[str]:
        rows = await self._rows(statement.order_by(fleets.c.fleet).limit(limit))
        return [row[0] for row in rows]

    async def _totals(self, fleet: str) -> BlockCounts:
        idle = instances.c.total_blocks - instances.c.busy_blocks
        acquirable = (instances.c.state == "ACTIVE") & instances.c.exclusive_to.is_(None)
        [row] = await self._rows(
            select(
                func.count(),
                func.coalesce(func.sum(instances.c.total_blocks), 0),
                func.coalesce(func.sum(instances.c.busy_blocks), 0),
                func.coalesce(func.sum(case((acquirable, idle), else_=0)), 0),
            ).where(instances.c.fleet == fleet)
        )
        return BlockCounts(*row)

    async def _holds(self, fleet: str, names: Sequence[str]) -> dict[str, tuple[Hold, ...]]:
        """Who has which blocks on these instances."""
        rows = await self._rows(
            select(*_HELD_COLUMNS)
            .where(held_blocks.c.fleet == fleet, held_blocks.c.instance.in_(names))
            .order_by(held_blocks.c.instance, held_blocks.c.allocation, held_blocks.c.block)
        )
        gathered: dict[str, dict[int, tuple[str, list[int]]]] = {}
        for instance, allocation, holder, block in rows:
            if holder is not None:  # of a block that no allocation has, Verify tells
                gathered.setdefault(instance, {}).setdefault(allocation, (holder, []))[1].append(block)
        return {
            instance: tuple(Hold(allocation, holder, tuple(blocks)) for allocation, (holder, blocks) in held.items())
            for instance, held in gathered.items()
        }

    async def _views(self, fleet: str, found: Sequence[Allocation]) -> tuple[AllocationView, ...]:
        held = [a for a in found if a.state is AllocationState.HELD]
        names = sorted({instance for allocation in held for instance, _ in allocation.placements})
        offline: set[str] = set()
        for begin in range(0, len(names), NAMES_AT_ONCE):
            among = names[begin : begin + NAMES_AT_ONCE]
            rows = await self._rows(
                select(instances.c.instance).where(
                    instances.c.fleet == fleet, instances.c.instance.in_(among), instances.c.state == "OFFLINE"
                )
            )
            offline.update(row[0] for row in rows)
        return tuple(AllocationView(a, _offline(a, offline)) for a in found)


def _offline(allocation: Allocation, offline: set[str]) -> tuple[str, ...]:
    if allocation.state is not AllocationState.HELD:
        return ()
    return tuple(instance for instance, _ in allocation.placements if instance in offline)


def _select_fleets() -> Select[Any]:
    return select(*(fleets.c[name] for name in FLEET_COLUMNS)).where(fleets.c.deleted == literal_column("0"))


def _select_instances(fleet: str) -> Select[Any]:
    return select(*(instances.c[name] for name in INSTANCE_COLUMNS)).where(instances.c.fleet == fleet)


def _select_allocations(fleet: str) -> Select[Any]:
    return select(*(allocations.c[name] for name in ALLOCATION_COLUMNS)).where(allocations.c.fleet == fleet)


def _as_many_as_held_blocks_allow(rows: list[Row]) -> list[Row]:
    """The first rows up to the one with which the page has named MAX_PAGE_HELD_BLOCKS."""
    held = 0
    for index, (_, _, _, _, busy) in enumerate(rows):
        held += busy
        if held >= limits.MAX_PAGE_HELD_BLOCKS:
            return rows[: index + 1]
    return rows


def _as_many_as_holds_allow(rows: list[Row], holds: dict[str, tuple[Hold, ...]]) -> list[Row]:
    """The first rows up to the one with which the page has MAX_PAGE_BYTES."""
    size = 0
    for index, (_, name, _, _, busy) in enumerate(rows):
        size += estimate_holds_size((hold.holder for hold in holds.get(name, ())), busy)
        if size >= limits.MAX_PAGE_BYTES:
            return rows[: index + 1]
    return rows
