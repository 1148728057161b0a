"""Requests that wait: fleets take turns, and within a fleet the classes and tenants that wait there do.

A turn is one transaction on one fleet. Whose turn is next is decided by class, then by tenant, then by fleet
(`turns.py`), each by the time that it has used; a turn's time is shared out among those whose requests were in it.
So a tenant with little to do waits for the turn that is under way and for little more, whatever the others have to
do, and on however many fleets.

If a turn has room for all that wait on its fleet, they keep the order in which they came. Otherwise classes and tenants
take turns by the cost of their requests. The order of one tenant's requests of one class is always kept
(docs/adr/0029).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, count
from math import inf
from operator import attrgetter
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from blockyard_server.engine.asker import Asker, Urgency
from blockyard_server.engine.turns import NestedTurns

UNITS_AT_ONCE: Final = 8
"""Of one class and tenant, before another's are taken."""


class Entry(Protocol):
    """What may wait."""

    number: int
    """Set by the queue: entries are numbered as they come."""

    @property
    def asker(self) -> Asker:
        """Whose it is."""
        ...

    @property
    def urgency(self) -> Urgency:
        """Its class."""
        ...

    @property
    def cost(self) -> float:
        """In units, at least 1. Asked for only where it counts."""
        ...


E = TypeVar("E", bound=Entry)

_number: Final = attrgetter("number")


class _Lane(Generic[E]):
    """Those of one class and one tenant that wait on one fleet, in the order in which they came."""

    __slots__ = ("entries", "is_in_turns", "key", "path", "returned", "taken", "weights")

    def __init__(self, key: tuple[Urgency, str], weight: int, fleet: str) -> None:
        self.key = key
        self.path = (*key, fleet)
        self.weights = (key[0].weight, weight, 1)
        self.entries: deque[E] = deque()
        self.taken: list[E] = []
        """What the turn under way took of it."""
        self.returned = 0
        """How many of these were put back, from the end."""
        self.is_in_turns = False
        """It is among the lanes of its fleet that take turns."""

    def used(self) -> float:
        """The units of what the turn took and did not put back."""
        return sum(entry.cost for entry in self.taken[: len(self.taken) - self.returned])


class Turn(NamedTuple, Generic[E]):
    """What a turn has taken."""

    fleet: str
    entries: list[E]
    more: bool
    """There is more on this fleet."""


class _Line(Generic[E]):
    """All that wait on one fleet."""

    __slots__ = ("_turns", "lanes", "length")

    def __init__(self) -> None:
        self.lanes: dict[tuple[Urgency, str], _Lane[E]] = {}
        self._turns: NestedTurns | None = None
        """Of the lanes, while a turn has no room for all: by units."""
        self.length = 0

    def take(self, most: int, most_units: float) -> list[E]:
        """The next requests: at least one, unless nothing waits."""
        if self.length <= most and (most_units == inf or self._units() <= most_units):
            return self._take_all()
        return self._take_in_turns(most, most_units)

    def _units(self) -> float:
        return sum(entry.cost for lane in self.lanes.values() for entry in lane.entries)

    def _take_all(self) -> list[E]:
        taken: list[E] = []
        for lane in self.lanes.values():
            lane.taken = list(lane.entries)
            lane.entries.clear()
            if lane.is_in_turns:
                self._leave(lane)
            taken += lane.taken
        self.length = 0
        if len(self.lanes) > 1:
            taken.sort(key=_number)
        return taken

    def _take_in_turns(self, most: int, most_units: float) -> list[E]:
        turns = self._turns = self._turns or NestedTurns()
        for lane in self.lanes.values():
            if lane.entries and not lane.is_in_turns:
                turns.add(lane.key)
                lane.is_in_turns = True
        taken: list[E] = []
        units = 0.0
        while self.length and len(taken) < most and units < most_units:
            urgency, tenant = turns.first
            lane = self.lanes[urgency, tenant]
            turns.begin(lane.key)
            at_once = 0.0
            while lane.entries and at_once < UNITS_AT_ONCE and len(taken) < most and units + at_once < most_units:
                entry = lane.entries.popleft()
                taken.append(entry)
                lane.taken.append(entry)
                self.length -= 1
                at_once += entry.cost
            units += at_once
            turns.charge(lane.key, at_once, lane.weights[:2])
            if not lane.entries:
                self._leave(lane)
        return taken

    def _leave(self, lane: _Lane[E]) -> None:
        if self._turns is not None:
            self._turns.remove(lane.key)
            lane.is_in_turns = False

    def put_back(self, entries: Sequence[E]) -> None:
        """These, the last that were taken, wait again, before all others of their lanes, as if they had not been."""
        for entry in reversed(entries):
            lane = self.lanes[entry.urgency, entry.asker.tenant]
            lane.entries.appendleft(entry)
            lane.returned += 1
            if lane.is_in_turns and self._turns is not None:
                self._turns.charge(lane.key, -entry.cost, lane.weights[:2])
        self.length += len(entries)


