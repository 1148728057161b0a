"""Requests that wait, by fleet. The next fleet is the one whose turns took the least time.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996): each fleet has a time of its own, which goes on by what
its turns cost. A fleet that has waited for nothing starts at the time of the fleet whose turn it was last, so nobody
saves up turns. So a fleet with little to do waits for the turn that is under way and for no more, however much the
others have to do, and among fleets that are always busy each gets an equal share of the writer.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush
from itertools import chain, count
from typing import Final, Generic, TypeVar

MAX_IDLE_FLEETS: Final = 1000
"""Of about so many fleets that wait for nothing the queue knows how long their last turn took."""

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A turn is a `take` and then an `end_turn`; there is one at a time."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}
        """Fleets with something waiting, and the one whose turn it is."""
        self._ready: list[tuple[float, int, str]] = []
        """A heap of the fleets that wait for their turn: when each starts, in its own time; a number for ties."""
        self._numbers = count()
        self._now_s = 0.0
        self._ends_s: dict[str, float] = {}
        """Where fleets stand that are ahead of `_now_s`."""
        self._most_ends = MAX_IDLE_FLEETS
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """All that wait, fleet by fleet."""
        return chain.from_iterable(self._waiting.values())

    @property
    def first(self) -> str | None:
        """The fleet whose turn is next; None if nothing waits."""
        return self._ready[0][2] if self._ready else None

    def add(self, fleet: str, item: T) -> None:
        """One more waits, behind the others of its fleet."""
        waiting = self._waiting.get(fleet)
        if waiting is None:
            waiting = self._waiting[fleet] = deque()
            self._make_ready(fleet)
        waiting.append(item)
        self._length += 1

    def take(self, most: int) -> tuple[list[T], bool]:
        """Begins the next fleet's turn: its first items, `most` at most, and whether it has more.

        Raises IndexError if nothing waits.
        """
        self._now_s, _, fleet = heappop(self._ready)
        waiting = self._waiting[fleet]
        taken = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        self._length -= len(taken)
        return taken, bool(waiting)

    def end_turn(self, fleet: str, cost_s: float, again: Sequence[T] = ()) -> None:
        """Ends the fleet's turn, which took so long. `again` waits on, before the others of its fleet."""
        waiting = self._waiting[fleet]
        waiting.extendleft(reversed(again))
        self._length += len(again)
        self._ends_s[fleet] = self._now_s + cost_s
        if waiting:
            self._make_ready(fleet)
        else:
            del self._waiting[fleet]
            self._forget_past()

    def _make_ready(self, fleet: str) -> None:
        start_s = max(self._now_s, self._ends_s.pop(fleet, 0.0))
        heappush(self._ready, (start_s, next(self._numbers), fleet))

    def _forget_past(self) -> None:
        """Drops what no fleet is ahead of any more: names of fleets come from outside, and must not pile up."""
        if not self._waiting:
            self._ends_s.clear()
        elif len(self._ends_s) > self._most_ends:
            self._ends_s = {fleet: end_s for fleet, end_s in self._ends_s.items() if end_s > self._now_s}
            self._most_ends = max(MAX_IDLE_FLEETS, 2 * len(self._ends_s))
