"""What the server counts of its own work: plain numbers, for the metrics.

The engine adds, each number in one thread alone or under a lock; who reads meanwhile sees it as it is at some moment.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock
from typing import Final

from blockyard_server.domain.errors import Refused
from blockyard_server.domain.events import Event, Expired, LeasesExtended
from blockyard_server.engine.asker import Urgency
from blockyard_server.engine.bounded_names import BoundedNames
from blockyard_server.engine.failures import EngineFailure, StoreUnavailable

COMMIT_BOUNDS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Upper bounds of the ranges in which the durations of transactions are counted."""

CALL_BOUNDS_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""The same for calls, for what waits in the queue, and for the event loop."""
BATCH_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
"""The same for the requests of a transaction."""
MAX_FLEETS_SHOWN: Final = 50
"""Fleets that are counted by their names, unless it is set."""

OK: Final = "OK"


class Durations:
    """How long something took, or how large it was: how often in each range, and in all."""

    def __init__(self, bounds_s: tuple[float, ...] = COMMIT_BOUNDS_S) -> None:
        self.bounds_s = bounds_s
        self.total_s = 0.0
        self._within = [0] * (len(bounds_s) + 1)

    def add(self, duration_s: float) -> None:
        """One more."""
        self._within[bisect_left(self.bounds_s, duration_s)] += 1
        self.total_s += duration_s

    @property
    def up_to(self) -> list[int]:
        """How many took at most as long as each bound, and in the end how many there were."""
        return list(accumulate(self._within))


@dataclass(slots=True)
class Counts:
    """Since the start of the server, unless it says now."""

    batches: int = 0
    """Transactions that carried out requests."""
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Requests that the writers have answered, by kind and outcome: OK or the reason."""
    transactions: Durations = field(default_factory=Durations)
    """How long a batch took from begin to commit."""
    commits: Durations = field(default_factory=Durations)
    """How long the commit alone took, of every transaction that changed something."""
    batch_sizes: Durations = field(default_factory=lambda: Durations(BATCH_BOUNDS))
    """How many requests shared a transaction."""
    waiting: Counter[Urgency] = field(default_factory=lambda: Counter(dict.fromkeys(Urgency, 0)))
    """Requests that wait now, by class."""
    waits: dict[Urgency, Durations] = field(default_factory=lambda: {u: Durations(CALL_BOUNDS_S) for u in Urgency})
    """How long requests waited for the transaction that carried them out, by class."""
    fleets: BoundedNames = field(default_factory=lambda: BoundedNames(MAX_FLEETS_SHOWN))
    """Which fleets are counted by name."""
    leases_expired: Counter[str] = field(default_factory=Counter)
    """Leases that have ended without a release, by fleet."""
    late_renewals: int = 0
    """Renewals in the last third of their lease."""
    leases_extended: int = 0
    """How often all leases of a fleet were extended, because time may have been skipped."""
    store_failures: int = 0
    """Batches that ended with STORE_UNAVAILABLE."""
    halts: int = 0
    """How often this server has found reason to halt a fleet."""
    halted_fleets: set[str] = field(default_factory=set)
    """Those that are halted now, as far as this server has looked."""
    repairs: int = 0
    """Repairs that changed something."""
    verifies: int = 0
    """Verifies, of operators and after repairs."""
    audit_steps: int = 0
    """Steps of the continuous verification."""
    audited_instances: int = 0
    audited_allocations: int = 0
    discrepancies: int = 0
    """Differences because of which a fleet was halted."""
    _lock: Lock = field(default_factory=Lock)

    def note_batch(self, requests: Sequence[object], outcomes: Sequence[object], duration_s: float) -> None:
        """One transaction's requests and what became of them; in the event loop."""
        self.batches += 1
        self.batch_sizes.add(len(requests))
        self.transactions.add(duration_s)
        for request, outcome in zip(requests, outcomes, strict=True):
            reason = outcome.reason if isinstance(outcome, Refused | EngineFailure) else OK
            self.requests[type(request).__name__, reason] += 1
        self.store_failures += isinstance(outcomes[0], StoreUnavailable)

    def note_commit(self, fleet: str, events: Sequence[Event], late_renewals: int, duration_s: float) -> None:
        """What one transaction has committed on a fleet, and how long the commit took; in its writer's thread."""
        expired = sum(isinstance(event, Expired) for event in events)
        extended = sum(isinstance(event, LeasesExtended) for event in events)
        label = self.fleets.note(fleet, len(events))
        with self._lock:
            self.commits.add(duration_s)
            if expired:
                self.leases_expired[label] += expired
            self.late_renewals += late_renewals
            self.leases_extended += extended

    def note_halt(self, fleet: str) -> None:
        """A fleet is halted; in any thread."""
        with self._lock:
            self.halts += 1
            self.halted_fleets.add(fleet)
