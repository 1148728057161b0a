"""One transaction of the store in memory: the engine's protocol over the rows of a fleet."""

from collections.abc import Collection, Mapping, Sequence

from blockyard_server.domain.allocation import Allocation, TokenRecord
from blockyard_server.domain.events import Event, Expired, Granted, Released, Renewed, Repaired
from blockyard_server.domain.requests import TokenKey
from blockyard_server.domain.retention import FleetAge
from blockyard_server.engine.store_protocol import FleetHead, InstanceRow
from tests.memory.rows import Rows

_CHANGES = (Released, Renewed, Expired)
"""What changes an allocation that is there."""


class MemoryTransaction:
    """Changes the rows that it is given. Whoever opens it takes them back if it fails."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.wrote = False
        self.head: FleetHead | None = None
        self.database_time_us: int | None = None

    def read_head(self) -> None:
        """The fleet is locked."""
        rows = self.rows
        if rows.exists:
            self.head = FleetHead(
                rows.revision, rows.next_order, rows.record, rows.halted, rows.format, rows.clock_offset_us
            )

    def read(self) -> Rows:
        """Every statement that reads passes here."""
        return self.rows

    def first_revision(self) -> int:
        """As in the protocol."""
        return self.read().first_revision

    def load_instances(self) -> list[InstanceRow]:
        """As in the protocol."""
        rows = self.read()
        busy = rows.busy_masks()
        return [InstanceRow(record, busy[record.instance]) for record in rows.ordered_instances()]

    def events_after(self, revision: int, limit: int) -> list[Event]:
        """As in the protocol."""
        rows = self.read()
        first = rows.journal[0].revision if rows.journal else 1
        skipped = max(revision, rows.compacted_revision) + 1 - first
        return rows.journal[max(0, skipped) : max(0, skipped) + limit]

    def latest_time_us(self) -> int:
        """As in the protocol."""
        rows = self.read()
        return rows.journal[-1].time_us if rows.journal else 0

    def tokens(self, keys: Sequence[TokenKey]) -> dict[TokenKey, TokenRecord]:
        """As in the protocol."""
        known = self.read().tokens
        return {key: known[key] for key in keys if key in known}

    def allocations(self, ids: Sequence[int]) -> dict[int, Allocation]:
        """As in the protocol."""
        known = self.read().allocations
        return {number: known[number] for number in ids if number in known}

    def due_leases(self, now_us: int, limit: int) -> list[Allocation]:
        """As in the protocol."""
        return self.read().due(now_us)[:limit]

    def next_expire_time_us(self, after_us: int) -> int | None:
        """As in the protocol."""
        times = (a.expire_time_us for a in self.read().live())
        return min((time for time in times if time is not None and time > after_us), default=None)

    def write(self, events: Sequence[Event], allocations: Mapping[int, Allocation]) -> None:
        """As in the protocol."""
        self.wrote = True
        granted: set[int] = set()
        for event in events:
            if isinstance(event, Granted):
                granted.add(event.revision)
                self._expect_final_state(event.revision, allocations)
            elif isinstance(event, _CHANGES):
                self._expect_final_state(event.allocation, allocations)
                if event.allocation not in granted:
                    self.rows.check_live(event.allocation)
            self.rows.write(event)
        for number, allocation in allocations.items():
            assert number == allocation.allocation
            self.rows.write_allocation(allocation)

    def _expect_final_state(self, allocation: int, final: Mapping[int, Allocation]) -> None:
        if allocation not in final:
            self.rows.refuse(f"the final state of allocation {allocation} is missing")

    def age(self) -> FleetAge:
        """As in the protocol."""
        return self.read().age

    def set_age(self, age: FleetAge) -> None:
        """As in the protocol."""
        self.wrote = True
        self.rows.grow(age)

    def tokens_to_keep(self) -> Collection[str]:
        """Those that `prune` leaves, with what they were granted, however old they are."""
        return ()

    def prune(self, upto_revision: int, limit: int) -> int:
        """As in the protocol."""
        rows, keep = self.read(), self.tokens_to_keep()
        ended = [a for a in rows.allocations.values() if a.end_time_us is not None and a.token not in keep]
        old = [a for a in ended if a.revision <= upto_revision][:limit]
        for allocation in old:
            rows.take(rows.allocations, allocation.allocation)
            rows.take(rows.tokens, (allocation.caller, allocation.token))
        records = rows.tokens.items()
        cancelled = [key for key, known in records if known.allocation is None and known.revision <= upto_revision]
        cancelled = [key for key in cancelled if key[1] not in keep][:limit]
        for key in cancelled:
            rows.take(rows.tokens, key)
        self.wrote = self.wrote or bool(old or cancelled)
        return 2 * len(old) + len(cancelled)

    def compact(self, upto_revision: int, limit: int) -> int:
        """As in the protocol."""
        rows = self.read()
        old = [event for event in rows.kept()[:-1] if event.revision <= upto_revision][:limit]
        rows.compacted_revision += len(old)
        self.wrote = self.wrote or bool(old)
        return len(old)

    def repair(self, event: Repaired, tokens: Sequence[TokenRecord]) -> None:
        """As in the protocol."""
        self.write([event], {})
        for record in tokens:
            self.rows.put(self.rows.tokens, (record.caller, record.token), record)

    def skip_to(self, revision: int) -> None:
        """As in the protocol."""
        self.wrote = True
        self.rows.skip_to(revision)

    def set_clock_offset(self, offset_us: int) -> None:
        """As in the protocol."""
        self.wrote = True
        self.rows.clock_offset_us = offset_us

    def raise_format(self, fleet_format: int) -> None:
        """As in the protocol."""
        self.wrote = True
        self.rows.raise_format(fleet_format)

    def set_halted(self, halted: bool) -> None:  # noqa: FBT001 - as in the protocol
        """As in the protocol."""
        self.wrote = True
        self.rows.halted = halted
