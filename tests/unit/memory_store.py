"""A store in memory, faithful to the engine's protocol: a transaction sees its own work, and others see it at commit.

It refuses what the real one's constraints refuse, and fails where a test tells it to.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace

from blockyard_server.domain.allocation import Allocation, AllocationState, TokenRecord
from blockyard_server.domain.answers import FleetRecord, InstanceRecord
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.corrections import CorrectionKind
from blockyard_server.domain.events import (
    Event,
    Expired,
    Granted,
    LeasesExtended,
    Released,
    Repaired,
    TokenWasCancelled,
)
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.lease import extended_us, lease_ended
from blockyard_server.domain.requests import TokenKey
from blockyard_server.domain.retention import FleetAge
from blockyard_server.engine.store_protocol import FleetHead, InstanceRow, InvariantBroken, ServerRow
from tests.unit.memory_reader import MemoryEvidence, MemoryReader


@dataclass
class Rows:
    """The rows of one fleet."""

    revision: int = 0
    next_order: int = 1
    record: FleetRecord | None = None
    instances: dict[str, InstanceRecord] = field(default_factory=dict)
    held: dict[tuple[str, int], int] = field(default_factory=dict)
    allocations: dict[int, Allocation] = field(default_factory=dict)
    tokens: dict[TokenKey, TokenRecord] = field(default_factory=dict)
    journal: list[Event] = field(default_factory=list)
    compacted_revision: int = 0
    halted: bool = False
    format: int = 1
    clock_offset_us: int = 0
    age: FleetAge = field(default_factory=FleetAge)

    def kept(self) -> list[Event]:
        """The journal as others see it: `journal` itself is never cut short, because instances are read off it."""
        return [event for event in self.journal if event.revision > self.compacted_revision]

    def copy(self) -> "Rows":
        """The rows as they are now."""
        return replace(
            self,
            instances=dict(self.instances),
            held=dict(self.held),
            allocations=dict(self.allocations),
            tokens=dict(self.tokens),
            journal=list(self.journal),
        )

    def busy_mask(self, instance: str) -> int:
        """The set of an instance's held blocks."""
        return sum(1 << block for name, block in self.held if name == instance)

    def due(self, now_us: int) -> list[Allocation]:
        """The live allocations whose lease has ended, the longest overdue first."""
        live = (a for a in self.allocations.values() if a.state is AllocationState.HELD)
        return sorted(
            (a for a in live if lease_ended(a.expire_time_us, now_us)), key=lambda a: (a.expire_time_us, a.allocation)
        )


