"""One batch of requests on one fleet in one transaction. Synchronous; runs in the writer thread only.

The order is the promise: look up, decide, write, commit, and only then may anybody be answered. Memory takes on
each event as it is decided, so that the batch's later requests see it; if the commit fails, that memory is
forgotten and loaded anew (docs/adr/0002).
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from blockyard_server.domain.answers import Answer
from blockyard_server.domain.blocks import block_count
from blockyard_server.domain.decide import decide
from blockyard_server.domain.errors import AllocationEnded, FleetInUse, InstanceInUse, LeaseExpired, NoCapacity, Refused
from blockyard_server.domain.events import Event, LeasesExtended
from blockyard_server.domain.fleet import FleetState, Inconsistent
from blockyard_server.domain.records import Records
from blockyard_server.domain.release import expire
from blockyard_server.domain.requests import CreateFleet, Request
from blockyard_server.engine.clock import Clock
from blockyard_server.engine.failures import EngineFailure, InvariantViolated, StoreUnavailable
from blockyard_server.engine.memory import FleetMemory
from blockyard_server.engine.store_protocol import Evidence, InvariantBroken, Store, StoreFailed, Transaction

MAX_EXPIRED_AT_ONCE: Final = 1000
"""How many ended leases one transaction sweeps."""
MAX_FREED_AT_ONCE: Final = 65_536
"""With so many blocks freed it sweeps no further lease: whoever waits for the writer waits a fraction of a second."""
MAX_PRUNED_AT_ONCE: Final = 1000
"""How many ended allocations one transaction forgets."""

_NO_MEMORY: Final = -1
"""No fleet is ever at this revision."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


class Again:
    """In place of an answer: leases are still to be swept that may decide it otherwise; ask again."""


AGAIN: Final = Again()

_HANGS_ON_LEASES = (NoCapacity, FleetInUse, InstanceInUse, LeaseExpired, AllocationEnded)
"""Refusals that may be untrue, or not yet durable, while ended leases are still to be swept."""

Outcome = Answer | Refused | Again


@dataclass(frozen=True, slots=True)
class PinnedFleet:
    """A fleet's records and the server's memory of it at one and the same revision.

    `memory` is (total_blocks, set of held blocks) by instance.
    """

    evidence: Evidence
    memory_revision: int
    memory: dict[str, tuple[int, int]]
    unloadable: str | None = None
    """Why the fleet cannot be brought into memory."""


