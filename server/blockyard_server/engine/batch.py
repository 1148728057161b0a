"""What one transaction does for a batch of requests: looks up, decides, writes, and ends before it gets too large.

All fleets of a writer take turns, so the length of one transaction is the wait of all others. A batch ends before the
request with which it would change more than MAX_BLOCKS_AT_ONCE blocks, and once it has decided for MAX_DECIDE_S. The
requests that are left are asked again, in a transaction of their own. The first request is always carried out: the
limits of a single request bound it (docs/adr/0017).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.answers import Answer
from blockyard_server.domain.blocks import block_count
from blockyard_server.domain.decide import decide
from blockyard_server.domain.errors import AllocationEnded, FleetInUse, InstanceInUse, LeaseExpired, NoCapacity, Refused
from blockyard_server.domain.events import (
    Event,
    Expired,
    FleetCreated,
    FleetDeleted,
    FleetUpdated,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceUpdated,
    LeasesExtended,
    Released,
    Renewed,
    Repaired,
    Restored,
    TokenWasCancelled,
)
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.formats import Formats
from blockyard_server.domain.quotas import Quotas
from blockyard_server.domain.records import Records
from blockyard_server.domain.release import expire
from blockyard_server.domain.requests import CreateFleet, Request
from blockyard_server.engine.fleet_time import Reading
from blockyard_server.engine.store_protocol import Transaction

MAX_BLOCKS_AT_ONCE: Final = 4096
"""How many blocks change hands in one transaction, unless a single request or lease has more."""
MAX_DECIDE_S: Final = 0.025
"""Once it has decided for so long, a batch decides no further request and ends no further lease."""
LOOKED_UP_AT_ONCE: Final = 64
"""For how many requests the records are read together: each may name an allocation of 16,384 blocks."""
MAX_EXPIRED_AT_ONCE: Final = 1000
"""How many ended leases one transaction sweeps."""
MIN_SLICE_ROWS: Final = 16
"""A slice of background work does not get smaller than this, so that a slow disk or network does not stop it."""

T = TypeVar("T")


class RetryNextBatch:
    """In place of an answer: the transaction ended before this request, or may have to sweep first; ask again."""


RETRY_NEXT_BATCH: Final = RetryNextBatch()

DEPENDS_ON_PENDING_EXPIRY: Final = (NoCapacity, FleetInUse, InstanceInUse, LeaseExpired, AllocationEnded)
"""Refusals that may be untrue, or not yet durable, while ended leases are still to be swept."""

Outcome = Answer | Refused | RetryNextBatch

_QUOTAS: Final = Quotas()


@dataclass(slots=True)
class Attempt:
    """One try at a transaction on one fleet: what it sees, and what it wrote so far."""

    tx: Transaction
    state: FleetState
    now_us: int
    """The fleet's time."""
    written: list[Event]
    reading: Reading
    formats: Formats
    fleet_format: int
    extended: bool = False
    """The leases were extended, or none needed it."""
    late_renewals: int = 0
    """Leases that were renewed in their last third."""
    decided_s: float = 0.0
    """When the work was done, and only the commit was left, by the monotonic clock."""

    def check_writable(self, event: Event | None) -> None:
        """Refuses a change that the fleet's format does not have yet. Raises FleetFormatTooOld."""
        if event is not None:
            self.formats.check_writable(self.state.fleet, self.fleet_format, event)

    def write(self, events: Sequence[Event], allocations: Mapping[int, Allocation]) -> None:
        """As `Transaction.write`. The events are kept, to find out whether they were committed."""
        self.tx.write(events, allocations)
        self.written += events


class Allowance:
    """What one transaction may still do."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._until_s = monotonic_s() + MAX_DECIDE_S
        self._blocks = MAX_BLOCKS_AT_ONCE

    def has_time(self) -> bool:
        """Whether there is time to decide one more thing."""
        return self._monotonic_s() < self._until_s

    def covers(self, event: Event | None) -> bool:
        """Whether the event's blocks are within what is left."""
        return _blocks_of(event) <= self._blocks

    def spend(self, event: Event) -> None:
        """Takes the event's blocks out of what is left."""
        self._blocks -= _blocks_of(event)


