"""Reads a fleet's journal as an outsider and checks the promise on it, with nothing of the server's own code.

At every revision a block has at most one holder, a token at most one grant, no lease ends early, and the revisions
are 1, 2, 3, …
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from blockyard import Allocation, AllocationState, AsyncClient, DescribeView, Event, EventKind, FleetSnapshot, Placement

MAX_READINGS: Final = 100
"""How often a fleet whose leases end meanwhile is read again."""

Block = tuple[str, int]
"""(instance, number)."""


def blocks_of(placements: Iterable[Placement]) -> list[Block]:
    """The blocks, one by one."""
    return [(placement.instance, block) for placement in placements for block in placement.blocks]


@dataclass
class Journal:
    """A fleet as the events so far tell it. Grows with `read`."""

    fleet: str
    revision: int = 0
    last: Event | None = None
    """The event of `revision`: what was read once must be read again the same."""
    holds: dict[Block, str] = field(default_factory=dict)
    """Who has what: block to allocation."""
    granted: dict[str, str] = field(default_factory=dict)
    """Token to allocation, for ever."""
    tokens: dict[str, str] = field(default_factory=dict)
    """Allocation to token, for ever."""
    ended: dict[str, Event] = field(default_factory=dict)
    """Allocation to the event that ended it."""
    cancelled: set[str] = field(default_factory=set)
    """Tokens that were released before they were granted."""
    leases: dict[str, datetime] = field(default_factory=dict)
    """Live allocation to the end of its lease."""
    ttls: dict[str, timedelta] = field(default_factory=dict)
    """Allocation to the length of its lease."""

    async def read(self, client: AsyncClient) -> None:
        """Reads on from where it is to the end, and checks every event."""
        async for event in client.list_events(self.fleet, from_revision=self.revision):
            if event.revision == self.revision:
                assert event == self.last, "the journal was changed"
            else:
                self._take(event)

    def _take(self, event: Event) -> None:
        assert event.revision == self.revision + 1, "a revision is missing"
        self.revision = event.revision
        self.last = event
        match event.kind:
            case EventKind.GRANTED:
                self._grant(event)
            case EventKind.RELEASED | EventKind.EXPIRED:
                self._free(event)
            case EventKind.RENEWED if event.allocation and event.expire_time:
                assert self.leases[event.allocation] < event.expire_time, "a renewal shortened a lease"
                assert event.time < self.leases[event.allocation], "a renewal revived a lease that had ended"
                self.leases[event.allocation] = event.expire_time
                self.ttls[event.allocation] = event.expire_time - event.time
            case EventKind.LEASES_EXTENDED if event.expire_time:
                for name, end in self.leases.items():
                    self.leases[name] = max(end, min(event.time + self.ttls[name], event.expire_time))
            case EventKind.TOKEN_CANCELLED if event.idempotency_token:
                assert event.idempotency_token not in self.granted, "a granted token was cancelled"
                self.cancelled.add(event.idempotency_token)
            case _:
                pass

    def _grant(self, event: Event) -> None:
        assert event.allocation, "a grant names its allocation"
        assert event.idempotency_token, "a grant names its token"
        assert event.idempotency_token not in self.granted, "a token was granted twice"
        assert event.idempotency_token not in self.cancelled, "a cancelled token was granted"
        self.granted[event.idempotency_token] = event.allocation
        self.tokens[event.allocation] = event.idempotency_token
        for block in blocks_of(event.placements):
            assert block not in self.holds, f"{block} was granted to {event.allocation} and {self.holds[block]}"
            self.holds[block] = event.allocation
        if event.expire_time is not None:
            self.leases[event.allocation] = event.expire_time
            self.ttls[event.allocation] = event.expire_time - event.time

    def _free(self, event: Event) -> None:
        assert event.allocation, "an end names its allocation"
        for block in blocks_of(event.placements):
            assert self.holds.pop(block, None) == event.allocation, f"{block} was freed by a stranger"
        if event.kind is EventKind.EXPIRED:
            assert event.time >= self.leases[event.allocation], "a lease ended early"
        if event.ended:
            assert event.allocation not in self.ended, "an allocation ended twice"
            self.ended[event.allocation] = event
            self.leases.pop(event.allocation, None)

    @property
    def live(self) -> set[str]:
        """The allocations that hold something."""
        return set(self.holds.values())


async def check_fleet(client: AsyncClient, fleet: str, journal: Journal | None = None) -> Journal:
    """Compares all that the server says of a fleet that no client changes meanwhile, and returns its journal.

    The journal, the allocations, the block map, the totals and Verify must agree.
    """
    journal = journal or Journal(fleet)
    held, snapshot = await _read_at_one_revision(client, journal)
    assert _holds(held) == journal.holds, "the allocations and the journal disagree"
    shown = {(i.instance, block): h.allocation for i in snapshot.instances for h in i.holds for block in h.blocks}
    assert shown == journal.holds, "the block map and the journal disagree"
    assert snapshot.totals.busy_blocks == len(journal.holds)
    assert snapshot.totals.busy_blocks + snapshot.totals.idle_blocks == snapshot.totals.total_blocks
    for instance in snapshot.instances:
        assert instance.busy_blocks + instance.idle_blocks == instance.total_blocks
        assert instance.busy_blocks == sum(len(hold.blocks) for hold in instance.holds)
    report = await client.verify(fleet)
    assert report.clean, report.discrepancies
    assert report.events_replayed == report.revision >= journal.revision
    return journal


async def _read_at_one_revision(client: AsyncClient, journal: Journal) -> tuple[list[Allocation], FleetSnapshot]:
    """Leases may end while the server is asked; then it is asked again."""
    for _ in range(MAX_READINGS):
        await journal.read(client)
        before = journal.revision
        held = [a async for a in client.list_allocations(journal.fleet, state=AllocationState.HELD)]
        snapshot = await client.describe(journal.fleet, view=DescribeView.FULL)
        await journal.read(client)
        if before == snapshot.revision == journal.revision:
            return held, snapshot
    raise AssertionError("the fleet never stood still")


def _holds(allocations: Iterable[Allocation]) -> dict[Block, str]:
    holds: dict[Block, str] = {}
    for allocation in allocations:
        for block in blocks_of(allocation.placements):
            assert block not in holds, f"{block} is held by {allocation.name} and {holds[block]}"
            holds[block] = allocation.name
    return holds
