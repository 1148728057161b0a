"""One write transaction on SQLite: what is looked up, and the order in which changes are written.

Everything here runs between BEGIN IMMEDIATE and COMMIT of the one writer connection (`sqlite.SqliteStore`). Rows are
counted: a statement that changes fewer or more rows than the events imply ends the transaction.
"""

import gc
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from blockyard_server.domain.allocation import Allocation, TokenRecord
from blockyard_server.domain.events import Event, FleetCreated, FleetDeleted, FleetEvent, FleetUpdated, Repaired
from blockyard_server.domain.requests import FleetFields, TokenKey
from blockyard_server.engine.store_protocol import FleetHead, InstanceRow, InvariantBroken
from blockyard_server.store import statements
from blockyard_server.store.codec import (
    Row,
    decode_allocation,
    decode_fleet,
    decode_instance,
    decode_journal,
    encode_keys,
    encode_map,
)
from blockyard_server.store.repair import mend_rows
from blockyard_server.store.rows import RowChanges, allocations_changed, allocations_inserted, net_changes

MAX_ROWS_AT_ONCE: Final = 64
"""A power of two. With 14 columns 896 parameters, which every SQLite allows."""


class SqliteTransaction:
    """One transaction on one fleet. `wrote` says whether there is anything to commit."""

    def __init__(self, db: sqlite3.Connection, fleet: str) -> None:
        self._db = db
        self._fleet = fleet
        self.wrote = False
        row = db.execute(statements.HEAD, (fleet,)).fetchone()
        self.head: FleetHead | None = None
        if row is not None:
            next_order, deleted, clock_offset_us, *rest = row
            record = decode_fleet(rest)
            there = None if deleted else record
            self.head = FleetHead(record.revision, next_order, there, record.halted, clock_offset_us)
        self.database_time_us: int | None = None
        self._revision = self.head.revision if self.head else 0

    def load_instances(self) -> list[InstanceRow]:
        """See the protocol. One statement: the rows stream, and SQLite gathers each instance's blocks."""
        found = self._db.execute(statements.LOAD_INSTANCES, (self._fleet,))
        with _no_collection():
            return [InstanceRow(decode_instance(row), _mask(blocks)) for blocks, *row in found]

    def events_after(self, revision: int, limit: int) -> list[Event]:
        """See the protocol."""
        found = self._db.execute(statements.EVENTS_AFTER, (self._fleet, revision, limit))
        return [decode_journal(row) for row in found]

    def tokens(self, keys: Sequence[TokenKey]) -> dict[TokenKey, TokenRecord]:
        """See the protocol."""
        found = self._db.execute(statements.TOKENS, (encode_keys(keys), self._fleet))
        return {(row[0], row[1]): TokenRecord(*row) for row in found}

    def allocations(self, ids: Sequence[int]) -> dict[int, Allocation]:
        """See the protocol."""
        found = self._db.execute(statements.ALLOCATIONS, (encode_keys(ids), self._fleet))
        return {row[0]: decode_allocation(row) for row in found}

    def due_leases(self, now_us: int, limit: int) -> list[Allocation]:
        """See the protocol."""
        found = self._db.execute(statements.DUE_LEASES, (self._fleet, now_us, limit))
        return [decode_allocation(row) for row in found]

    def next_expire_time_us(self, after_us: int) -> int | None:
        """See the protocol."""
        row = self._db.execute(statements.NEXT_EXPIRE_TIME, (self._fleet, after_us)).fetchone()
        expire_time_us: int | None = row[0]
        return expire_time_us

    def fleet_count(self) -> int:
        """See the protocol."""
        count: int = self._db.execute(statements.FLEET_COUNT).fetchone()[0]
        return count

    def write(self, events: Sequence[Event], allocations: Mapping[int, Allocation]) -> None:
        """See the protocol.

        Foreign keys are checked with each statement, so the order is what makes a right batch pass: what is freed
        goes before its instance may shrink or go, allocations come before the blocks they hold, and an allocation
        ends after its blocks have gone. A wrong batch fails at the very statement that is wrong.
        """
        changes = net_changes(self._fleet, self._revision, events)
        self.wrote = True
        self._write_fleet(changes.fleet_events)
        self._count(
            statements.DELETE_HELD, changes.held_deleted(), "a block that is freed is not held by the allocation"
        )
        self._write_instances(changes)
        for extension in changes.leases_extended:
            until_us = extension.expire_time_us
            self._db.execute(statements.EXTEND_LEASES, (extension.time_us, until_us, self._fleet, until_us))
        self._insert(statements.INSERT_ALLOCATION, allocations_inserted(changes, allocations))
        self._insert(statements.INSERT_HELD, changes.held_inserted())
        kept, ended = allocations_changed(changes, allocations)
        self._count(statements.KEEP_ALLOCATION, kept, "an allocation that is changed is not live")
        self._count(statements.END_ALLOCATION, ended, "an allocation that is ended is not live")
        self._insert(statements.INSERT_TOKEN, changes.tokens)
        self._insert(statements.INSERT_EVENT, changes.journal)
        advance = (changes.revision, changes.next_order, self._fleet, self._revision)
        self._count(statements.ADVANCE_FLEET, [advance], "the fleet is not at the revision that was read")
        self._revision = changes.revision

    def prune(self, ended_before_us: int, limit: int) -> int:
        """See the protocol."""
        oldest = (self._fleet, ended_before_us, limit)
        ended = self._db.execute(statements.ENDED_BEFORE, oldest).fetchall()
        cancelled = self._db.execute(statements.CANCELLED_BEFORE, oldest).fetchall()
        self.wrote = self.wrote or bool(ended or cancelled)
        self._count(statements.FORGET_TOKEN, ended, "an ended allocation's token has no record")
        allocations = [(fleet, allocation) for fleet, _, _, allocation in ended]
        self._count(statements.FORGET_ALLOCATION, allocations, "an ended allocation is not there to be forgotten")
        self._count(statements.FORGET_CANCELLED, cancelled, "a cancelled token is not there to be forgotten")
        return 2 * len(ended) + len(cancelled)

    def compact(self, before_us: int, limit: int) -> int:
        """See the protocol. What is still held, and every token, has rows of its own: only history goes."""
        if self.head is None:
            return 0
        [compacted] = self._db.execute(statements.COMPACTED_REVISION, (self._fleet,)).fetchone()
        last = min(compacted + limit, self._revision - 1)
        window = (self._fleet, compacted, last, before_us)
        [kept] = self._db.execute(statements.FIRST_TO_KEEP, window).fetchone()
        upto = last if kept is None else kept - 1
        if upto <= compacted:
            return 0
        self.wrote = True
        # First the promise, then the deletion: the journal's guard lets nothing else go.
        advance = (upto, self._fleet, compacted)
        self._count(statements.COMPACT_FLEET, [advance], "the fleet is not compacted as far as was read")
        gone = self._db.execute(statements.COMPACT_JOURNAL, (self._fleet, compacted, upto)).rowcount
        if gone != upto - compacted:
            raise InvariantBroken(f"fleet {self._fleet}: of revisions {compacted + 1} to {upto} {gone} are in the journal")
        return upto - compacted

    def repair(self, event: Repaired, tokens: Sequence[TokenRecord]) -> None:
        """See the protocol."""
        self.wrote = True
        mend_rows(lambda statement, row: self._db.execute(statement, row).rowcount, self._fleet, event, tokens)
        self.write([event], {})

    def set_clock_offset(self, offset_us: int) -> None:
        """See the protocol."""
        self.wrote = True
        self._count(statements.SET_CLOCK_OFFSET, [(offset_us, self._fleet)], "the fleet whose time is set is not there")

    def set_halted(self, halted: bool) -> None:  # noqa: FBT001 - it sets what it is named after
        """See the protocol."""
        self.wrote = True
        self._count(statements.SET_HALTED, [(int(halted), self._fleet)], "the fleet that is halted is not there")

    def _insert(self, statement: str, rows: Sequence[Row]) -> None:
        """Inserts many rows with few statements, of 64, 32, 16 … rows, so that each text is prepared once.

        `executemany` would hand the interpreter's lock over and back once for each row, which costs the other threads
        more than the rows cost SQLite (docs/adr/0004).
        """
        begin, size = 0, MAX_ROWS_AT_ONCE
        while begin < len(rows):
            while size > len(rows) - begin:
                size //= 2
            values = [value for row in rows[begin : begin + size] for value in row]
            self._db.execute(statements.of_rows(statement, size), values)
            begin += size

    def _count(self, statement: str, rows: Sequence[Row], otherwise: str) -> None:
        """Runs the statement for each row; each must change exactly one, else InvariantBroken with `otherwise`."""
        if rows:
            changed = self._db.executemany(statement, rows).rowcount
            if changed != len(rows):
                raise InvariantBroken(f"fleet {self._fleet}: {otherwise} ({changed} rows of {len(rows)})")

    def _write_fleet(self, events: Sequence[FleetEvent]) -> None:
        for event in events:
            match event:
                case FleetCreated() if self._revision == 0 and event is events[0]:
                    row = (self._fleet, *_encode_fleet(event.fields), event.revision, event.time_us, event.time_us)
                    self._insert(statements.INSERT_FLEET, [row])
                case FleetCreated():
                    row = (*_encode_fleet(event.fields), event.revision, event.time_us, event.time_us, self._fleet)
                    self._count(statements.RECREATE_FLEET, [row], "the fleet that is created is there")
                case FleetUpdated():
                    row = (*_encode_fleet(event.fields), event.revision, event.time_us, self._fleet)
                    self._count(statements.UPDATE_FLEET, [row], "the fleet that is updated is not there")
                case FleetDeleted():
                    row = (event.revision, event.time_us, self._fleet)
                    self._count(statements.DELETE_FLEET, [row], "the fleet that is deleted is not there")

    def _write_instances(self, changes: RowChanges) -> None:
        fleet = self._fleet
        if changes.all_instances_deleted:
            self._db.execute(statements.DELETE_ALL_INSTANCES, (fleet,))
        deleted = [(fleet, name) for name in changes.instances_deleted]
        self._count(statements.DELETE_INSTANCE, deleted, "an instance that is deleted is not there")
        updated = [
            (
                event.fields.total_blocks,
                encode_map(event.fields.labels),
                encode_map(event.fields.resources),
                event.fields.state.value,
                event.revision,
                event.time_us,
                fleet,
                name,
            )
            for name, event in changes.instances_updated.items()
        ]
        self._count(statements.UPDATE_INSTANCE, updated, "an instance that is updated is not there")
        self._insert(statements.INSERT_INSTANCE, changes.instances_inserted())


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


def _encode_fleet(fields: FleetFields) -> Row:
    return (
        encode_map(fields.labels),
        fields.default_placement_strategy.value,
        fields.default_ttl_us,
        fields.max_ttl_us,
    )


def _mask(blocks: str | None) -> int:
    """The set of the block numbers in `7,0,3`."""
    if blocks is None:
        return 0
    return sum(map((1).__lshift__, map(int, blocks.split(","))))
