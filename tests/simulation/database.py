"""The simulated database: the engine's store protocol over rows in memory, and everything that may go wrong with it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType
from typing import Final, NoReturn, Self

from blockyard_server.domain.allocation import Allocation, TokenRecord
from blockyard_server.domain.events import Event, Repaired
from blockyard_server.domain.retention import FleetAge
from blockyard_server.engine.store_protocol import (
    CommitUnknown,
    InstanceRow,
    InvariantBroken,
    StoreConflict,
    StoreFailed,
)
from tests.memory.evidence import MemoryEvidence
from tests.memory.rows import Rows
from tests.memory.transaction import MemoryTransaction
from tests.simulation.call import Call
from tests.simulation.kernel import MS, SECOND, Clock, Kernel, Violation
from tests.simulation.ledger import Ledger
from tests.simulation.rows import SimulatedRows
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
        self.fleets: dict[str, SimulatedRows] = {}
        self.ledgers: dict[str, Ledger] = {}
        self.away_until_us = 0
        self.open_tokens: Callable[[], set[str]] = set
        """Those that must not be forgotten yet."""
        self.shaken = 0
        """So many transactions fail more easily, as after a fail-over."""

    def rows(self, fleet: str) -> SimulatedRows:
        """The fleet's rows, also of one that there is not yet."""
        if fleet not in self.fleets:
            self.fleets[fleet] = SimulatedRows(fleet)
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

    def open_evidence(self, fleet: str) -> MemoryEvidence:
        """As in the protocol."""
        # It is read at once, and nothing happens meanwhile: no copy is needed.
        return MemoryEvidence(self.database.rows(fleet))


class SimulatedTransaction(MemoryTransaction):
    """One transaction: also the context manager that opens and ends it."""

    def __init__(self, database: Database, fleet: str, call: Call) -> None:
        self._rows = database.rows(fleet)
        super().__init__(self._rows)
        self._database = database
        self._kernel = database.kernel
        self._ledger = database.ledgers[fleet]
        self._call = call
        self._idle_us = 0
        self._events: list[Event] = []
        self._touched: dict[int, Allocation] = {}
        self._forgot = False
        self._fault, self._point = self._draw_fault()

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
            self.read_head()
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

    def read(self) -> Rows:
        """A statement that reads."""
        self._expect_connection()
        self._pass(Point.READ)
        return self._rows

    def load_instances(self) -> list[InstanceRow]:
        """As in the protocol."""
        found = super().load_instances()
        self._kernel.tally["memory loaded"] += 1
        return found

    def events_after(self, revision: int, limit: int) -> list[Event]:
        """As in the protocol."""
        found = super().events_after(revision, limit)
        self._kernel.tally["journal read"] += 1
        return found

    def fleet_count(self) -> int:
        """As in the protocol."""
        return sum(rows.record is not None for rows in self._database.fleets.values())

    def write(self, events: Sequence[Event], allocations: Mapping[int, Allocation]) -> None:
        """As in the protocol."""
        self._expect_connection()
        self._pass(Point.WRITE)
        if self._rows.halted:
            raise Violation("a halted fleet is written to")
        super().write(events, allocations)
        self._events += events
        self._touched.update(allocations)
        self._pass(Point.WRITTEN)

    def repair(self, event: Repaired, _tokens: Sequence[TokenRecord]) -> None:
        """No simulated operator asks for one."""
        raise Violation(f"nobody asked for {event}")

    def raise_format(self, fleet_format: int) -> None:
        """All simulated servers are of one release."""
        raise Violation(f"nobody asked for format {fleet_format}")

    def set_age(self, age: FleetAge) -> None:
        """As in the protocol."""
        self._expect_connection()
        super().set_age(age)
        self._rows.check_age(age, self._database.weather.retention, self._kernel.now_us)
        self._kernel.tally["age written"] += 1

    def tokens_to_keep(self) -> Collection[str]:
        """Those whose messages may still be on their way: retention is longer in life."""
        return self._database.open_tokens()

    def prune(self, upto_revision: int, limit: int) -> int:
        """As in the protocol."""
        before = len(self._rows.tokens)
        gone = super().prune(upto_revision, limit)
        self._forgot = True
        self._kernel.tally["forgotten rows"] += before - len(self._rows.tokens)
        return gone

    def compact(self, upto_revision: int, limit: int) -> int:
        """As in the protocol."""
        gone = super().compact(upto_revision, limit)
        self._kernel.tally["compacted events"] += gone
        return gone

    def set_clock_offset(self, offset_us: int) -> None:
        """As in the protocol."""
        self._kernel.happened("clock offset written")
        super().set_clock_offset(offset_us)

    def set_halted(self, halted: bool) -> None:  # noqa: FBT001 - as in the protocol
        """As in the protocol."""
        self._kernel.happened("halt written" if halted else "halt lifted")
        super().set_halted(halted)
