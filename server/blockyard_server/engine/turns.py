"""Whose turn it is among those that wait, each by its weight: start-time fair queueing.

(Goyal, Vin and Cheng, SIGCOMM 1996.) Each key has a time of its own, which goes on by what it has used over its weight.
The next is the one whose time is the least. A key that waited for nothing starts at the time of the one that was served
last, so nobody saves up turns, and a newcomer waits for no backlog of another.
"""

from collections.abc import Sequence
from heapq import heappop, heappush
from itertools import count
from typing import Any, Final, Generic, TypeVar

MAX_IDLE_KEYS: Final = 1000
"""Of about so many keys that wait for nothing it is known what they used last."""

K = TypeVar("K")


class Turns(Generic[K]):
    """One level of turns."""

    __slots__ = ("_ends", "_most_ends", "_now", "_numbers", "_ready", "_starts")

    def __init__(self) -> None:
        self._starts: dict[K, float] = {}
        """Keys that wait: where each stands."""
        self._ready: list[tuple[float, int, K]] = []
        """A heap of the same, with a number for ties. An entry that says another start than `_starts` is old."""
        self._ends: dict[K, float] = {}
        """Where keys stand that wait for nothing and are ahead of `_now`."""
        self._now = 0.0
        self._numbers = count()
        self._most_ends = MAX_IDLE_KEYS

    def __len__(self) -> int:
        return len(self._starts)

    def __contains__(self, key: K) -> bool:
        return key in self._starts

    @property
    def idle_keys(self) -> int:
        """Of how many keys that wait for nothing it is known what they used."""
        return len(self._ends)

    def add(self, key: K) -> None:
        """The key, which does not wait yet, waits."""
        ended = self._ends.pop(key, 0.0) if self._ends else 0.0
        self._set_start(key, max(self._now, ended))

    @property
    def first(self) -> K:
        """Who is next. Raises IndexError if nothing waits."""
        ready, starts = self._ready, self._starts
        while starts.get(ready[0][2]) != ready[0][0]:
            heappop(ready)
        return ready[0][2]

    def begin(self, key: K) -> None:
        """It is this key's turn."""
        self._now = max(self._now, self._starts[key])

    def charge(self, key: K, cost: float) -> None:
        """A key that waits has used so much, its weight considered; less than nothing takes a charge back."""
        self._set_start(key, max(self._now, self._starts[key] + cost))

    def remove(self, key: K) -> None:
        """The key waits for nothing any more."""
        start = self._starts.pop(key)
        if not self._starts:
            self._ready.clear()
            self._ends.clear()
        elif start > self._now:
            self._ends[key] = start
            if len(self._ends) > self._most_ends:
                self._forget_past()

    def _set_start(self, key: K, start: float) -> None:
        self._starts[key] = start
        heappush(self._ready, (start, next(self._numbers), key))
        if len(self._ready) > 2 * len(self._starts) + MAX_IDLE_KEYS:
            self._ready = sorted((self._starts[each], n, each) for n, each in enumerate(self._starts))
            self._numbers = count(len(self._starts))

    def _forget_past(self) -> None:
        """Drops what nobody is ahead of any more: keys come from outside, and must not pile up."""
        self._ends = {key: end for key, end in self._ends.items() if end > self._now}
        self._most_ends = max(MAX_IDLE_KEYS, 2 * len(self._ends))


class NestedTurns:
    """Turns within turns. Who waits is a path, such as (class, tenant, fleet): its first key is of the highest level.

    All paths have the same length. A level below is forgotten once nobody waits there.
    """

    __slots__ = ("_below", "_turns")

    def __init__(self) -> None:
        self._turns: Turns[Any] = Turns()
        self._below: dict[Any, NestedTurns] = {}

    def __bool__(self) -> bool:
        return len(self._turns) > 0

    def add(self, path: Sequence[Any], level: int = 0) -> None:
        """The path, which does not wait yet, waits."""
        key = path[level]
        if key not in self._turns:
            self._turns.add(key)
        if level + 1 < len(path):
            below = self._below.get(key)
            if below is None:
                below = self._below[key] = NestedTurns()
            below.add(path, level + 1)

    @property
    def first(self) -> list[Any]:
        """Who is next. Raises IndexError if nothing waits."""
        path, here = [], self
        while True:
            key = here._turns.first
            path.append(key)
            if key not in here._below:
                return path
            here = here._below[key]

    def begin(self, path: Sequence[Any]) -> None:
        """It is this path's turn."""
        here = self
        for key in path:
            here._turns.begin(key)
            here = here._below.get(key, here)

    def charge(self, path: Sequence[Any], cost: float, weights: Sequence[float]) -> None:
        """A path that waits has used so much; it has a weight at each level."""
        here = self
        for key, weight in zip(path, weights, strict=True):
            here._turns.charge(key, cost / weight)
            here = here._below.get(key, here)

    def remove(self, path: Sequence[Any], level: int = 0) -> None:
        """The path waits for nothing any more."""
        key = path[level]
        below = self._below.get(key)
        if below is not None:
            below.remove(path, level + 1)
            if below:
                return
            del self._below[key]
        self._turns.remove(key)
