"""One transaction on one fleet, run again until the database lets it commit, or fails.

The work in it sees the fleet in memory as its row is, at the fleet's time, with every lease extended if time may
have been skipped. Memory takes on each event as it is decided; if the commit fails, that memory is forgotten and loaded
again (docs/adr/0002).
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from blockyard_server.domain.events import Event, LeasesExtended
from blockyard_server.domain.fleet import Inconsistent
from blockyard_server.domain.formats import OLDEST, Formats
from blockyard_server.engine.batch import Attempt
from blockyard_server.engine.counts import Counts
from blockyard_server.engine.failures import StoreUnavailable, failure_of_store, format_too_new, violation_in
from blockyard_server.engine.fleet_time import FleetTimes
from blockyard_server.engine.halts import Halts
from blockyard_server.engine.memory import FleetMemory
from blockyard_server.engine.store_protocol import (
    CommitUnknown,
    FleetHead,
    InvariantBroken,
    Store,
    StoreConflict,
    StoreFailed,
    Transaction,
    level_of,
)

MAX_ATTEMPTS: Final = 5
"""How often a transaction is run that the database ended in favour of another, or whose COMMIT got no answer."""
CANNOT_BE_WRITTEN: Final = "the database cannot be reached or written; try again with the same token"

_log = logging.getLogger(__name__)

T = TypeVar("T")


class UnitOfWork:
    """Runs work on fleets, each in a transaction. On different fleets at once, each in a thread; never two on one."""

    def __init__(
        self,
        store: Store,
        times: FleetTimes,
        halts: Halts,
        *,
        grace_us: int,
        committed: Callable[[str], None],
        formats: Formats,
        counts: Counts,
    ) -> None:
        """`committed` is called with the fleet after each commit of events, in the thread that made it."""
        self._counts = counts
        self._store = store
        self._times = times
        self._halts = halts
        self._grace_us = grace_us
        self._committed = committed
        self._formats = formats
        self.format_of_new_fleets = OLDEST
        """All live servers know it (`engine.formats`)."""
        self.memory = FleetMemory()
        self._takeover_pending: set[str] = set()
        """Fleets whose leases this server has still to extend. A halted one's are extended after its repair."""

    def extend_at_first_use(self, fleet: str) -> None:
        """The next transaction on the fleet extends its leases, before anything else."""
        self._takeover_pending.add(fleet)

    def run(
        self, fleet: str, work: Callable[[Attempt], T], *, extend_leases: bool = True, even_if_halted: bool = False
    ) -> T:
        """What `work` answers, once its transaction is committed. Runs it again if the database chose another's.

        Raises EngineFailure, and whatever `work` raises. A fleet whose invariants do not hold is halted.
        """
        if not even_if_halted and self._halts.is_unrecorded(fleet):
            raise violation_in(fleet)
        written: list[Event] = []

        def attempt() -> T:
            written.clear()
            return self._attempt(fleet, work, written, extend_leases=extend_leases, even_if_halted=even_if_halted)

        try:
            answer = self._until_committed(fleet, attempt)
        except (InvariantBroken, Inconsistent) as broken:
            self.halt(fleet, str(broken))
            raise violation_in(fleet) from broken
        except StoreFailed as failure:
            _log.log(level_of(failure), "fleet %s: the store failed: %s", fleet, failure)
            raise failure_of_store(failure, CANNOT_BE_WRITTEN) from failure
        if written:
            self._committed(fleet)
        return answer

    def run_on_records(self, fleet: str, work: Callable[[Transaction], T]) -> T:
        """As `run`, but on the fleet's records alone, without memory: also of a fleet that cannot be loaded.

        Raises FleetFormatTooNew, StoreUnavailable, StoreFailed, InvariantBroken.
        """

        def attempt() -> T:
            with self._store.transaction(fleet) as tx:
                self._expect_known_format(fleet, tx.head)
                return work(tx)

        return self._until_committed(fleet, attempt)

    def halt(self, fleet: str, why: str) -> None:
        """Stops the fleet's writes, on every server and after every start, until it is repaired."""
        self.memory.forget(fleet)
        self._halts.halt(fleet, why)

    def time_of_repair_us(self, fleet: str, tx: Transaction) -> int:
        """The fleet's time for an event that comes without an extension: that of its latest, if it is not certain."""
        latest_us = tx.latest_time_us()
        taking_over = fleet in self._takeover_pending
        reading = self._times.read(fleet, tx.head, tx.database_time_us, latest_us=latest_us, taking_over=taking_over)
        return latest_us if reading.time_may_have_skipped and latest_us else reading.now_us

    def _until_committed(self, fleet: str, attempt: Callable[[], T]) -> T:
        for _ in range(MAX_ATTEMPTS):
            try:
                return attempt()
            except StoreConflict as conflict:
                _log.info("fleet %s: the transaction is run again: %s", fleet, conflict)
        raise StoreUnavailable(f"the database ended the transaction {MAX_ATTEMPTS} times; try again")

    def _attempt(
        self,
        fleet: str,
        work: Callable[[Attempt], T],
        written: list[Event],
        *,
        extend_leases: bool,
        even_if_halted: bool,
    ) -> T:
        done: list[tuple[Attempt, T]] = []
        asked_us = self._times.own_us()
        try:
            with self._store.transaction(fleet) as tx:
                self._expect_known_format(fleet, tx.head)
                if not even_if_halted:
                    self._halts.check(fleet, tx.head)
                attempt = self._begin(fleet, tx, written, asked_us, extend_leases=extend_leases)
                done.append((attempt, work(attempt)))
                if tx.head is None and attempt.state.exists and self.format_of_new_fleets > OLDEST:
                    tx.raise_format(self.format_of_new_fleets)
                attempt.decided_s = time.monotonic()
        except CommitUnknown as unknown:
            self.memory.forget(fleet)
            if not (done and self._was_committed(fleet, written, unknown)):
                raise StoreConflict("the commit did not happen") from unknown
            if done[0][0].reading.clamped_to_last_event:
                raise StoreFailed("whether the commit was this server's own cannot be known") from unknown
        except BaseException:
            self.memory.forget(fleet)
            raise
        else:
            self.memory.keep(attempt.state)
            self._note_commit(attempt)
            if attempt.extended:
                self._takeover_pending.discard(fleet)
            bounds = attempt.reading.clock_offset
            if bounds is not None and (attempt.extended or not attempt.reading.time_may_have_skipped):
                self._times.keep(fleet, bounds)
        return done[0][1]

    def _note_commit(self, attempt: Attempt) -> None:
        if attempt.written:
            took_s = time.monotonic() - attempt.decided_s
            self._counts.note_commit(attempt.state.fleet, attempt.written, attempt.late_renewals, took_s)

    def _expect_known_format(self, fleet: str, head: FleetHead | None) -> None:
        if head is not None and not self._formats.knows(head.format):
            raise format_too_new(fleet, head.format, self._formats.newest)

    def _begin(
        self, fleet: str, tx: Transaction, written: list[Event], asked_us: int, *, extend_leases: bool
    ) -> Attempt:
        state = self.memory.current(fleet, tx)
        taking_over = fleet in self._takeover_pending
        reading = self._times.read(
            fleet,
            tx.head,
            tx.database_time_us,
            asked_us=asked_us,
            latest_us=state.latest_time_us,
            taking_over=taking_over,
        )
        fleet_format = self.format_of_new_fleets if tx.head is None else tx.head.format
        attempt = Attempt(tx, state, reading.now_us, written, reading, self._formats, fleet_format)
        extension_needed = reading.time_may_have_skipped or taking_over
        if extend_leases and extension_needed and tx.head is not None and not tx.head.halted:
            self._extend_leases(attempt)
        return attempt

    def _extend_leases(self, attempt: Attempt) -> None:
        """This server knows nothing of the time that passed before: the clock may have been set meanwhile."""
        state, until_us = attempt.state, attempt.now_us + self._grace_us
        if attempt.reading.step_us:
            _log.warning("fleet %s: the clock was set; the fleet's time goes on as before", state.fleet)
        if attempt.reading.offset_us is not None:
            attempt.tx.set_clock_offset(attempt.reading.offset_us)
        next_us = attempt.tx.next_expire_time_us(after_us=-1)
        if state.exists and next_us is not None and next_us < until_us:
            event = LeasesExtended(state.revision + 1, attempt.now_us, until_us)
            state.apply(event)
            attempt.write([event], {})
        attempt.extended = True

    def _was_committed(self, fleet: str, written: Sequence[Event], unknown: CommitUnknown) -> bool:
        """Reads in the journal whether a transaction's events are there. Raises StoreFailed.

        The lock of the fleet is free only when that transaction is over, one way or the other.
        """
        _log.warning("fleet %s: whether the commit happened is read in the journal: %s", fleet, unknown)
        if not written:
            return False
        with self._store.transaction(fleet) as tx:
            return tx.events_after(written[0].revision - 1, len(written)) == list(written)