class MemoryTransaction:
    """One transaction over a copy of a fleet's rows."""

    def __init__(self, store: "MemoryStore", fleet: str) -> None:
        self._store = store
        self._fleet = fleet
        self.wrote = False
        self.rows = store.rows[fleet].copy() if fleet in store.rows else Rows()
        there = fleet in store.rows
        rows = self.rows
        self.database_time_us = store.database_time_us()
        head = FleetHead(rows.revision, rows.next_order, rows.record, rows.halted, rows.format, rows.clock_offset_us)
        self.head = head if there else None

    def load_instances(self) -> list[InstanceRow]:
        """As in the protocol; counted, so that a test can tell whether memory was made anew."""
        self._store.loads.append(self._fleet)
        ordered = sorted(self.rows.instances.values(), key=lambda record: record.order)
        return [InstanceRow(record, self.rows.busy_mask(record.instance)) for record in ordered]

    def events_after(self, revision: int, limit: int) -> list[Event]:
        """As in the protocol."""
        return [event for event in self.rows.kept() if event.revision > revision][:limit]

    def latest_time_us(self) -> int:
        """As in the protocol."""
        return self.rows.journal[-1].time_us if self.rows.journal else 0

    def tokens(self, keys: Sequence[TokenKey]) -> dict[TokenKey, TokenRecord]:
        """As in the protocol."""
        return {key: self.rows.tokens[key] for key in keys if key in self.rows.tokens}

    def allocations(self, ids: Sequence[int]) -> dict[int, Allocation]:
        """As in the protocol."""
        return {i: self.rows.allocations[i] for i in ids if i in self.rows.allocations}

    def due_leases(self, now_us: int, limit: int) -> list[Allocation]:
        """As in the protocol."""
        return self.rows.due(now_us)[:limit]

    def next_expire_time_us(self, after_us: int) -> int | None:
        """As in the protocol."""
        live = (a.expire_time_us for a in self.rows.allocations.values() if a.state is AllocationState.HELD)
        return min((time for time in live if time is not None and time > after_us), default=None)

    def fleet_count(self) -> int:
        """As in the protocol."""
        return len(self._store.fleet_sizes())

    def write(self, events: Sequence[Event], allocations: Mapping[int, Allocation]) -> None:
        """As in the protocol."""
        self._store.before_write(events)
        self.wrote = True
        for event in events:
            if event.revision != self.rows.revision + 1:
                message = f"revision {event.revision} after {self.rows.revision}"
                raise InvariantBroken(message)
            self._write_one(event)
            self.rows.revision = event.revision
            self.rows.journal.append(event)
        self.rows.allocations.update(allocations)
        mirror = FleetState(self._fleet, self.rows.journal[0].revision - 1)
        for event in self.rows.journal:
            if isinstance(event, Repaired):
                mirror.revision = event.revision
            else:
                mirror.apply(event)
        record, self.rows.next_order = mirror.record, mirror.next_order
        self.rows.record = None if record is None else replace(record, format=self.rows.format)
        records = {i.name: mirror.instance_record(i) for i in mirror.index.by_order.values()}
        self.rows.instances = {
            name: replace(record, busy_blocks=self.rows.busy_mask(name).bit_count()) for name, record in records.items()
        }

    def _write_one(self, event: Event) -> None:
        match event:
            case Granted():
                self._remember(event.caller, event.token, event.revision, event)
                for instance, block in _each(event.placements):
                    if self.rows.held.setdefault((instance, block), event.revision) != event.revision:
                        message = f"block {block} of {instance} is held already"
                        raise InvariantBroken(message)
            case Released() | Expired():
                for instance, block in _each(event.freed):
                    if self.rows.held.pop((instance, block), None) != event.allocation:
                        message = f"block {block} of {instance} is not held by {event.allocation}"
                        raise InvariantBroken(message)
            case TokenWasCancelled():
                self._remember(event.caller, event.token, None, event)
            case LeasesExtended():
                for allocation in self.rows.due(event.expire_time_us):
                    end_us, ttl_us = allocation.expire_time_us or 0, allocation.ttl_us or 0
                    end_us = extended_us(end_us, ttl_us, event.time_us, event.expire_time_us)
                    longer = allocation._replace(expire_time_us=end_us)
                    self.rows.allocations[allocation.allocation] = longer
            case _:  # the instances and the fleet's record are read off the journal
                pass

    def _remember(self, caller: str, token: str, allocation: int | None, event: Event) -> None:
        fingerprint = event.fingerprint if isinstance(event, Granted) else b""
        self.rows.tokens[caller, token] = TokenRecord(caller, token, allocation, fingerprint, event.revision)

    def age(self) -> FleetAge:
        """As in the protocol."""
        return self.rows.age

    def set_age(self, age: FleetAge) -> None:
        """As in the protocol."""
        if age.age_us <= self.rows.age.age_us:
            message = f"the age {age.age_us} does not grow"
            raise InvariantBroken(message)
        self.rows.age = age
        self.wrote = True

    def prune(self, upto_revision: int, limit: int) -> int:
        """As in the protocol."""
        ended = [a for a in self.rows.allocations.values() if a.end_time_us is not None and a.revision <= upto_revision]
        for allocation in ended[:limit]:
            del self.rows.allocations[allocation.allocation]
            del self.rows.tokens[(allocation.caller, allocation.token)]
        records = self.rows.tokens.items()
        cancelled = [key for key, known in records if known.allocation is None and known.revision <= upto_revision]
        for key in cancelled[:limit]:
            del self.rows.tokens[key]
        self.wrote = self.wrote or bool(ended or cancelled)
        return 2 * len(ended[:limit]) + len(cancelled[:limit])

    def set_clock_offset(self, offset_us: int) -> None:
        """As in the protocol."""
        self.rows.clock_offset_us = offset_us
        self.wrote = True

    def compact(self, upto_revision: int, limit: int) -> int:
        """As in the protocol."""
        old = [event for event in self.rows.kept()[:-1] if event.revision <= upto_revision][:limit]
        self.rows.compacted_revision += len(old)
        self.wrote = self.wrote or bool(old)
        return len(old)

    def repair(self, event: Repaired, tokens: Sequence[TokenRecord]) -> None:
        """As in the protocol."""
        self.wrote = True
        for each in event.corrections:
            key = (each.instance or "", each.block or 0)
            if each.kind is CorrectionKind.BLOCK_FREED and self.rows.held.pop(key, None) != each.allocation:
                message = f"block {key} is not held by {each.allocation}"
                raise InvariantBroken(message)
            if each.kind is CorrectionKind.BLOCK_HELD:
                self.rows.held[key] = each.allocation or 0
        for record in tokens:
            self.rows.tokens[record.caller, record.token] = record
        self.write([event], {})

    def raise_format(self, fleet_format: int) -> None:
        """As in the protocol."""
        assert fleet_format > self.rows.format
        self.rows.format = fleet_format
        if self.rows.record is not None:
            self.rows.record = replace(self.rows.record, format=fleet_format)
        self.wrote = True

    def set_halted(self, halted: bool) -> None:  # noqa: FBT001 - as in the protocol
        """As in the protocol."""
        self.rows.halted = halted
        self.wrote = True