class Transactor:
    """Carries out batches. A fleet whose invariants do not hold is halted: it refuses every write from then on."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._memory = FleetMemory()
        self._halted: dict[str, str] = {}

    def carry_out(self, fleet: str, requests: Sequence[Request]) -> list[Outcome]:
        """The outcomes of all requests, in order, durable when this returns. Raises EngineFailure for all of them."""
        return self._in_transaction(fleet, lambda tx, state: self._decide_all(tx, state, requests))

    def expire_due(self, fleet: str) -> bool:
        """Sweeps ended leases, a bounded number. Answers whether there are more."""
        return self._in_transaction(fleet, self._sweep)

    def extend_leases(self, fleet: str, until_us: int) -> None:
        """Extends every lease as if it were renewed now, to `until_us` at the latest, with one event.

        Nothing if none would end before `until_us`.
        """

        def extend(tx: Transaction, state: FleetState) -> None:
            next_us = tx.next_expire_time_us(after_us=-1)
            if state.exists and next_us is not None and next_us < until_us:
                event = LeasesExtended(state.revision + 1, self._clock.now_us(), until_us)
                state.apply(event)
                tx.write([event], {})

        self._in_transaction(fleet, extend)

    def load(self, fleet: str) -> None:
        """Brings a fleet into memory, for start-up."""
        self._in_transaction(fleet, lambda _tx, _state: None)

    def prune(self, fleet: str, ended_before_us: int) -> bool:
        """Forgets old ended allocations, a bounded number. Answers whether there may be more."""
        return self._in_transaction(
            fleet, lambda tx, _state: tx.prune(ended_before_us, MAX_PRUNED_AT_ONCE) >= MAX_PRUNED_AT_ONCE
        )

    def pin(self, fleet: str) -> PinnedFleet:
        """Takes a snapshot of a fleet's records and of its memory, for Verify; also of a halted fleet.

        Raises InvariantViolated if it is halted by this; from then on what keeps it from memory is in the snapshot.
        """
        try:
            with self._store.transaction(fleet) as tx:
                state = self._memory.current(fleet, tx)
            self._memory.keep(state)
            memory = {i.name: (i.total_blocks, i.busy) for i in state.index.by_order.values()}
            return PinnedFleet(self._store.pin_evidence(fleet), state.revision, memory)
        except (InvariantBroken, Inconsistent) as broken:
            if fleet in self._halted:
                return PinnedFleet(self._store.pin_evidence(fleet), _NO_MEMORY, {}, str(broken))
            self._halt(fleet, broken)
            raise _violated(fleet) from broken
        except StoreFailed as failure:
            self._memory.forget(fleet)
            raise _unavailable(failure) from failure

    def _in_transaction(self, fleet: str, work: Callable[[Transaction, FleetState], T]) -> T:
        if fleet in self._halted:
            raise _violated(fleet)
        try:
            with self._store.transaction(fleet) as tx:
                state = self._memory.current(fleet, tx)
                result = work(tx, state)
        except (InvariantBroken, Inconsistent) as broken:
            self._halt(fleet, broken)
            raise _violated(fleet) from broken
        except StoreFailed as failure:
            self._memory.forget(fleet)
            _log.error("fleet %s: the store failed: %s", fleet, failure)
            raise _unavailable(failure) from failure
        except BaseException:
            self._memory.forget(fleet)
            raise
        self._memory.keep(state)
        return result

    def _halt(self, fleet: str, broken: Exception) -> None:
        self._memory.forget(fleet)
        self._halted[fleet] = str(broken)
        _log.critical("fleet %s: an invariant does not hold, its writes are stopped: %s", fleet, broken)

    def _decide_all(self, tx: Transaction, state: FleetState, requests: Sequence[Request]) -> list[Outcome]:
        now_us = self._clock.now_us()
        records = _look_up(tx, requests)
        events, more_due = _expire_due(tx, state, records, now_us)
        outcomes: list[Outcome] = []
        for request in requests:
            try:
                answer, event = decide(state, records, request, now_us)
            except Refused as refused:
                if more_due and isinstance(refused, _HANGS_ON_LEASES):
                    # Those behind it wait with it: within a fleet, requests are carried out in order.
                    outcomes += [AGAIN] * (len(requests) - len(outcomes))
                    break
                outcomes.append(refused)
                continue
            outcomes.append(answer)
            if event is not None:
                state.apply(event)
                records.apply(event)
                events.append(event)
        if events:
            tx.write(events, records.touched)
        return outcomes

    def _sweep(self, tx: Transaction, state: FleetState) -> bool:
        records = Records()
        events, more_due = _expire_due(tx, state, records, self._clock.now_us())
        if events:
            tx.write(events, records.touched)
        return more_due


def _look_up(tx: Transaction, requests: Sequence[Request]) -> Records:
    keys = {key for request in requests if (key := request.token_key) is not None}
    tokens = tx.tokens(list(keys)) if keys else {}
    ids = {i for request in requests if (i := request.allocation_id) is not None}
    ids.update(record.allocation for record in tokens.values() if record.allocation is not None)
    allocations = tx.allocations(list(ids)) if ids else {}
    creates = any(isinstance(request, CreateFleet) for request in requests)
    return Records(tokens, allocations, tx.fleet_count() if creates else 0)


def _expire_due(tx: Transaction, state: FleetState, records: Records, now_us: int) -> tuple[list[Event], bool]:
    """Sweeps ended leases before anything is decided. Answers the events and whether more are due."""
    events: list[Event] = []
    if state.next_expire_time_us is None or state.next_expire_time_us > now_us:
        return events, False
    due = tx.due_leases(now_us, MAX_EXPIRED_AT_ONCE)
    freed = 0
    for allocation in due:
        if freed >= MAX_FREED_AT_ONCE:
            return events, True
        freed += block_count(allocation.placements)
        records.allocations[allocation.allocation] = allocation
        event = expire(state, allocation, now_us)
        state.apply(event)
        records.apply(event)
        events.append(event)
    more_due = len(due) == MAX_EXPIRED_AT_ONCE
    if not more_due:
        state.next_expire_time_us = tx.next_expire_time_us(after_us=now_us)
    return events, more_due


def _violated(fleet: str) -> EngineFailure:
    message = (
        f"an invariant of fleet {fleet} does not hold; its writes are stopped until an operator has looked: run Verify"
    )
    return InvariantViolated(message, fleet=f"fleets/{fleet}")


def _unavailable(_failure: StoreFailed) -> EngineFailure:
    return StoreUnavailable("the database cannot be reached or written; try again with the same token")
