"""The reading side of the store in memory: one snapshot, copied when it was opened."""

from collections.abc import Collection

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
    InstanceBlocks,
    InstancePage,
    InstanceRecord,
)
from blockyard_server.domain.journal import JournalBounds, matches
from blockyard_server.domain.requests import InstanceState
from tests.memory.rows import Rows


class MemoryReader:
    """Answers out of copied rows. Pages are never cut short: `limit` is far above what these tests hold."""

    def __init__(self, fleets: dict[str, Rows]) -> None:
        self._fleets = fleets

    async def has_due_leases(self, fleet: str, now_us: int) -> bool:
        """As in the protocol."""
        return fleet in self._fleets and bool(self._fleets[fleet].due(now_us))

    async def fleets_with_due_leases(self, now_us: int, limit: int) -> list[str]:
        """As in the protocol."""
        return [fleet for fleet, rows in self._fleets.items() if rows.due(now_us + rows.clock_offset_us)][:limit]

    async def fleets_with_past(self, after: str, limit: int) -> list[str]:
        """As in the protocol."""
        with_past = (fleet for fleet, rows in self._fleets.items() if _has_past(rows))
        return sorted(fleet for fleet in with_past if fleet > after)[:limit]

    async def fleets_to_audit(self, after: str, limit: int) -> list[str]:
        """As in the protocol."""
        served = (f for f, rows in self._fleets.items() if rows.record is not None and not rows.halted)
        return sorted(fleet for fleet in served if fleet > after)[:limit]

    async def halted_fleets(self, limit: int) -> list[str]:
        """As in the protocol."""
        return sorted(fleet for fleet, rows in self._fleets.items() if rows.halted)[:limit]

    async def fleets_below_format(self, fleet_format: int, limit: int) -> list[str]:
        """As in the protocol."""
        return sorted(fleet for fleet, rows in self._fleets.items() if rows.format < fleet_format)[:limit]

    async def formats(self) -> tuple[int, int] | None:
        """As in the protocol."""
        formats = [rows.format for rows in self._fleets.values() if rows.record is not None]
        return (min(formats), max(formats)) if formats else None

    async def revision(self, fleet: str) -> int | None:
        """As in the protocol."""
        return self._fleets[fleet].revision if fleet in self._fleets else None

    async def journal_bounds(self, fleet: str) -> JournalBounds | None:
        """As in the protocol."""
        rows = self._fleets.get(fleet)
        return None if rows is None else JournalBounds(rows.revision, rows.compacted_revision, rows.format)

    async def revisions(self, names: Collection[str]) -> dict[str, int]:
        """As in the protocol."""
        return {fleet: self._fleets[fleet].revision for fleet in names if fleet in self._fleets}

    async def fleet(self, fleet: str) -> FleetRecord | None:
        """As in the protocol."""
        return self._fleets[fleet].shown() if fleet in self._fleets else None

    async def fleets(self, *, after: str, limit: int) -> FleetListPage:
        """As in the protocol."""
        records = [record for _, rows in sorted(self._fleets.items()) if (record := rows.shown()) is not None]
        return FleetListPage(tuple(record for record in records if record.fleet > after)[:limit], None)

    async def instance(self, fleet: str, instance: str) -> InstanceRecord | None:
        """As in the protocol."""
        rows = self._fleets[fleet]
        return rows.instance(instance) if instance in rows.instances else None

    async def instances(self, fleet: str, *, after: int, limit: int) -> InstancePage:
        """As in the protocol."""
        records = self._fleets[fleet].ordered_instances()
        return InstancePage(tuple(record for record in records if record.order > after)[:limit], None)

    async def snapshot(self, fleet: str, *, full: bool, after: int, limit: int, now_us: int) -> DescribePage:
        """As in the protocol, in the basic view."""
        rows = self._fleets[fleet]
        page = (await self.instances(fleet, after=after, limit=limit)).instances
        assert not full
        free = [r for r in rows.ordered_instances() if r.exclusive_to is None]
        active = [r for r in free if r.fields.state is InstanceState.ACTIVE]
        totals = BlockCounts(
            instances=len(rows.instances),
            total_blocks=sum(r.fields.total_blocks for r in rows.instances.values()),
            busy_blocks=len(rows.held),
            acquirable_blocks=sum(r.fields.total_blocks - r.busy_blocks for r in active),
        )
        blocks = tuple(InstanceBlocks(r.instance, r.fields.state, r.fields.total_blocks, r.busy_blocks) for r in page)
        return DescribePage(fleet, rows.revision, totals, blocks, None, now_us)

    async def allocation(self, fleet: str, allocation: int) -> AllocationView | None:
        """As in the protocol."""
        found = self._fleets[fleet].allocations.get(allocation)
        return None if found is None else AllocationView(found)

    async def callers_of(self, fleet: str, numbers: Collection[int]) -> dict[int, str]:
        """As in the protocol."""
        found = self._fleets[fleet].allocations
        return {number: found[number].caller for number in numbers if number in found}

    async def allocations(self, fleet: str, where: AllocationFilter, *, after: int, limit: int) -> AllocationPage:
        """As in the protocol; filters by holder only."""
        rows = self._fleets[fleet]
        found = [a for i, a in sorted(rows.allocations.items()) if i > after and where.holder in {None, a.holder}]
        return AllocationPage(tuple(map(AllocationView, found))[:limit], rows.revision, None)

    async def events(self, fleet: str, where: EventFilter, *, after: int, limit: int) -> EventPage:
        """As in the protocol."""
        rows = self._fleets[fleet]
        found = [event for event in rows.kept() if event.revision > after and matches(where, event)]
        next_after = found[limit - 1].revision if len(found) > limit else None
        return EventPage(tuple(found[:limit]), rows.revision, next_after, rows.compacted_revision, rows.format)


def _has_past(rows: Rows) -> bool:
    ended = any(a.end_time_us is not None for a in rows.allocations.values())
    return ended or len(rows.kept()) > 1 or any(known.allocation is None for known in rows.tokens.values())