class MemoryStore:
    """Fleets in memory. The `before_x` are where tests step in: to look, to wait, to raise."""

    writer_shards = 1
    made_new = True
    write_failed = False

    def __init__(self) -> None:
        self.rows: dict[str, Rows] = {}
        self.transactions: list[str] = []
        """The fleet of each transaction that began."""
        self.commits: list[tuple[str, int]] = []
        """The fleet and the number of events of each commit that wrote."""
        self.loads: list[str] = []
        self.evidence: list[MemoryEvidence] = []
        self.reads = 0
        self.before_begin: Callable[[str], None] = lambda _fleet: None
        self.before_write: Callable[[Sequence[Event]], None] = lambda _events: None
        self.before_commit: Callable[[str], None] = lambda _fleet: None
        self.after_commit: Callable[[str], None] = lambda _fleet: None
        self.database_time_us: Callable[[], int | None] = lambda: None
        """The clock of a database that servers share."""
        self.closed = False
        self.servers: dict[str, ServerRow] = {}
        """Those that have given a sign of life."""
        self._lock = threading.Lock()

    def open(self) -> None:
        """As in the protocol."""

    async def close(self) -> None:
        """As in the protocol."""
        self.closed = True

    @contextmanager
    def transaction(self, fleet: str) -> Iterator[MemoryTransaction]:
        """As in the protocol."""
        self.before_begin(fleet)
        with self._lock:
            self.transactions.append(fleet)
            tx = MemoryTransaction(self, fleet)
            yield tx
            if tx.wrote:
                self.before_commit(fleet)
                before = self.rows[fleet].revision if fleet in self.rows else 0
                self.rows[fleet] = tx.rows
                self.commits.append((fleet, tx.rows.revision - before))
                self.after_commit(fleet)

    def open_evidence(self, fleet: str) -> MemoryEvidence:
        """As in the protocol."""
        evidence = MemoryEvidence(self.rows[fleet].copy() if fleet in self.rows else Rows())
        self.evidence.append(evidence)
        return evidence

    def fleet_sizes(self) -> dict[str, int]:
        """As in the protocol."""
        return {fleet: len(rows.instances) for fleet, rows in sorted(self.rows.items()) if rows.record is not None}

    async def listen(self, on_change: Callable[[str], None]) -> None:  # noqa: ARG002 - there is no other server
        """As in the protocol."""
        await asyncio.Event().wait()

    async def notify(self, fleets: Collection[str]) -> None:
        """As in the protocol."""

    async def heartbeat(self, own: ServerRow) -> list[ServerRow]:
        """As in the protocol."""
        self.servers[own.server] = own
        return [*self.servers.values()]

    async def deregister(self, server: str) -> None:
        """As in the protocol."""
        self.servers.pop(server, None)

    async def probe(self) -> None:
        """As in the protocol."""

    def try_write(self) -> None:
        """As in the protocol."""

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[MemoryReader]:
        """As in the protocol; counted."""
        self.reads += 1
        yield MemoryReader({fleet: rows.copy() for fleet, rows in self.rows.items()})


def _each(placements: Placements) -> Iterator[tuple[str, int]]:
    return ((instance, block) for instance, blocks in placements for block in blocks)
