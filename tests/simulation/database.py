"""The simulated database: the engine's store protocol over rows in memory, and everything that may go wrong with it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, NoReturn, Self

from blockyard_server.domain.allocation import Allocation, TokenRecord
from blockyard_server.domain.events import Event
from blockyard_server.domain.requests import TokenKey
from blockyard_server.domain.retention import FleetAge
from blockyard_server.engine.store_protocol import (
    CommitUnknown,
    FleetHead,
    InstanceRow,
    InvariantBroken,
    StoreConflict,
    StoreFailed,
)
from tests.simulation.call import Call
from tests.simulation.kernel import MS, SECOND, Clock, Kernel, Violation
from tests.simulation.ledger import Ledger
from tests.simulation.rows import Rows
from tests.simulation.weather import Fault, Point, Weather

IDLE_LIMIT_US: Final = 5 * SECOND
"""A transaction whose server says nothing for so long may be ended by the database."""
LONGEST_PAUSE_US: Final = 90 * SECOND


class Crash(Exception):
    """The server's process ends here."""


class Database:
    """What all servers share."""

    def __init__(self, kernel: Kernel, weather: Weather) -> None:
        self.kernel = kernel
        self.weather = weather
        self.clock = Clock(kernel, fast_ppm=kernel.chance.randint(-weather.drift_ppm, weather.drift_ppm))
        self.fleets: dict[str, Rows] = {}
        self.ledgers: dict[str, Ledger] = {}
        self.away_until_us = 0
        self.open_tokens: Callable[[], set[str]] = set
        """Those that must not be forgotten yet."""
        self.shaken = 0
        """So many transactions fail more easily, as after a fail-over."""

    def rows(self, fleet: str) -> Rows:
        """The fleet's rows, also of one that there is not yet."""
        if fleet not in self.fleets:
            self.fleets[fleet] = Rows(fleet)
            self.ledgers[fleet] = Ledger()
        return self.fleets[fleet]

    def fleet_time_us(self, fleet: str) -> int:
        """The fleet's time, as far as the database knows it."""
        return self.clock.now_us() + self.rows(fleet).clock_offset_us


class SimulatedStore:
    """One server's way to the database. Every fault of the weather happens here."""

    writer_shards = 8

    def __init__(self, database: Database, calls: dict[str, Call]) -> None:
        """`calls` is what the server is doing, by fleet."""
        self.database = database
        self._calls = calls

    def transaction(self, fleet: str) -> "SimulatedTransaction":
        """As in the protocol."""
        return SimulatedTransaction(self.database, fleet, self._calls[fleet])

    def open_evidence(self, fleet: str) -> "SimulatedEvidence":
        """As in the protocol."""
        return SimulatedEvidence(self.database.rows(fleet))


