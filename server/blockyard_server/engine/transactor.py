"""One batch of requests on one fleet in one transaction. Synchronous; runs in the writer thread only.

The order is the promise: look up, decide, write, commit, and only then may anybody be answered. Memory takes on
each event as it is decided, so that the batch's later requests see it; if the commit fails, that memory is
forgotten and loaded anew (docs/adr/0002).
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from blockyard_server.domain import limits
from blockyard_server.domain.audit import Memory
from blockyard_server.domain.events import Event, LeasesExtended
from blockyard_server.domain.fleet import FleetState, Inconsistent
from blockyard_server.domain.requests import Request
from blockyard_server.domain.retention import Forgettable, Retention, forgettable
from blockyard_server.engine.batch import Allowance, Attempt, Outcome, SliceSize, decide_all, sweep
from blockyard_server.engine.clock import Clock
from blockyard_server.engine.counts import Counts
from blockyard_server.engine.failures import EngineFailure, StoreUnavailable, failure_of_store, violation_in
from blockyard_server.engine.fleet_age import FleetAges, Look
from blockyard_server.engine.fleet_time import FleetTimes
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
from blockyard_server.engine.verify_snapshot import VerifySnapshot

MAX_PRUNED_AT_ONCE: Final = 1000
"""How many ended allocations one transaction forgets."""
MAX_COMPACTED_AT_ONCE: Final = 1000
"""How many events one transaction forgets."""

MAX_ATTEMPTS: Final = 5
"""How often a transaction is run that the database ended in favour of another, or whose COMMIT got no answer."""

_NO_MEMORY: Final = -1
"""No fleet is ever at this revision."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Transactor:
    """Carries out batches. A fleet whose invariants do not hold is halted: it refuses every write from then on.

    `committed` is called with the fleet after each commit of events, in the thread that made it. Transactions on
    different fleets may be carried out at once, each in a thread of its own; never two on one fleet.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        grace_s: float | None = 0.0,
        clock_decides: bool = False,
        committed: Callable[[str], None] = lambda _fleet: None,
        counts: Counts | None = None,
        monotonic_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`monotonic_s` bounds how long one transaction decides. The default stands still: no bound."""
        self._store = store
        self._monotonic_s = monotonic_s
        self._due, self._past, self._history = (SliceSize(monotonic_s) for _ in range(3))
        self._grace_us = limits.MAX_TTL_US if grace_s is None else int(grace_s * 1_000_000)
        self._committed = committed
        self._counts = Counts() if counts is None else counts
        self.times = FleetTimes(clock, clock_decides=clock_decides)
        self.ages = FleetAges(clock)
        self._memory = FleetMemory()
        self._takeover_pending: set[str] = set()
        """Fleets whose leases this server has still to extend. A halted one's are extended after its repair."""
        self._halted: dict[str, str] = {}
        """Halted fleets whose row could not be made to say so yet."""

    @property
    def halts_to_record(self) -> set[str]:
        """Fleets that only this server knows to be halted."""
        return set(self._halted)

    def carry_out(self, fleet: str, requests: Sequence[Request]) -> list[Outcome]:
        """The outcomes of all requests, in order, durable when this returns. Raises EngineFailure for all of them."""
        return self.in_transaction(fleet, lambda attempt: self._decide(attempt, requests))

    def expire_due(self, fleet: str) -> bool:
        """Sweeps ended leases, a bounded number. Answers whether there are more."""
        return self.in_transaction(fleet, self._sweep)

    def load(self, fleet: str) -> None:
        """Brings a fleet into memory, for start-up."""
        self.in_transaction(fleet, lambda _attempt: None, extend_leases=False)

    def extend_leases_on_takeover(self, fleet: str) -> None:
        """Extends every lease as if it were renewed now, but by no more than the grace (None: any), with one event.

        For start-up, when all fleets are loaded. Nothing is written if no lease would end within the grace. For a fleet
        that it meets later, because another server made it, a server does this before anything else.
        """
        self._takeover_pending.add(fleet)
        self.in_transaction(fleet, lambda _attempt: None)

    def extend_at_first_use(self, fleets: Iterable[str]) -> None:
        """The first transaction on each of these fleets loads it and extends its leases, before anything else."""
        self._takeover_pending.update(fleets)

    def age(self, fleet: str, retention: Retention) -> Forgettable:
        """Lets the fleet's age grow by what this server has certainly seen pass. Answers what is old enough to go."""

        def age(attempt: Attempt) -> tuple[Look | None, Forgettable]:
            age, head = attempt.tx.age(), attempt.tx.head
            look = self.ages.look(age.age_us)
            passed_us = self.ages.since(fleet, look)
            if passed_us is None or head is None:
                return look, forgettable(age, retention)
            if passed_us < retention.step_us:
                return None, forgettable(age, retention)
            age = age.after(passed_us, head.revision, retention)
            attempt.tx.set_age(age)
            return look._replace(age_us=age.age_us), forgettable(age, retention)

        look, old = self.in_transaction(fleet, age)
        if look is not None:
            self.ages.keep(fleet, look)
        return old

    def prune(self, fleet: str, upto_revision: int) -> bool:
        """Forgets what ended at this revision or before, a bounded number. Answers whether there may be more."""

        def prune(attempt: Attempt) -> bool:
            return self._past.run(lambda rows: attempt.tx.prune(upto_revision, rows), MAX_PRUNED_AT_ONCE, int)[1]

        return self.in_transaction(fleet, prune)

    def compact(self, fleet: str, upto_revision: int) -> bool:
        """Forgets the events up to this revision, a bounded number. Answers whether there may be more."""

        def compact(attempt: Attempt) -> bool:
            return self._history.run(lambda rows: attempt.tx.compact(upto_revision, rows), MAX_COMPACTED_AT_ONCE, int)[
                1
            ]

        return self.in_transaction(fleet, compact)

    def fleets_with_stale_clock(self) -> list[str]:
        """Fleets with leases, as far as memory knows, that this server has not looked at for a while."""
        return sorted(self.times.out_of_sight() & self._memory.with_leases())

    def refresh_clock(self, fleet: str) -> None:
        """Sees the fleet's time, and takes on what other servers wrote. Who looks often misses no step of a clock."""
        self.in_transaction(fleet, lambda _attempt: None)

    def time_of_repair_us(self, fleet: str, tx: Transaction) -> int:
        """The fleet's time for an event that comes without an extension: that of its latest, if it is not certain."""
        latest_us = tx.latest_time_us()
        anew = fleet in self._takeover_pending
        reading = self.times.read(fleet, tx.head, tx.database_time_us, latest_us=latest_us, anew=anew)
        return latest_us if reading.time_may_have_skipped and latest_us else reading.now_us

    def snapshot(self, fleet: str) -> VerifySnapshot:
        """Takes a snapshot of a fleet's records and of its memory, for Verify; also of a halted fleet.

        If the fleet cannot be brought into memory, it is halted, and the snapshot says why. Raises StoreUnavailable.
        """
        known_as_halted = fleet in self._halted
        try:
            with self._store.transaction(fleet) as tx:
                known_as_halted |= tx.head is not None and tx.head.halted
                state = self._memory.current(fleet, tx)
            self._memory.keep(state)
            evidence = self._store.open_evidence(fleet)
            return VerifySnapshot(evidence, state.revision, _memory_of(state), halted=known_as_halted)
        except (InvariantBroken, Inconsistent) as broken:
            if not known_as_halted:
                self.halt(fleet, str(broken))
            return VerifySnapshot(self._store.open_evidence(fleet), _NO_MEMORY, {}, str(broken), halted=True)
        except StoreFailed as failure:
            self._memory.forget(fleet)
            raise _unavailable(failure) from failure

    def snapshot_slice(self, fleet: str, after_instance: str, limit: int) -> VerifySnapshot | None:
        """As `snapshot`, but with the memory of the next instances by name only, `limit` at most.

        None if the fleet is not there, or is halted, or is halted by this. Raises StoreUnavailable.
        """
        if fleet in self._halted:
            self._record_halt(fleet)
            return None
        try:
            with self._store.transaction(fleet) as tx:
                if tx.head is None or tx.head.record is None or tx.head.halted:
                    return None
                state = self._memory.current(fleet, tx)
            self._memory.keep(state)
            evidence = self._store.open_evidence(fleet)
            try:
                names = [name for name, _, _ in evidence.instances_after(after_instance, limit)]
            except BaseException:
                evidence.close()
                raise
            found = (instance for name in names if (instance := state.index.by_name.get(name)) is not None)
            return VerifySnapshot(evidence, state.revision, {i.name: (i.total_blocks, i.busy) for i in found})
        except (InvariantBroken, Inconsistent) as broken:
            self.halt(fleet, str(broken))
            return None
        except StoreFailed as failure:
            self._memory.forget(fleet)
            raise _unavailable(failure) from failure

    def was_repaired(self, fleet: str) -> None:
        """Memory is loaded anew, and who follows the fleet is told."""
        self._memory.forget(fleet)
        self._committed(fleet)

    def halt(self, fleet: str, why: str) -> None:
        """Stops the fleet's writes, on every server and after every start, until it is repaired."""
        self._memory.forget(fleet)
        self._halted[fleet] = why
        self._counts.note_halt(fleet)
        _log.critical("fleet %s: an invariant does not hold, its writes are stopped: %s", fleet, why)
        self._record_halt(fleet)

    def resume(self, fleet: str) -> None:
        """Ends the halt that the fleet's row said and says no more."""
        self._memory.forget(fleet)
        self._halted.pop(fleet, None)
        self._counts.halted_fleets.discard(fleet)

    def in_transaction(
        self, fleet: str, work: Callable[[Attempt], T], *, extend_leases: bool = True, even_if_halted: bool = False
    ) -> T:
        """What `work` answers, once its transaction is committed. Runs it anew if the database chose another's.

        Raises EngineFailure, and whatever `work` raises.
        """
        if fleet in self._halted and not even_if_halted:
            self._record_halt(fleet)
            raise violation_in(fleet)
        for _ in range(MAX_ATTEMPTS):
            written: list[Event] = []
            try:
                answer = self._attempt(fleet, work, written, extend_leases=extend_leases, even_if_halted=even_if_halted)
            except (InvariantBroken, Inconsistent) as broken:
                self.halt(fleet, str(broken))
                raise violation_in(fleet) from broken
            except StoreConflict as conflict:
                _log.info("fleet %s: the transaction is run again: %s", fleet, conflict)
                continue
            except StoreFailed as failure:
                _log.log(level_of(failure), "fleet %s: the store failed: %s", fleet, failure)
                raise _unavailable(failure) from failure
            if written:
                self._committed(fleet)
            return answer
        raise StoreUnavailable(
            f"the database ended the transaction {MAX_ATTEMPTS} times; try again with the same token"
        )

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
        asked_us = self.times.own_us()
        try:
            with self._store.transaction(fleet) as tx:
                self._expect_served(fleet, tx.head, even_if_halted=even_if_halted)
                attempt = self._begin(fleet, tx, written, asked_us, extend_leases=extend_leases)
                done.append((attempt, work(attempt)))
        except CommitUnknown as unknown:
            self._memory.forget(fleet)
            if not (done and self._was_committed(fleet, written, unknown)):
                raise StoreConflict("the commit did not happen") from unknown
            if done[0][0].reading.clamped_to_last_event:
                raise StoreFailed("whether the commit was this server's own cannot be known") from unknown
        except BaseException:
            self._memory.forget(fleet)
            raise
        else:
            self._memory.keep(attempt.state)
            if attempt.extended:
                self._takeover_pending.discard(fleet)
            bounds = attempt.reading.clock_offset
            if bounds is not None and (attempt.extended or not attempt.reading.time_may_have_skipped):
                self.times.keep(fleet, bounds)
        return done[0][1]

    def _expect_served(self, fleet: str, head: FleetHead | None, *, even_if_halted: bool) -> None:
        if head is not None and head.halted and not even_if_halted:
            self._counts.halted_fleets.add(fleet)
            raise violation_in(fleet)

    def _begin(
        self, fleet: str, tx: Transaction, written: list[Event], asked_us: int, *, extend_leases: bool
    ) -> Attempt:
        state = self._memory.current(fleet, tx)
        anew = fleet in self._takeover_pending
        reading = self.times.read(
            fleet, tx.head, tx.database_time_us, asked_us=asked_us, latest_us=state.latest_time_us, anew=anew
        )
        attempt = Attempt(tx, state, reading.now_us, written, reading)
        time_may_have_skipped = reading.time_may_have_skipped or anew
        if extend_leases and time_may_have_skipped and tx.head is not None and not tx.head.halted:
            self._extend_leases(attempt)
        return attempt

    def _decide(self, attempt: Attempt, requests: Sequence[Request]) -> list[Outcome]:
        return decide_all(attempt, requests, Allowance(self._monotonic_s), self._due)

    def _sweep(self, attempt: Attempt) -> bool:
        return sweep(attempt, Allowance(self._monotonic_s), self._due)

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

    def _record_halt(self, fleet: str) -> None:
        """Has the fleet's row say that it is halted. As long as that fails, this server knows it alone."""
        try:
            with self._store.transaction(fleet) as tx:
                if tx.head is not None and tx.head.record is not None and not tx.head.halted:
                    tx.set_halted(True)
        except (StoreFailed, InvariantBroken) as failure:
            _log.error("fleet %s: that it is halted could not be recorded, only this server knows: %s", fleet, failure)
        else:
            del self._halted[fleet]


def _memory_of(state: FleetState) -> Memory:
    return {i.name: (i.total_blocks, i.busy) for i in state.index.by_order.values()}


def _unavailable(failure: StoreFailed) -> EngineFailure:
    return failure_of_store(failure, "the database cannot be reached or written; try again with the same token")
