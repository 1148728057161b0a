"""Which names have a series of their own in the metrics: a few, by what they do. All others share one.

Names come from outside: of fleets, and of tenants. What is shown and what is remembered has a bound, whatever they are.
"""

import time
from collections import Counter
from collections.abc import Callable
from heapq import nlargest
from threading import Lock
from typing import Final

OTHER: Final = "_other"
"""Stands for all that have no series of their own. No fleet and no tenant can have this name."""
MAX_KNOWN: Final = 20_000
"""Of so many names it is known how active they are; if there are more, all but those that are shown start anew."""
ELECTION_S: Final = 60.0
"""After so long what names have done counts half, and others may be the most active ones."""
LEAD: Final = 2
"""A name takes the place of another one if it has done so many times as much: series are not to come and go."""


class BoundedNames:
    """The first `most` names have a place each. Later the more active ones take it over from those at rest."""

    def __init__(self, most: int, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.shown: frozenset[str] = frozenset()
        """Replaced as a whole: a reader in another thread keeps the one that it has."""
        self._monotonic_s = monotonic_s
        self._activity: Counter[str] = Counter()
        self._election_s = monotonic_s() + ELECTION_S
        self._lock = Lock()

    def note(self, name: str, amount: int = 1) -> str:
        """The name has done so much. Answers what to count it under: its name, or OTHER. From any thread."""
        with self._lock:
            activity = self._activity
            activity[name] += amount
            if name in self.shown:
                return name
            if len(self.shown) < self.most:
                self.shown |= {name}
                return name
            if len(activity) > MAX_KNOWN:
                self._activity = Counter({each: activity[each] for each in self.shown})
            return OTHER

    def label(self, name: str) -> str:
        """What to count the name under, without any activity."""
        return name if name in self.shown else OTHER

    def elect(self) -> frozenset[str]:
        """Those that have a series, after an election if it is time. For the scrape, in its own thread.

        A name that loses its place is not counted on under OTHER: that would look like an increase.
        """
        if self._monotonic_s() >= self._election_s:
            with self._lock:
                self._election_s = self._monotonic_s() + ELECTION_S
                self._replace()
                self._activity = Counter({name: n // 2 for name, n in self._activity.items() if n > 1})
        return self.shown

    def _replace(self) -> None:
        activity, shown = self._activity, set(self.shown)
        resting = sorted(shown, key=lambda name: activity[name])
        challengers = nlargest(self.most, (name for name in activity if name not in shown), key=lambda n: activity[n])
        for loser, winner in zip(resting, challengers, strict=False):
            if activity[winner] <= LEAD * activity[loser]:
                break
            shown.remove(loser)
            shown.add(winner)
        self.shown = frozenset(shown)