class SimulatedTransaction:
    """One transaction: also the context manager that opens and ends it."""

    def __init__(self, database: Database, fleet: str, call: Call) -> None:
        self._database = database
        self._kernel = database.kernel
        self._rows = database.rows(fleet)
        self._ledger = database.ledgers[fleet]
        self._call = call
        self._idle_us = 0
        self._events: list[Event] = []
        self._touched: dict[int, Allocation] = {}
        self._forgot = False
        self._fault, self._point = self._draw_fault()
        self.head: FleetHead | None = None
        self.database_time_us: int | None = None

    def _draw_fault(self) -> tuple[Fault | None, Point | None]:
        weather = self._database.weather
        odds = weather.transaction_fault
        if self._database.shaken and weather.transaction_faults:
            self._database.shaken -= 1
            odds = max(odds, 0.4)
        if self._kernel.calm or not self._kernel.odds(odds):
            return None, None
        return self._kernel.chance.choice(weather.transaction_faults)

    def __enter__(self) -> Self:
        self._let_others_go_first()
        self._call.began()
        try:
            self._reach()
        except BaseException:
            self._call.failed()
            raise
        rows = self._rows
        rows.begin()
        try:
            if rows.exists:
                self.head = FleetHead(
                    rows.revision, rows.next_order, rows.record, rows.halted, clock_offset_us=rows.clock_offset_us
                )
            if not self._database.weather.own_clock:
                self.database_time_us = self._database.clock.now_us()
            self._pass(Point.LOCKED)
        except BaseException:
            rows.roll_back()
            self._call.failed()
            raise
        return self

    def _reach(self) -> None:
        self._pass(Point.BEGIN)
        if self._kernel.now_us < self._database.away_until_us:
            self._kernel.happened("transaction while the store is away")
            raise StoreFailed("no connection")

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if failure is not None:
            self._rows.roll_back()
            self._call.failed()
            return
        try:
            self._pass(Point.COMMIT)
            self._expect_connection()
            self._ledger.follow(self._call, self._events, self._rows, self._touched)
            if self._forgot:
                self._ledger.books.forget(self._rows)
        except BaseException:
            self._rows.roll_back()
            self._call.failed()
            raise
        self._rows.commit(self._kernel.now_us)
        self._call.committed(self._events)
        if self._kernel.trace is not None:
            self._kernel.note(f"{self._call}: commit of {self._rows.fleet} at {self._rows.revision}")
        self._let_others_go_first()
        self._pass(Point.COMMITTED)

    def _let_others_go_first(self) -> None:
        odds = self._database.weather.interleaved
        if self._kernel.odds(max(odds, 0.5) if odds and self._call.in_doubt else odds):
            self._kernel.tally["others went first"] += 1
            self._kernel.interleave(self._kernel.chance.randint(1, 4), self._kernel.between(MS, SECOND))

    def _expect_connection(self) -> None:
        if self._idle_us > IDLE_LIMIT_US:
            self._kernel.happened("transaction ended by the idle limit")
            raise StoreFailed("the connection was closed by the database")

    def _pass(self, point: Point) -> None:
        """The transaction comes by here."""
        if self._call.dead:
            raise Crash
        if self._point is point:
            self._point = None
            assert self._fault is not None
            self._kernel.happened(f"{self._fault} {point}")
            self._suffer(self._fault, point)

    def _suffer(self, fault: Fault, point: Point) -> None:
        if fault is Fault.PAUSE:
            self._pause(point)
        else:
            self._fail(fault)

    def _pause(self, point: Point) -> None:
        pause_us = self._kernel.between(MS, LONGEST_PAUSE_US)
        if point in {Point.BEGIN, Point.COMMITTED}:
            self._kernel.interleave(10, pause_us)
        else:
            self._kernel.pass_time(pause_us)
            self._idle_us += pause_us * self._kernel.odds(0.7)

    def _fail(self, fault: Fault) -> NoReturn:
        match fault:
            case Fault.AWAY:
                raise StoreFailed("no connection")
            case Fault.CONFLICT:
                raise StoreConflict("could not serialize access")
            case Fault.UNKNOWN:
                self._call.lost_sight()
                raise CommitUnknown("the connection was lost during COMMIT")
            case Fault.BROKEN:
                raise InvariantBroken("a row is not as it was written")
            case _:
                raise Crash

    def _read(self) -> Rows:
        self._expect_connection()
        self._pass(Point.READ)
        return self._rows

    def load_instances(self) -> list[InstanceRow]:
        """As in the protocol."""
        rows = self._read()
        self._kernel.tally["memory loaded"] += 1
        masks = {name: rows.busy_mask(name) for name in rows.instances}
        ordered = sorted(rows.instances.values(), key=lambda record: record.order)
        return [
            InstanceRow(_counted(record, masks[record.instance].bit_count()), masks[record.instance])
            for record in ordered
        ]

    def events_after(self, revision: int, limit: int) -> list[Event]:
        """As in the protocol."""
        rows = self._read()
        self._kernel.tally["journal read"] += 1
        first = max(revision, rows.compacted_revision)
        return rows.journal[first : first + limit]

    def latest_time_us(self) -> int:
        """As in the protocol."""
        rows = self._read()
        return rows.journal[-1].time_us if rows.journal else 0

    def tokens(self, keys: Sequence[TokenKey]) -> dict[TokenKey, TokenRecord]:
        """As in the protocol."""
        known = self._read().tokens
        return {key: known[key] for key in keys if key in known}

    def allocations(self, ids: Sequence[int]) -> dict[int, Allocation]:
        """As in the protocol."""
        known = self._read().allocations
        return {number: known[number] for number in ids if number in known}

    def due_leases(self, now_us: int, limit: int) -> list[Allocation]:
        """As in the protocol."""
        return self._read().due(now_us)[:limit]

    def next_expire_time_us(self, after_us: int) -> int | None:
        """As in the protocol."""
        times = (a.expire_time_us for a in self._read().live())
        return min((time for time in times if time is not None and time > after_us), default=None)

    def fleet_count(self) -> int:
        """As in the protocol."""
        return sum(rows.record is not None for rows in self._database.fleets.values())

    def write(self, events: Sequence[Event], allocations: Mapping[int, Allocation]) -> None:
        """As in the protocol."""
        self._expect_connection()
        self._pass(Point.WRITE)
        rows = self._rows
        if rows.halted:
            raise Violation("a halted fleet is written to")
        for event in events:
            rows.write(event)
        for number, allocation in allocations.items():
            rows.put(rows.allocations, number, allocation)
        self._events += events
        self._touched.update(allocations)
        self._pass(Point.WRITTEN)

    def age(self) -> FleetAge:
        """As in the protocol."""
        return self._read().age

    def set_age(self, age: FleetAge) -> None:
        """As in the protocol."""
        self._expect_connection()
        self._rows.grow(age, self._database.weather.retention, self._kernel.now_us)
        self._kernel.tally["age written"] += 1

    def prune(self, upto_revision: int, limit: int) -> int:
        """As in the protocol. A token whose messages may still be on their way stays: retention is longer in life."""
        rows = self._read()
        kept = self._database.open_tokens()
        ended = [a for a in rows.allocations.values() if a.end_time_us is not None and a.token not in kept]
        old = [a for a in ended if a.revision <= upto_revision]
        for allocation in old[:limit]:
            rows.take(rows.allocations, allocation.allocation)
            rows.take(rows.tokens, (allocation.caller, allocation.token))
        records = rows.tokens.items()
        cancelled = [key for key, known in records if known.allocation is None and known.revision <= upto_revision]
        cancelled = [key for key in cancelled if key[1] not in kept][:limit]
        for key in cancelled:
            rows.take(rows.tokens, key)
        self._forgot = True
        self._kernel.tally["forgotten rows"] += len(old[:limit]) + len(cancelled)
        return 2 * len(old[:limit]) + len(cancelled)

    def compact(self, upto_revision: int, limit: int) -> int:
        """As in the protocol."""
        rows = self._read()
        old = [event for event in rows.kept()[:-1] if event.revision <= upto_revision][:limit]
        rows.compacted_revision += len(old)
        self._kernel.tally["compacted events"] += len(old)
        return len(old)

    def set_clock_offset(self, offset_us: int) -> None:
        """As in the protocol."""
        self._kernel.happened("clock offset written")
        self._rows.clock_offset_us = offset_us

    def set_halted(self, halted: bool) -> None:  # noqa: FBT001 - as in the protocol
        """As in the protocol."""
        self._kernel.happened("halt written" if halted else "halt lifted")
        self._rows.halted = halted


