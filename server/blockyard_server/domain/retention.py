"""How long what has ended is remembered, by a fleet's age: the time that servers have certainly seen pass. Pure.

No clock is trusted with it. An age grows only by what a server measured on its monotonic clock between two looks of its
own, with no other server's look between them; time during which no server ran does not count. A mark notes at which
age the fleet was at which revision: whatever is at that revision or below is at least as old as the mark. So retention
is decided by revisions, and whatever time the rows and events were stamped with does not matter (docs/adr/0012).
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

MARKS_PER_RETENTION: Final = 8
"""What is forgotten is forgotten late by at most this part of its retention: marks are not closer together."""
MAX_STEP_US: Final = 600_000_000
"""A fleet's age is written down at the first sweep after this time, while there is something to forget: a start loses
at most this and one interval between two sweeps."""
MIN_STEP_US: Final = 1_000_000
STEPS_PER_RETENTION: Final = 1000


class Mark(NamedTuple):
    """At this age the fleet was at this revision, or above it."""

    age_us: int
    revision: int


@dataclass(frozen=True, slots=True)
class Retention:
    """How long ended allocations and their tokens are kept, and how long events are."""

    ended_us: int
    journal_us: int

    @property
    def shorter_us(self) -> int:
        """The shorter of the two."""
        return min(self.ended_us, self.journal_us)

    @property
    def longer_us(self) -> int:
        """The longer of the two."""
        return max(self.ended_us, self.journal_us)

    @property
    def step_us(self) -> int:
        """How far a fleet's age goes before it is written down."""
        return max(MIN_STEP_US, min(MAX_STEP_US, self.shorter_us // STEPS_PER_RETENTION))


@dataclass(frozen=True, slots=True)
class FleetAge:
    """A fleet's age and its marks, ascending. A fleet of which nothing was written down is of age 0."""

    age_us: int = 0
    marks: tuple[Mark, ...] = ()

    def after(self, by_us: int, revision: int, retention: Retention) -> "FleetAge":
        """The age after `by_us` more, measured up to a moment at which the fleet was at `revision`."""
        age_us = self.age_us + by_us
        marks = self.marks
        spacing_us = retention.shorter_us // MARKS_PER_RETENTION
        is_new = not marks or (marks[-1].revision < revision and marks[-1].age_us + spacing_us <= age_us)
        return FleetAge(age_us, _thinned((*marks, Mark(age_us, revision)) if is_new else marks, age_us, retention))

    def forgettable(self, retention_us: int) -> int:
        """The highest revision that is certainly older than this; 0 if none is."""
        return max((mark.revision for mark in self.marks if mark.age_us + retention_us <= self.age_us), default=0)


@dataclass(frozen=True, slots=True)
class Forgettable:
    """Up to which revision what has ended, and the events, are old enough to go."""

    ended: int = 0
    events: int = 0


def forgettable(age: FleetAge, retention: Retention) -> Forgettable:
    """What has reached its retention."""
    return Forgettable(age.forgettable(retention.ended_us), age.forgettable(retention.journal_us))


def _thinned(marks: tuple[Mark, ...], age_us: int, retention: Retention) -> tuple[Mark, ...]:
    """Without the marks that no retention needs any more, so that their number has a bound."""
    spacing_us = retention.longer_us // MARKS_PER_RETENTION
    kept: list[Mark] = []
    for mark, following in zip(marks, (*marks[1:], None), strict=True):
        if following is not None:
            if following.age_us + retention.longer_us <= age_us:
                continue  # the next one says the same, and more
            served = following.age_us + retention.shorter_us <= age_us
            if served and kept and following.age_us - kept[-1].age_us <= spacing_us:
                continue  # only the longer retention needs it, and has others that are near enough
        kept.append(mark)
    return tuple(kept)
