"""The time of a fleet: this process's clock, or, where servers share a database, the database's, guarded against steps.

Servers have clocks of their own, and a lease that one of them granted must not end early because another's is ahead. So
the one clock of a shared database is read inside of each transaction. That clock may be set, or be another one after a
fail-over: each server compares how far it went with its own monotonic clock, and takes a step back out of the fleet's
time with an offset that is kept in the fleet's row. An end that comes late costs patience; one that comes early would
cost the promise.
"""

from dataclasses import dataclass
from typing import Final

from blockyard_server.engine.clock import Clock
from blockyard_server.engine.store_protocol import FleetHead

FORWARD_TOLERANCE_US: Final = 250_000
"""A database's clock that went further than this server's by more was set forward. Leases are not shorter than 100 ms,
and their holders stop a third of the TTL before the end."""
BACKWARD_TOLERANCE_US: Final = 10_000_000
"""One that went so much less was set back. Larger, because a server that was held up between two readings sees the
same, and correcting for that would make leases end early."""
DRIFT_PER_US: Final = 1_000
"""Clocks may drift apart by one microsecond in so many."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The time of a fleet inside of a transaction."""

    now_us: int
    offset_us: int | None = None
    """What to write into the fleet's row, because the database's clock made a step; None: the row is right."""


@dataclass(frozen=True, slots=True)
class _Sighting:
    time_us: int
    own_us: int


class FleetTimes:
    """What this server knows of every fleet's time. Used in the writer threads; `now_us` from anywhere."""

    def __init__(self, clock: Clock, *, clock_decides: bool = False) -> None:
        """`clock_decides`: also where there is a database's clock, as in tests whose servers share one of theirs."""
        self._clock = clock
        self._clock_decides = clock_decides
        self._seen: dict[str, _Sighting] = {}
        self._latest: _Sighting | None = None

    def read(self, fleet: str, head: FleetHead | None, database_us: int | None) -> Reading:
        """The fleet's time, given what the transaction read; `database_us` is None if the store has no clock."""
        own_us = self._clock.now_us()
        if database_us is None or self._clock_decides:
            return Reading(own_us)
        if head is None:
            return Reading(database_us)
        time_us = database_us + head.clock_offset_us
        seen = self._seen.get(fleet)
        step_us = 0 if seen is None else _step_us(seen, time_us, own_us)
        self._latest = self._seen[fleet] = _Sighting(time_us - step_us, own_us)
        return Reading(time_us - step_us, head.clock_offset_us - step_us if step_us else None)

    def now_us(self, fleet: str | None = None) -> int:
        """An estimate outside of transactions, of one fleet's time or of any."""
        own_us = self._clock.now_us()
        seen = self._latest if fleet is None else self._seen.get(fleet, self._latest)
        return own_us if seen is None else seen.time_us + own_us - seen.own_us


def _step_us(seen: _Sighting, time_us: int, own_us: int) -> int:
    """By how much the database's clock was set since it was seen; 0 if it was not."""
    passed_us = own_us - seen.own_us
    ahead_us = time_us - (seen.time_us + passed_us)
    drift_us = passed_us // DRIFT_PER_US
    if ahead_us > FORWARD_TOLERANCE_US + drift_us or ahead_us < -BACKWARD_TOLERANCE_US - drift_us:
        return ahead_us
    return 0
