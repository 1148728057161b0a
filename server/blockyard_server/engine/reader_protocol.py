"""What the engine needs of the reading side of a store. The engine owns this protocol, too; `store` implements it."""

from collections.abc import Collection
from typing import Protocol

from blockyard_server.domain.answers import (
    AllocationFilter,
    AllocationPage,
    AllocationView,
    DescribePage,
    EventFilter,
    EventPage,
    FleetListPage,
    FleetRecord,
    InstancePage,
    InstanceRecord,
)
from blockyard_server.domain.journal import JournalBounds


class Reader(Protocol):
    """One read-only snapshot of everything."""

    async def has_due_leases(self, fleet: str, now_us: int) -> bool:
        """Whether a HELD allocation of the fleet has `expire_time_us <= now_us`."""
        ...

    async def fleets_with_due_leases(self, now_us: int, limit: int) -> list[str]:
        """Fleets that have such an allocation, each by its own time; `now_us` is the store's clock."""
        ...

    async def fleets_with_past(self, after: str, limit: int) -> list[str]:
        """Fleets that have something to forget, however young, and whose names sort after this, by name."""
        ...

    async def fleets_to_audit(self, after: str, limit: int) -> list[str]:
        """Fleets that are neither deleted nor halted and whose names sort after this, by name."""
        ...

    async def halted_fleets(self, limit: int) -> list[str]:
        """Fleets that are halted, by name."""
        ...

    async def fleets_below_format(self, fleet_format: int, limit: int) -> list[str]:
        """Fleets, deleted ones too, whose records are of an older format, by name."""
        ...

    async def formats(self) -> tuple[int, int] | None:
        """The oldest and the newest format of the fleets that are not deleted; None if there is none."""
        ...

    async def revision(self, fleet: str) -> int | None:
        """The fleet's revision, also of a deleted one; None if there never was such a fleet."""
        ...

    async def journal_bounds(self, fleet: str) -> JournalBounds | None:
        """Which revisions the fleet's journal has, also a deleted one's; None if there never was such a fleet."""
        ...

    async def revisions(self, names: Collection[str]) -> dict[str, int]:
        """The revision of each of these fleets that there is or was. One statement."""
        ...

    async def fleet(self, fleet: str) -> FleetRecord | None:
        """One fleet; None if it is unknown or deleted."""
        ...

    async def fleets(self, *, after: str, limit: int) -> FleetListPage:
        """Fleets that are not deleted, by name."""
        ...

    async def instance(self, fleet: str, instance: str) -> InstanceRecord | None:
        """One instance."""
        ...

    async def instances(self, fleet: str, *, after: int, limit: int) -> InstancePage:
        """Instances in the order of registration."""
        ...

    async def snapshot(self, fleet: str, *, full: bool, after: int, limit: int, now_us: int) -> DescribePage:
        """One page of Describe; the fleet exists. A page ends early by `limits.MAX_PAGE_HELD_BLOCKS`."""
        ...

    async def allocation(self, fleet: str, allocation: int) -> AllocationView | None:
        """One allocation."""
        ...

    async def callers_of(self, fleet: str, numbers: Collection[int]) -> dict[int, str]:
        """The callers of those of these allocations that are remembered, by the allocation's id."""
        ...

    async def allocations(self, fleet: str, where: AllocationFilter, *, after: int, limit: int) -> AllocationPage:
        """Allocations in ascending order of the id. A page ends early by `limits.MAX_PAGE_BYTES`."""
        ...

    async def events(self, fleet: str, where: EventFilter, *, after: int, limit: int) -> EventPage:
        """Events in ascending order of the revision. A page ends early by `limits.MAX_PAGE_BYTES`.

        `after` -1 begins with the first that is kept. For any other, who asks looks whether the page's
        `compacted_revision` has passed it: then events are missing.
        """
        ...