class FairQueue(Generic[E]):
    """A turn is a `take` and then an `end_turn`; there is one at a time."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line[E]] = {}
        """Fleets with something waiting, and the one whose turn it is."""
        self._turns = NestedTurns()
        """Of (class, tenant, fleet): by seconds."""
        self._alone: _Lane[E] | None = None
        """The only lane that there is: it takes no turns with others, and stays when it is empty."""
        self._alone_was_served = False
        self._numbers = count()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[E]:
        """All that wait, fleet by fleet."""
        lanes = chain.from_iterable(line.lanes.values() for line in self._lines.values())
        return chain.from_iterable(lane.entries for lane in lanes)

    @property
    def first(self) -> str | None:
        """The fleet whose turn is next; None if nothing waits."""
        if not self._length:
            return None
        fleet: str = self._turns.first[-1] if self._alone is None else self._alone.path[-1]
        return fleet

    def add(self, fleet: str, entry: E) -> None:
        """One more waits, behind the others of its class and tenant on its fleet."""
        line = self._lines.get(fleet)
        if line is None:
            line = self._lines[fleet] = _Line()
        key = (entry.urgency, entry.asker.tenant)
        lane = line.lanes.get(key)
        if lane is None:
            lane = line.lanes[key] = _Lane(key, entry.asker.weight, fleet)
            self._begin_to_wait(lane)
        entry.number = next(self._numbers)
        lane.entries.append(entry)
        line.length += 1
        self._length += 1

    def _begin_to_wait(self, lane: _Lane[E]) -> None:
        alone, self._alone = self._alone, None
        if alone is not None and not (alone.entries or alone.taken):
            self._forget(alone)
            alone = None
        if alone is not None:
            # The one that had all turns so far does not go before a newcomer.
            for each in (lane, alone) if self._alone_was_served else (alone, lane):
                self._turns.add(each.path)
        elif self._turns:
            self._turns.add(lane.path)
        else:
            self._alone, self._alone_was_served = lane, False

    def _forget(self, lane: _Lane[E]) -> None:
        fleet = lane.path[-1]
        line = self._lines[fleet]
        del line.lanes[lane.key]
        if not line.lanes:
            del self._lines[fleet]

    def take(self, most: int, most_units: float = inf) -> Turn[E]:
        """Begins the next turn with at most so many requests, and no further one once it has so many units.

        Raises IndexError if nothing waits.
        """
        if self._alone is None:
            path = self._turns.first
            self._turns.begin(path)
            fleet: str = path[-1]
        else:
            self._alone_was_served = True
            fleet = self._alone.path[-1]
        line = self._lines[fleet]
        taken = line.take(most, most_units)
        self._length -= len(taken)
        return Turn(fleet, taken, line.length > 0)

    def end_turn(self, fleet: str, cost_s: float, again: Sequence[E] = ()) -> None:
        """Ends the fleet's turn, which took so long. `again`, the last of those taken, wait on before the others."""
        line = self._lines[fleet]
        if again:
            line.put_back(again)
            self._length += len(again)
        if self._alone is not None:
            self._alone.taken, self._alone.returned = [], 0
            return
        lanes = list(line.lanes.values())
        self._charge(lanes, cost_s)
        for lane in lanes:
            lane.taken, lane.returned = [], 0
            if not lane.entries:
                self._turns.remove(lane.path)
                self._forget(lane)

    def _charge(self, lanes: Sequence[_Lane[E]], cost_s: float) -> None:
        """Shares the time of a turn out among those whose requests it carried out."""
        if all(lane.returned == len(lane.taken) for lane in lanes):
            for lane in lanes:
                lane.returned = 0  # nobody's was carried out, and it took its time
        used = [lane.used() for lane in lanes]
        units = sum(used)
        for lane, own in zip(lanes, used, strict=True):
            if own:
                self._turns.charge(lane.path, cost_s * own / units, lane.weights)
