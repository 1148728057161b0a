"""The time of a fleet: this process's clock, or, where servers share a database, the database's, guarded against steps.

Servers have clocks of their own, and a lease that one of them granted must not end early because another's is ahead. So
the one clock of a shared database is read inside of each transaction. That clock may be set, or be another one after a
fail-over: each server compares how far it went with its own monotonic clock, and takes a step out of the fleet's time
with an offset that is kept in the fleet's row. An end that comes late costs patience; one that comes early would cost
the promise.

What a server knows is an interval: the database's clock was read after it asked for the transaction and before it had
the answer. However long a server was held up in between, that alone never looks like a step.

Servers that saw different steps do not correct each other: who finds the offset changed by another takes the fleet's
time over as it is. A server that cannot tell whether time was skipped (`Reading.time_may_have_skipped`) first extends
every lease as if it were renewed now: one that meets the fleet for the first time, sees a step, or finds the offset
changed. The first two change the offset, be it by a microsecond, so that the others notice.

A fleet's time is never before its latest event. So no answer ever tells of a lease that lasts longer than its TTL, and
whoever extends the leases as if they were renewed now extends every one beyond what its holder was told.
"""

from dataclasses import dataclass, replace
from typing import Final

from blockyard_server.engine.clock import Clock
from blockyard_server.engine.store_protocol import FleetHead

FORWARD_TOLERANCE_US: Final = 10_000
"""A database's clock that certainly went further than this server's by more was set forward. Leases are not shorter
than 100 ms, and their holders stop a third of the TTL before the end."""
BACKWARD_TOLERANCE_US: Final = 10_000_000
"""One that certainly went so much less was set back. Larger, because what is not corrected makes leases end late."""
UNCERTAIN_US: Final = 250_000
"""Who knows the difference between the two clocks less exactly cannot exclude a step that matters."""
DRIFT_PER_US: Final = 1_000
"""Clocks may drift apart by one microsecond in so many."""
LOOK_AGAIN_US: Final = 60_000_000
"""A fleet with leases is looked at again after so long: after twice that the drift alone would be UNCERTAIN_US."""


@dataclass(frozen=True, slots=True)
class ClockOffsetBounds:
    """How far the database's clock was ahead of this server's own, when that showed `own_us`."""

    own_us: int
    least_us: int
    most_us: int
    offset_us: int
    """The fleet's, as the transaction left it."""
    own_clock: bool = False
    """There is no database's clock: nothing was compared, and nothing can be missed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The time of a fleet inside of a transaction."""

    now_us: int
    time_may_have_skipped: bool = False
    """Time may have been skipped: no lease may end before all have been extended."""
    offset_us: int | None = None
    """What to write into the fleet's row together with that; None: the row stays."""
    step_us: int = 0
    """By how much the database's clock was set, as far as this server has to deal with it."""
    clock_offset: ClockOffsetBounds | None = None
    """To be kept once the transaction is committed, and the leases extended if it is time_may_have_skipped."""
    clamped_to_last_event: bool = False
    """It is that of the latest event: what another server writes may be the same to the microsecond."""


