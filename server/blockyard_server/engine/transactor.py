"""What the server does to a fleet, each in one transaction. Synchronous; runs in the writer thread of the fleet only.

The order is the promise: look up, decide, write, commit, and only then may anybody be answered (`unit_of_work`). What a
batch of requests does is in `batch`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from blockyard_server.domain import limits
from blockyard_server.domain.actor import Actor
from blockyard_server.domain.allocation import TokenRecord
from blockyard_server.domain.corrections import Correction
from blockyard_server.domain.events import Repaired
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.formats import Formats
from blockyard_server.domain.quotas import Quotas
from blockyard_server.domain.requests import Request
from blockyard_server.domain.retention import Forgettable, Retention, forgettable
from blockyard_server.engine.batch import Allowance, Attempt, Outcome, SliceSize, decide_all, sweep
from blockyard_server.engine.clock import Clock
from blockyard_server.engine.counts import Counts
from blockyard_server.engine.fleet_age import FleetAges, Look
from blockyard_server.engine.fleet_time import FleetTimes
from blockyard_server.engine.halts import Halts
from blockyard_server.engine.snapshots import Snapshots
from blockyard_server.engine.store_protocol import Store, Transaction
from blockyard_server.engine.unit_of_work import UnitOfWork
from blockyard_server.engine.verify_snapshot import VerifySnapshot

MAX_PRUNED_AT_ONCE: Final = 1000
"""How many ended allocations one transaction forgets."""
MAX_COMPACTED_AT_ONCE: Final = 1000
"""How many events one transaction forgets."""

T = TypeVar("T")

_DEFAULT_FORMATS: Final = Formats()
_DEFAULT_QUOTAS: Final = Quotas()


class Transactor:
    """Carries out batches and all else that changes a fleet.

    A fleet whose invariants do not hold is halted: it refuses every write from then on. Transactions on different
    fleets may be carried out at once, each in a thread of its own; never two on one fleet.
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
        formats: Formats = _DEFAULT_FORMATS,
        quotas: Quotas = _DEFAULT_QUOTAS,
    ) -> None:
        """`committed` is called with the fleet after each commit of events, in the thread that made it.

        `quotas` are what one tenant may have a fleet remember. `monotonic_s` bounds how long one transaction decides.
        The default stands still: no bound.
        """
        self._quotas = quotas
        self._monotonic_s = monotonic_s
        self._due, self._past, self._history = (SliceSize(monotonic_s) for _ in range(3))
        self._committed = committed
        self.times = FleetTimes(clock, clock_decides=clock_decides)
        self.ages = FleetAges(clock)
        counts = Counts() if counts is None else counts
        self._halts = Halts(store, counts)
        self._unit = UnitOfWork(
            store,
            self.times,
            self._halts,
            grace_us=limits.MAX_TTL_US if grace_s is None else int(grace_s * 1_000_000),
            committed=committed,
            formats=formats,
            counts=counts,
        )
        self._snapshots = Snapshots(store, self._unit, self._halts, formats)

    @property
    def halts_to_record(self) -> set[str]:
        """Fleets that only this server knows to be halted."""
        return self._halts.unrecorded

    @property
    def fleets(self) -> list[FleetState]:
        """Those in memory, as this server has last seen them. From any thread, for their sizes alone."""
        return self._unit.memory.all()

    @property
    def format_of_new_fleets(self) -> int:
        """The format of the records of a fleet that is created now."""
        return self._unit.format_of_new_fleets

    @format_of_new_fleets.setter
    def format_of_new_fleets(self, fleet_format: int) -> None:
        self._unit.format_of_new_fleets = fleet_format

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
        self._unit.extend_at_first_use(fleet)
        self.in_transaction(fleet, lambda _attempt: None)

    def extend_at_first_use(self, fleets: Iterable[str]) -> None:
        """The first transaction on each of these fleets loads it and extends its leases, before anything else."""
        for fleet in fleets:
            self._unit.extend_at_first_use(fleet)

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
            tx = attempt.tx
            return self._history.run(lambda rows: tx.compact(upto_revision, rows), MAX_COMPACTED_AT_ONCE, int)[1]

        return self.in_transaction(fleet, compact)

    def raise_format(self, fleet: str, fleet_format: int) -> None:
        """From now on the fleet's records are of this format, unless they are of this or a newer one already."""

        def raise_format(attempt: Attempt) -> None:
            if attempt.tx.head is not None and attempt.tx.head.format < fleet_format:
                attempt.tx.raise_format(fleet_format)

        self.in_transaction(fleet, raise_format)

    def fleets_with_stale_clock(self) -> list[str]:
        """Fleets with leases, as far as memory knows, whose time this server has not read for a while."""
        return sorted(self.times.out_of_sight() & self._unit.memory.with_leases())

    def refresh_clock(self, fleet: str) -> None:
        """Reads the fleet's time, and takes on what other servers wrote. Done often, it misses no step of a clock."""
        self.in_transaction(fleet, lambda _attempt: None)

    def snapshot(self, fleet: str) -> VerifySnapshot:
        """A fleet's records and memory at one revision, for Verify (`Snapshots.of_fleet`)."""
        return self._snapshots.of_fleet(fleet)

    def snapshot_slice(self, fleet: str, after_instance: str, limit: int) -> VerifySnapshot | None:
        """The same of the next instances alone (`Snapshots.of_slice`)."""
        return self._snapshots.of_slice(fleet, after_instance, limit)

    def repair(
        self,
        fleet: str,
        revision: int,
        corrections: tuple[Correction, ...],
        tokens: Sequence[TokenRecord],
        actor: Actor | None = None,
    ) -> bool:
        """Carries an actor's corrections out, also for a halted fleet; False if it is not at this revision any more.

        Memory is loaded again afterwards. Raises FleetFormatTooNew, StoreUnavailable, StoreFailed, InvariantBroken.
        """

        def repair(tx: Transaction) -> bool:
            if tx.head is None or tx.head.revision != revision:
                return False
            now_us = self._unit.time_of_repair_us(fleet, tx)
            who = {} if actor is None else {"actor": actor.name, "via": actor.via}
            tx.repair(Repaired(tx.head.revision + 1, now_us, corrections, **who), tokens)
            return True

        return self._unit.run_on_records(fleet, repair)

    def was_repaired(self, fleet: str) -> None:
        """Memory is loaded again, and who follows the fleet is told."""
        self._unit.memory.forget(fleet)
        self._committed(fleet)

    def halt(self, fleet: str, why: str) -> None:
        """Stops the fleet's writes, on every server and after every start, until it is repaired."""
        self._unit.halt(fleet, why)

    def resume(self, fleet: str) -> None:
        """Ends the halt that the fleet's row said and says no more."""
        self._unit.memory.forget(fleet)
        self._halts.resume(fleet)

    def in_transaction(
        self, fleet: str, work: Callable[[Attempt], T], *, extend_leases: bool = True, even_if_halted: bool = False
    ) -> T:
        """What `work` answers, once its transaction is committed (`UnitOfWork.run`)."""
        return self._unit.run(fleet, work, extend_leases=extend_leases, even_if_halted=even_if_halted)

    def _decide(self, attempt: Attempt, requests: Sequence[Request]) -> list[Outcome]:
        return decide_all(attempt, requests, Allowance(self._monotonic_s), self._due, self._quotas)

    def _sweep(self, attempt: Attempt) -> bool:
        return sweep(attempt, Allowance(self._monotonic_s), self._due)