class SimulatedEvidence:
    """What Verify compares. Read at once, because nothing happens meanwhile."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.revision = rows.revision
        self.compacted_revision = rows.compacted_revision
        self.exists = rows.record is not None

    def instances(self) -> Iterator[tuple[str, int, int]]:
        """As in the protocol."""
        for name, record in self._rows.instances.items():
            yield name, record.fields.total_blocks, self._rows.busy_mask(name).bit_count()

    def exclusive_instances(self) -> Iterator[tuple[str, int]]:
        """As in the protocol."""
        for name, record in self._rows.instances.items():
            if record.exclusive_to is not None:
                yield name, record.exclusive_to

    def held_blocks(self) -> Iterator[tuple[str, int, int]]:
        """As in the protocol."""
        for (instance, block), allocation in self._rows.held.items():
            yield instance, block, allocation

    def live_allocations(self) -> Iterator[Allocation]:
        """As in the protocol."""
        yield from self._rows.live()

    def tokens_of_live_allocations(self) -> Iterator[tuple[int, int | None]]:
        """As in the protocol."""
        for allocation in self._rows.live():
            record = self._rows.tokens.get((allocation.caller, allocation.token))
            yield allocation.allocation, record.allocation if record is not None else None

    def events(self) -> Iterator[Event]:
        """As in the protocol."""
        yield from self._rows.kept()

    def abandon(self) -> None:
        """No read of it takes any time."""

    def close(self) -> None:
        """As in the protocol."""


def _counted(record: Any, busy_blocks: int) -> Any:
    return record if record.busy_blocks == busy_blocks else replace(record, busy_blocks=busy_blocks)