class SliceSize:
    """How many rows a slice of background work takes: half as many after a slow slice, twice after a quick full one."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._rows = LOOKED_UP_AT_ONCE

    def run(self, work: Callable[[int], T], most: int, count: Callable[[T], int]) -> tuple[T, bool]:
        """What `work` answers for the next number of rows, and whether it found so many. `count` counts them."""
        rows, began_s = min(self._rows, most), self._monotonic_s()
        found = work(rows)
        took_s, full = self._monotonic_s() - began_s, count(found) >= rows
        if took_s > MAX_DECIDE_S:
            self._rows = max(MIN_SLICE_ROWS, rows // 2)
        elif full and 2 * took_s <= MAX_DECIDE_S:
            self._rows = max(self._rows, 2 * rows)
        return found, full


def decide_all(
    attempt: Attempt, requests: Sequence[Request], allowance: Allowance, due: SliceSize, quotas: Quotas = _QUOTAS
) -> list[Outcome]:
    """The outcomes of all requests, in order; RETRY_NEXT_BATCH for those that this transaction does not carry out."""
    state, records = attempt.state, Records()
    state.cancellations.quotas = quotas
    events, more_due = _expire_due(attempt, records, allowance, due)
    outcomes: list[Outcome] = []
    for number, request in enumerate(requests):
        if outcomes and not allowance.has_time():
            break
        if number % LOOKED_UP_AT_ONCE == 0:
            _look_up(attempt.tx, records, requests[number : number + LOOKED_UP_AT_ONCE])
        try:
            answer, event = decide(state, records, request, attempt.now_us)
            attempt.check_writable(event)
        except Refused as refused:
            if more_due and isinstance(refused, DEPENDS_ON_PENDING_EXPIRY):
                break
            outcomes.append(refused)
            continue
        if outcomes and not allowance.covers(event):
            break
        outcomes.append(answer)
        if event is not None:
            if type(event) is Renewed:
                attempt.late_renewals += _is_late(event, records)
            _apply(event, state, records, events, allowance)
    if events:
        attempt.write(events, records.touched)
    # Those behind the one that waits do so too: within a fleet, requests are carried out in order.
    return outcomes + [RETRY_NEXT_BATCH] * (len(requests) - len(outcomes))


def sweep(attempt: Attempt, allowance: Allowance, due: SliceSize) -> bool:
    """Ends leases that are due, a bounded number. Answers whether there are more."""
    records = Records()
    events, more_due = _expire_due(attempt, records, allowance, due)
    if events:
        attempt.write(events, records.touched)
    return more_due


def _look_up(tx: Transaction, records: Records, requests: Sequence[Request]) -> None:
    """Reads what is known of these requests' tokens and allocations, unless this transaction has changed it."""
    keys = {key for request in requests if (key := request.token_key) is not None} - records.tokens.keys()
    if keys:
        records.tokens.update(tx.tokens(list(keys)))
    ids = {i for request in requests if (i := request.allocation_id) is not None}
    ids.update(record.allocation for key in keys if (record := records.tokens.get(key)) and record.allocation)
    ids -= records.allocations.keys()
    if ids:
        records.allocations.update(tx.allocations(list(ids)))
    if any(isinstance(request, CreateFleet) for request in requests):
        records.fleet_count = tx.fleet_count()


def _expire_due(attempt: Attempt, records: Records, allowance: Allowance, size: SliceSize) -> tuple[list[Event], bool]:
    """Sweeps ended leases before anything is decided. Answers the events and whether more are due."""
    tx, state, now_us = attempt.tx, attempt.state, attempt.now_us
    events: list[Event] = []
    if state.next_expire_time_us is None or state.next_expire_time_us > now_us:
        return events, False
    due, more_due = size.run(lambda rows: tx.due_leases(now_us, rows), MAX_EXPIRED_AT_ONCE, len)
    for allocation in due:
        event = expire(state, allocation, now_us)
        if events and not (allowance.covers(event) and allowance.has_time()):
            return events, True
        records.allocations[allocation.allocation] = allocation
        _apply(event, state, records, events, allowance)
    if not more_due:
        state.next_expire_time_us = tx.next_expire_time_us(after_us=now_us)
    return events, more_due


def _is_late(renewed: Renewed, records: Records) -> bool:
    """Whether the lease had less than a third of its time left. The records have it as it was before."""
    lease = records.allocations[renewed.allocation]
    if lease.ttl_us is None or lease.expire_time_us is None:
        return False
    return lease.expire_time_us - renewed.time_us < lease.ttl_us // 3


def _apply(event: Event, state: FleetState, records: Records, events: list[Event], allowance: Allowance) -> None:
    state.apply(event)
    records.apply(event)
    events.append(event)
    allowance.spend(event)


def _blocks_of(event: Event | None) -> int:
    match event:
        case Granted():
            return block_count(event.placements)
        case Released() | Expired():
            return block_count(event.freed)
        case Renewed() | TokenWasCancelled() | LeasesExtended() | Repaired() | Restored() | None:
            return 0
        case InstanceCreated() | InstanceUpdated() | InstanceDeleted():
            return 0
        case FleetCreated() | FleetUpdated() | FleetDeleted():
            return 0
