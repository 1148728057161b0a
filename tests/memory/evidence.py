"""What Verify compares, out of the rows in memory."""

from collections.abc import Iterator

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.events import Event
from tests.memory.rows import Rows


class MemoryEvidence:
    """All records of a fleet, copied."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.revision = rows.revision
        self.compacted_revision = rows.compacted_revision
        self.exists = rows.record is not None
        self.closed = False

    def instances(self) -> Iterator[tuple[str, int, int]]:
        """As in the protocol."""
        return ((name, i.fields.total_blocks, self._rows.busy_blocks[name]) for name, i in self._rows.instances.items())

    def exclusive_instances(self) -> Iterator[tuple[str, int]]:
        """As in the protocol."""
        instances = self._rows.instances.values()
        return ((i.instance, i.exclusive_to) for i in instances if i.exclusive_to is not None)

    def held_blocks(self) -> Iterator[tuple[str, int, int]]:
        """As in the protocol."""
        return ((instance, block, allocation) for (instance, block), allocation in self._rows.held.items())

    def live_allocations(self) -> Iterator[Allocation]:
        """As in the protocol."""
        return iter(self._rows.live())

    def tokens_of_live_allocations(self) -> Iterator[tuple[int, int | None]]:
        """As in the protocol."""
        for allocation in self.live_allocations():
            record = self._rows.tokens.get((allocation.caller, allocation.token))
            yield allocation.allocation, None if record is None else record.allocation

    def events(self) -> Iterator[Event]:
        """As in the protocol."""
        return iter(self._rows.kept())

    def instances_after(self, instance: str, limit: int) -> list[tuple[str, int, int]]:
        """As in the protocol."""
        return sorted(row for row in self.instances() if row[0] > instance)[:limit]

    def held_of_instances(self, first: str, last: str) -> Iterator[tuple[str, int, int]]:
        """As in the protocol."""
        return (row for row in self.held_blocks() if first <= row[0] <= last)

    def tokens_after(self, allocation: int, limit: int) -> list[tuple[int, int | None]]:
        """As in the protocol."""
        return sorted(row for row in self.tokens_of_live_allocations() if row[0] > allocation)[:limit]

    def live_between(self, after: int, upto: int) -> Iterator[Allocation]:
        """As in the protocol."""
        ordered = sorted(self.live_allocations(), key=lambda a: a.allocation)
        return (a for a in ordered if after < a.allocation <= upto)

    def held_of_allocations(self, after: int, upto: int) -> Iterator[tuple[str, int, int]]:
        """As in the protocol."""
        return (row for row in self.held_blocks() if after < row[2] <= upto)

    def abandon(self) -> None:
        """No read of it takes any time."""

    def close(self) -> None:
        """As in the protocol."""
        self.closed = True
