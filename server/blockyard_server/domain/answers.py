"""What requests and readers are answered with. Plain values; the edge encodes them."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.blocks import Blocks
from blockyard_server.domain.corrections import Correction
from blockyard_server.domain.events import Event
from blockyard_server.domain.requests import FleetFields, InstanceFields, InstanceState


class ReleaseOutcome(StrEnum):
    """What a Release did. Each is a success."""

    RELEASED = "RELEASED"
    ALREADY_RELEASED = "ALREADY_RELEASED"
    ALREADY_EXPIRED = "ALREADY_EXPIRED"
    CANCELLED_BEFORE_GRANT = "CANCELLED_BEFORE_GRANT"


class AllocationView(NamedTuple):
    """An allocation with those of its instances that are OFFLINE now (none once it has ended)."""

    allocation: Allocation
    offline_instances: tuple[str, ...] = ()


class Grant(NamedTuple):
    """The answer to Acquire. With `validate_only` the allocation's id is 0: it does not exist."""

    view: AllocationView
    revision: int
    time_us: int
    replayed: bool = False


class ReleaseAnswer(NamedTuple):
    """The answer to Release. `view` is None for CANCELLED_BEFORE_GRANT."""

    outcome: ReleaseOutcome
    view: AllocationView | None
    revision: int
    time_us: int


class Renewal(NamedTuple):
    """The answer to Renew."""

    view: AllocationView
    revision: int
    time_us: int


@dataclass(frozen=True, slots=True)
class FleetRecord:
    """A fleet's own fields. `config_revision` is the revision of their last change: the etag."""

    fleet: str
    fields: FleetFields
    revision: int
    config_revision: int
    create_time_us: int
    update_time_us: int
    halted: bool = False
    """Its writes are stopped, because an invariant was found not to hold."""
    format: int = 1
    """Of its records (`domain.formats`)."""


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """An instance's own fields and its count of busy blocks."""

    fleet: str
    instance: str
    order: int
    fields: InstanceFields
    busy_blocks: int
    config_revision: int
    create_time_us: int
    update_time_us: int
    exclusive_to: int | None = None
    """The allocation that holds it exclusively."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """The answer to a deletion."""


Answer = Grant | ReleaseAnswer | Renewal | FleetRecord | InstanceRecord | Deleted


def etag_of(config_revision: int) -> str:
    """The etag of a fleet or an instance whose own fields last changed at this revision."""
    return f"r{config_revision}"


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """Sums over a fleet: `busy_blocks + idle_blocks = total_blocks`."""

    instances: int
    total_blocks: int
    busy_blocks: int
    acquirable_blocks: int

    @property
    def idle_blocks(self) -> int:
        """The blocks that are not held, on instances of any state."""
        return self.total_blocks - self.busy_blocks


@dataclass(frozen=True, slots=True)
class Hold:
    """The blocks that one allocation has on one instance."""

    allocation: int
    holder: str
    blocks: Blocks


@dataclass(frozen=True, slots=True)
class InstanceBlocks:
    """One instance in a snapshot; `holds` is empty in the basic view."""

    instance: str
    state: InstanceState
    total_blocks: int
    busy_blocks: int
    holds: tuple[Hold, ...] = ()


@dataclass(frozen=True, slots=True)
class DescribePage:
    """One page of a fleet's instances and the fleet's totals, all true at `revision`.

    `next_after` is the order of the page's last instance, to go on after; None on the last page.
    """

    fleet: str
    revision: int
    totals: BlockCounts
    instances: tuple[InstanceBlocks, ...]
    next_after: int | None
    time_us: int


@dataclass(frozen=True, slots=True)
class AllocationFilter:
    """Which allocations to list; None is any. `state` is as a client sees it: an ended lease is EXPIRED.

    `tenant` finds its own, those of the namespaces below it (`actor.SEPARATOR`), and those of `callers`.
    """

    holder: str | None = None
    state: str | None = None
    instance: str | None = None
    tenant: str | None = None
    callers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AllocationPage:
    """Allocations in ascending order of their id; `next_after` as in DescribePage."""

    views: tuple[AllocationView, ...]
    revision: int
    next_after: int | None


@dataclass(frozen=True, slots=True)
class FleetListPage:
    """Fleets by name; `next_after` is the last name of the page, None on the last page."""

    fleets: tuple[FleetRecord, ...]
    next_after: str | None


@dataclass(frozen=True, slots=True)
class InstancePage:
    """Instances in the order of registration; `next_after` as in DescribePage."""

    instances: tuple[InstanceRecord, ...]
    next_after: int | None


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events to list: of these kinds (empty: all), of this holder, with this instance."""

    kinds: tuple[str, ...] = ()
    holder: str | None = None
    instance: str | None = None


@dataclass(frozen=True, slots=True)
class EventPage:
    """Events in ascending order of the revision, read when the fleet was at `revision`.

    `next_after` is the last revision that was looked at, None if that is `revision`. The journal is kept above
    `compacted_revision`.
    """

    events: tuple[Event, ...]
    revision: int
    next_after: int | None
    compacted_revision: int = 0
    format: int = 1
    """Of the fleet's records when they were read."""

    @property
    def upto(self) -> int:
        """The page has every matching event up to this revision."""
        return self.revision if self.next_after is None else self.next_after


class Check(StrEnum):
    """Which comparison of Verify failed."""

    COUNTER = "COUNTER"
    HELD_BLOCKS = "HELD_BLOCKS"
    JOURNAL = "JOURNAL"
    MEMORY = "MEMORY"
    TOKEN = "TOKEN"


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One place where two records disagree. `instance` and `allocation` are None where they do not apply."""

    check: Check
    expected: str
    actual: str
    instance: str | None = None
    allocation: int | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What Verify found, all at `revision`."""

    revision: int
    discrepancies: tuple[Discrepancy, ...]
    truncated: bool
    instances_checked: int
    held_blocks_checked: int
    allocations_checked: int
    events_replayed: int

    @property
    def clean(self) -> bool:
        """No difference at all."""
        return not self.discrepancies


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a Repair did, or would do. `revision` is that of the comparison, or of the REPAIRED event."""

    revision: int
    applied: bool
    corrections: tuple[Correction, ...]
    unrepaired: tuple[Discrepancy, ...]
    truncated: bool
    halted: bool
