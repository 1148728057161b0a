"""One write transaction on any database: what is looked up, and the order in which changes are written.

Everything here runs between BEGIN and COMMIT of a store, in one thread, and speaks to the driver through a
`driver.Session`.
Rows are counted: a statement that changes fewer or more rows than the events imply ends the transaction.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from typing_extensions import override

from blockyard_server.domain.allocation import Allocation, TokenRecord
from blockyard_server.domain.events import Event, FleetCreated, FleetDeleted, FleetEvent, FleetUpdated, Repaired
from blockyard_server.domain.requests import TokenKey
from blockyard_server.domain.retention import FleetAge
from blockyard_server.engine.store_protocol import FleetHead, InstanceRow, InvariantBroken, Origin, Transaction
from blockyard_server.store.codec import (
    Row,
    decode_age,
    decode_allocation,
    decode_fleet,
    decode_instance,
    decode_journal,
    encode_age,
    encode_fleet_fields,
    encode_instance_fields,
)
from blockyard_server.store.driver import Session, Statements
from blockyard_server.store.repair import apply_corrections
from blockyard_server.store.rows import (
    RowChanges,
    allocations_changed,
    allocations_inserted,
    exclusive_holds,
    net_changes,
)


class SqlTransaction(Transaction):
    """One transaction on one fleet. `wrote` says whether there is anything to commit.

    `head` is the locked row of the fleet: next_order, deleted, clock_offset_us, FLEET_COLUMNS.
    """

    def __init__(
        self,
        session: Session,
        statements: Statements,
        fleet: str,
        head: Row | None,
        *,
        database_time_us: int | None = None,
    ) -> None:
        self._session = session
        self._statements = statements
        self._fleet = fleet
        self.wrote = False
        self.head: FleetHead | None = None
        if head is not None:
            next_order, deleted, clock_offset_us, *rest = head
            record = decode_fleet(rest)
            there = None if deleted else record
            self.head = FleetHead(record.revision, next_order, there, record.halted, record.format, clock_offset_us)
        self.database_time_us = database_time_us
        self._revision = self.head.revision if self.head else 0
        self._is_new = self.head is None
        self.new_first_revision: int | None = None
        """`Origin.first_revision`, if it was written."""

    @property
    def revision(self) -> int:
        """The fleet's, with what was written so far."""
        return self._revision

    @override
    def first_revision(self) -> int:
        found = self._session.rows(self._statements.FIRST_REVISION, ())
        if self._is_new:
            self._revision = found[0][0]
        return int(found[0][0])

    @override
    def load_instances(self) -> list[InstanceRow]:
        """One statement: the database gathers each instance's blocks."""
        found = self._session.stream(self._statements.LOAD_INSTANCES, (self._fleet,))
        with _no_collection():
            return [InstanceRow(decode_instance(row), _mask(blocks)) for blocks, *row in found]

    @override
    def events_after(self, revision: int, limit: int) -> list[Event]:
        found = self._session.rows(self._statements.EVENTS_AFTER, (self._fleet, revision, limit))
        return [decode_journal(row) for row in found]

    @override
    def latest_time_us(self) -> int:
        found = self._session.rows(self._statements.LATEST_TIME, (self._fleet,))
        return found[0][0] if found else 0

    @override
    def tokens(self, keys: Sequence[TokenKey]) -> dict[TokenKey, TokenRecord]:
        return {(row[0], row[1]): TokenRecord(*row) for row in self._session.tokens(self._fleet, keys)}

    @override
    def allocations(self, ids: Sequence[int]) -> dict[int, Allocation]:
        return {row[0]: decode_allocation(row) for row in self._session.allocations(self._fleet, ids)}

    @override
    def due_leases(self, now_us: int, limit: int) -> list[Allocation]:
        found = self._session.rows(self._statements.DUE_LEASES, (self._fleet, now_us, limit))
        return [decode_allocation(row) for row in found]

    @override
    def next_expire_time_us(self, after_us: int) -> int | None:
        found = self._session.rows(self._statements.NEXT_EXPIRE_TIME, (self._fleet, after_us))
        expire_time_us: int | None = found[0][0]
        return expire_time_us

    @override
    def fleet_count(self) -> int:
        count: int = self._session.rows(self._statements.FLEET_COUNT, ())[0][0]
        return count

    @override
    def write(self, events: Sequence[Event], allocations: Mapping[int, Allocation]) -> None:
        # Foreign keys are checked with each statement, so the order is what makes a right batch pass: what is freed
        # goes before its instance may shrink or go, allocations come before the blocks they hold, and an allocation
        # ends after its blocks have gone. A wrong batch fails at the very statement that is wrong.
        changes = net_changes(self._fleet, self._revision, events)
        self.wrote = True
        self._write_fleet(changes.fleet_events)
        freed, taken = changes.held_deleted(), changes.held_inserted()
        if freed:
            self._session.free(freed, f"fleet {self._fleet}: a block that is freed is not held by the allocation")
        self._write_instances(changes)
        for extension in changes.leases_extended:
            until_us = extension.expire_time_us
            self._session.relax_timeouts()
            self._session.change(self._statements.EXTEND_LEASES, (extension.time_us, until_us, self._fleet, until_us))
        self._insert(self._statements.INSERT_ALLOCATION, allocations_inserted(changes, allocations))
        if taken:
            self._session.hold(taken)
        self._count(
            self._statements.HOLD_EXCLUSIVELY,
            exclusive_holds(changes, allocations),
            "an instance that is held exclusively has blocks of others",
        )
        kept, ended = allocations_changed(changes, allocations)
        self._count(self._statements.KEEP_ALLOCATION, kept, "an allocation that is changed is not live")
        self._count(self._statements.END_ALLOCATION, ended, "an allocation that is ended is not live")
        self._insert(self._statements.INSERT_TOKEN, changes.tokens)
        self._insert(self._statements.INSERT_EVENT, changes.journal)
        advance = (changes.revision, changes.next_order, self._fleet, self._revision)
        self._count(self._statements.ADVANCE_FLEET, [advance], "the fleet is not at the revision that was read")
        self._session.flush()
        self._revision = changes.revision

    @override
    def age(self) -> FleetAge:
        found = self._session.rows(self._statements.AGE, (self._fleet,))
        return decode_age(found[0]) if found else FleetAge()

    @override
    def set_age(self, age: FleetAge) -> None:
        self.wrote = True
        self._session.change(self._statements.SET_AGE, (self._fleet, *encode_age(age)))

    @override
    def prune(self, upto_revision: int, limit: int) -> int:
        oldest = (self._fleet, upto_revision, limit)
        ended = self._session.rows(self._statements.ENDED_UPTO, oldest)
        cancelled = self._session.rows(self._statements.CANCELLED_UPTO, oldest)
        self.wrote = self.wrote or bool(ended or cancelled)
        self._count(self._statements.FORGET_TOKEN, ended, "an ended allocation's token has no record")
        allocations = [(fleet, allocation) for fleet, _, _, allocation in ended]
        self._count(self._statements.FORGET_ALLOCATION, allocations, "an ended allocation is not there to be forgotten")
        self._count(self._statements.FORGET_CANCELLED, cancelled, "a cancelled token is not there to be forgotten")
        self._session.flush()
        return 2 * len(ended) + len(cancelled)

    @override
    def compact(self, upto_revision: int, limit: int) -> int:
        """What is still held, and every token, has rows of its own: only history goes."""
        if self.head is None:
            return 0
        compacted: int = self._session.rows(self._statements.COMPACTED_REVISION, (self._fleet,))[0][0]
        upto = min(compacted + limit, upto_revision, self._revision - 1)
        if upto <= compacted:
            return 0
        self.wrote = True
        # First the promise, then the deletion: the journal's guard lets nothing else go.
        self._advance_compacted(compacted, upto)
        gone = self._session.change(self._statements.COMPACT_JOURNAL, (self._fleet, compacted, upto))
        if gone != upto - compacted:
            raise InvariantBroken(
                f"fleet {self._fleet}: of revisions {compacted + 1} to {upto} {gone} are in the journal"
            )
        return upto - compacted

    @override
    def repair(self, event: Repaired, tokens: Sequence[TokenRecord]) -> None:
        self.wrote = True
        apply_corrections(self._session.change, self._fleet, event, tokens)
        self.write([event], {})

    @override
    def skip_to(self, revision: int) -> None:
        self.wrote = True
        self._session.relax_timeouts()
        compacted: int = self._session.rows(self._statements.COMPACTED_REVISION, (self._fleet,))[0][0]
        skip = (revision, 0, self._fleet, self._revision)
        self._count(self._statements.ADVANCE_FLEET, [skip], "the fleet is not at the revision that was read")
        self._advance_compacted(compacted, revision)
        self._session.change(self._statements.COMPACT_JOURNAL, (self._fleet, compacted, revision))
        self._revision = revision

    def set_origin(self, origin: Origin) -> None:
        """What the database says of itself from now on."""
        row = (origin.epoch, origin.first_revision, int(origin.restoring))
        self.change_database(self._statements.SET_ORIGIN, row)
        self.new_first_revision = origin.first_revision

    def change_database(self, statement: str, row: Row) -> None:
        """Changes the one row of `origin`."""
        self.wrote = True
        self._count(statement, [row], "the database does not say which one it is")
        self._session.flush()

    @override
    def set_clock_offset(self, offset_us: int) -> None:
        self.wrote = True
        self._count(
            self._statements.SET_CLOCK_OFFSET, [(offset_us, self._fleet)], "the fleet whose time is set is not there"
        )
        self._session.flush()

    @override
    def raise_format(self, fleet_format: int) -> None:
        self.wrote = True
        self._count(
            self._statements.SET_FORMAT,
            [(fleet_format, self._fleet, fleet_format)],
            "the fleet whose format is raised is not there, or not below it",
        )
        self._session.flush()

    @override
    def set_halted(self, halted: bool) -> None:
        self.wrote = True
        self._count(self._statements.SET_HALTED, [(int(halted), self._fleet)], "the fleet that is halted is not there")
        self._session.flush()

    def _advance_compacted(self, compacted: int, upto: int) -> None:
        advance = (upto, self._fleet, compacted)
        self._count(self._statements.COMPACT_FLEET, [advance], "the fleet is not compacted as far as was read")
        self._session.flush()

    def _insert(self, statement: str, rows: Sequence[Row]) -> None:
        if rows:
            self._session.insert(statement, rows)

    def _count(self, statement: str, rows: Sequence[Row], mismatch_message: str) -> None:
        """Each of the rows must change exactly one, else InvariantBroken with `mismatch_message`."""
        if rows:
            self._session.count(statement, rows, f"fleet {self._fleet}: {mismatch_message}")

    def _write_fleet(self, events: Sequence[FleetEvent]) -> None:
        for event in events:
            match event:
                case FleetCreated() if self._is_new:
                    # A fleet is born at the revision before its first event; ADVANCE then takes it on like any other.
                    self._is_new = False
                    times = (event.revision, event.time_us, event.time_us)
                    row = (self._fleet, *encode_fleet_fields(event.fields), *times, self._revision, 1, 0)
                    self._session.create_fleet(row)
                    if self._revision:
                        self._advance_compacted(0, self._revision)
                case FleetCreated():
                    times = (event.revision, event.time_us, event.time_us)
                    row = (*encode_fleet_fields(event.fields), *times, self._fleet)
                    self._count(self._statements.RECREATE_FLEET, [row], "the fleet that is created is there")
                case FleetUpdated():
                    row = (*encode_fleet_fields(event.fields), event.revision, event.time_us, self._fleet)
                    self._count(self._statements.UPDATE_FLEET, [row], "the fleet that is updated is not there")
                case FleetDeleted():
                    row = (event.revision, event.time_us, self._fleet)
                    self._count(self._statements.DELETE_FLEET, [row], "the fleet that is deleted is not there")

    def _write_instances(self, changes: RowChanges) -> None:
        fleet = self._fleet
        if changes.all_instances_deleted:
            self._session.relax_timeouts()
            self._session.change(self._statements.DELETE_ALL_INSTANCES, (fleet,))
        deleted = [(fleet, name) for name in changes.instances_deleted]
        self._count(self._statements.DELETE_INSTANCE, deleted, "an instance that is deleted is not there")
        updated = [
            (*encode_instance_fields(event.fields), event.revision, event.time_us, fleet, name)
            for name, event in changes.instances_updated.items()
        ]
        self._count(self._statements.UPDATE_INSTANCE, updated, "an instance that is updated is not there")
        self._insert(self._statements.INSERT_INSTANCE, changes.instances_inserted())


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps the garbage collector from walking all instances again and again while ever more of them are made.

    It doubled the time of a load of 125,000 instances; none of what is made here is garbage.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _mask(blocks: str | None) -> int:
    """The set of the block numbers in `7,0,3`."""
    if blocks is None:
        return 0
    return sum(map((1).__lshift__, map(int, blocks.split(","))))