class FleetTimes:
    """What this server knows of every fleet's time.

    Used in the writer threads; `now_us`, `store_us` and `own_us` from anywhere.
    """

    def __init__(self, clock: Clock, *, clock_decides: bool = False) -> None:
        """`clock_decides`: also where there is a database's clock, as in tests whose servers share one of theirs."""
        self._clock = clock
        self._clock_decides = clock_decides
        self._seen: dict[str, ClockOffsetBounds] = {}
        self._latest: ClockOffsetBounds | None = None

    def own_us(self) -> int:
        """This server's own clock, to be read before a transaction is asked for."""
        return self._clock.now_us()

    def read(
        self,
        fleet: str,
        head: FleetHead | None,
        database_us: int | None,
        *,
        asked_us: int | None = None,
        latest_us: int = 0,
        taking_over: bool = False,
    ) -> Reading:
        """The fleet's time, given what the transaction read; `database_us` is None if the store has no clock.

        `asked_us` is `own_us` before the transaction; None: just now. `latest_us` is the time of the fleet's latest
        event. `taking_over`: this server has just started, and extends the leases. Remembers nothing.
        """
        own_us = self._clock.now_us()
        own_decides = database_us is None or self._clock_decides
        clock_us = own_us if database_us is None or own_decides else database_us
        if head is None:
            return Reading(clock_us)
        if own_decides:
            reading = _by_own_clock(own_us, head, taking_over=taking_over)
        else:
            reading = self._by_database(fleet, head, clock_us, own_us, asked_us)
        # How far the clock is behind, and not how long this server was held up before it was read.
        offset_us = head.clock_offset_us if reading.offset_us is None else reading.offset_us
        behind_us = latest_us - (clock_us + offset_us)
        if behind_us > BACKWARD_TOLERANCE_US and reading.clock_offset is not None:
            offset_us += behind_us
            bounds = replace(reading.clock_offset, offset_us=offset_us)
            return Reading(latest_us, True, offset_us, reading.step_us - behind_us, bounds, clamped_to_last_event=True)
        if reading.now_us < latest_us:
            return replace(reading, now_us=latest_us, clamped_to_last_event=True)
        return reading

    def _by_database(self, fleet: str, head: FleetHead, database_us: int, own_us: int, asked_us: int | None) -> Reading:
        asked_us = own_us if asked_us is None else asked_us
        fresh = ClockOffsetBounds(own_us, database_us - own_us, database_us - asked_us, head.clock_offset_us)
        seen = self._seen.get(fleet)
        if seen is None:
            marked_us = fresh.offset_us + 1
            met = replace(fresh, offset_us=marked_us)
            return Reading(database_us + marked_us, time_may_have_skipped=True, offset_us=marked_us, clock_offset=met)
        return _compared(seen, fresh, asked_us)

    def out_of_sight(self) -> set[str]:
        """Fleets on a database's clock that this server has not looked at for a while: it should, to stay sure."""
        own_us = self._clock.now_us()
        seen = list(self._seen.items())
        return {fleet for fleet, it in seen if not it.own_clock and own_us - it.own_us >= LOOK_AGAIN_US}

    def keep(self, fleet: str, bounds: ClockOffsetBounds) -> None:
        """Remembers what a transaction saw, now that it is committed."""
        self._latest = self._seen[fleet] = bounds

    def now_us(self, fleet: str) -> int:
        """An estimate of a fleet's time, outside of transactions."""
        own_us = self._clock.now_us()
        seen = self._seen.get(fleet, self._latest)
        return own_us if seen is None else own_us + seen.most_us + seen.offset_us

    def store_us(self) -> int:
        """An estimate of the store's clock, outside of transactions: without what is taken out of any fleet's time."""
        own_us = self._clock.now_us()
        return own_us if self._latest is None else own_us + self._latest.most_us


def _by_own_clock(own_us: int, head: FleetHead, *, taking_over: bool) -> Reading:
    """What was added before this server started is added no more: the clock may have been set right since."""
    offset_us = 0 if taking_over else head.clock_offset_us
    changed_us = None if offset_us == head.clock_offset_us else offset_us
    bounds = ClockOffsetBounds(own_us, 0, 0, offset_us, own_clock=True)
    return Reading(own_us + offset_us, time_may_have_skipped=taking_over, offset_us=changed_us, clock_offset=bounds)


def _compared(seen: ClockOffsetBounds, fresh: ClockOffsetBounds, asked_us: int) -> Reading:
    drift_us = (fresh.own_us - seen.own_us) // DRIFT_PER_US
    forward = fresh.least_us > seen.most_us + drift_us + FORWARD_TOLERANCE_US
    backward = fresh.most_us < seen.least_us - drift_us - BACKWARD_TOLERANCE_US
    if not forward and not backward:
        # What is known gets worse with time, and better with each look. What drifted too little to count is kept.
        most_us = min(seen.most_us + drift_us, fresh.most_us)
        least_us = min(max(seen.least_us - drift_us, fresh.least_us), most_us)
        kept = ClockOffsetBounds(seen.own_us + drift_us * DRIFT_PER_US, least_us, most_us, fresh.offset_us)
        width_us = seen.most_us - seen.least_us + 2 * drift_us
        time_may_have_skipped = fresh.offset_us != seen.offset_us or width_us > UNCERTAIN_US
        # However long this server was held up since it asked: what is extended is extended from the clock's time on.
        ahead_us = fresh.most_us if time_may_have_skipped else most_us
        return Reading(asked_us + ahead_us + fresh.offset_us, time_may_have_skipped, clock_offset=kept)
    # If another server has dealt with a step meanwhile, whether that was this very one cannot be known.
    dealt_with = abs(fresh.offset_us - seen.offset_us) > FORWARD_TOLERANCE_US
    step_us = 0 if dealt_with else fresh.most_us - seen.most_us
    offset_us = fresh.offset_us - step_us + 1
    kept = replace(fresh, offset_us=offset_us)
    return Reading(asked_us + fresh.most_us + offset_us, True, offset_us, step_us, clock_offset=kept)
