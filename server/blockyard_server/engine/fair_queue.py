"""Requests that wait: fleets take turns, and within a fleet the classes and tenants that wait there do.

A turn is one transaction on one fleet. Whose turn is next is decided by class, then by tenant, then by fleet
(`turns.py`), each by the time that it has used; a turn's time is shared out among those whose requests were in it.
So a tenant with little to do waits for the turn that is under way and for little more, whatever the others have to
do, and on however many fleets.

If a turn has room for all that wait on its fleet, they keep the order in which they came. Otherwise classes and tenants
take turns by the cost of their requests. The order of one tenant's requests of one class is always kept
(docs/adr/0028).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, count
from math import inf
from operator import itemgetter
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from blockyard_server.engine.asker import Asker, Urgency
from blockyard_server.engine.turns import NestedTurns

UNITS_AT_ONCE: Final = 8
"""Of one class and tenant, before another's are taken."""


class Entry(Protocol):
    """What may wait."""

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
        """In units, at least 1."""
        ...


E = TypeVar("E", bound=Entry)


class _Lane(Generic[E]):
    """Those of one class and one tenant that wait on one fleet, in the order in which they came."""

    __slots__ = ("is_in_turns", "numbered", "path", "returned", "taken", "weights")

    def __init__(self, entry: Entry, fleet: str) -> None:
        urgency, asker = entry.urgency, entry.asker
        self.path = (urgency, asker.tenant, fleet)
        self.weights = (urgency.weight, asker.weight, 1)
        self.numbered: deque[tuple[int, E]] = deque()
        """Each with its number: they were numbered as they came."""
        self.taken = self.returned = 0.0
        """Units that the turn under way took of it, and that it put back."""
        self.is_in_turns = False
        """It is among the lanes of its fleet that take turns."""


class Turn(NamedTuple, Generic[E]):
    """What a turn has taken."""

    fleet: str
    entries: list[E]
    more: bool
    """There is more on this fleet."""


class _Line(Generic[E]):
    """All that wait on one fleet."""

    __slots__ = ("_turns", "lanes", "length", "units")

    def __init__(self) -> None:
        self.lanes: dict[tuple[Urgency, str], _Lane[E]] = {}
        self._turns = NestedTurns()
        """Of the lanes, while a turn has no room for all: by units."""
        self.length = 0
        self.units = 0.0

    def take(self, most: int, most_units: float) -> list[tuple[int, E]]:
        """The next requests: at least one, unless nothing waits."""
        if self.length <= most and self.units <= most_units:
            return self._take_all()
        return self._take_in_turns(most, most_units)

    def _take_all(self) -> list[tuple[int, E]]:
        taken: list[tuple[int, E]] = []
        for lane in self.lanes.values():
            lane.taken = sum(entry.cost for _, entry in lane.numbered)
            taken += lane.numbered
            lane.numbered.clear()
            self._leave(lane)
        if len(self.lanes) > 1:
            taken.sort(key=_by_number)
        self.length, self.units = 0, 0.0
        return taken

    def _take_in_turns(self, most: int, most_units: float) -> list[tuple[int, E]]:
        for lane in self.lanes.values():
            if lane.numbered and not lane.is_in_turns:
                self._turns.add(lane.path[:2])
                lane.is_in_turns = True
        taken: list[tuple[int, E]] = []
        units = 0.0
        while self.length and len(taken) < most and units < most_units:
            key = self._turns.first
            lane = self.lanes[key[0], key[1]]
            self._turns.begin(key)
            at_once = 0.0
            while lane.numbered and at_once < UNITS_AT_ONCE and len(taken) < most and units + at_once < most_units:
                taken.append(lane.numbered.popleft())
                self.length -= 1
                at_once += taken[-1][1].cost
            units += at_once
            lane.taken += at_once
            self._turns.charge(key, at_once, lane.weights[:2])
            if not lane.numbered:
                self._leave(lane)
        self.units -= units
        return taken

    def _leave(self, lane: _Lane[E]) -> None:
        if lane.is_in_turns:
            self._turns.remove(lane.path[:2])
            lane.is_in_turns = False

    def put_back(self, numbered: Sequence[tuple[int, E]]) -> None:
        """These wait again, before all others of their lanes, as if they had not been taken."""
        for number, entry in reversed(numbered):
            lane = self.lanes[entry.urgency, entry.asker.tenant]
            lane.numbered.appendleft((number, entry))
            lane.returned += entry.cost
            if lane.is_in_turns:
                self._turns.charge(lane.path[:2], -entry.cost, lane.weights[:2])
            self.length += 1
            self.units += entry.cost


class FairQueue(Generic[E]):
    """A turn is a `take` and then an `end_turn`; there is one at a time."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line[E]] = {}
        """Fleets with something waiting, and the one whose turn it is."""
        self._turns = NestedTurns()
        """Of (class, tenant, fleet): by seconds."""
        self._numbers = count()
        self._taken: list[tuple[int, E]] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[E]:
        """All that wait, fleet by fleet."""
        lanes = chain.from_iterable(line.lanes.values() for line in self._lines.values())
        return (entry for lane in lanes for _, entry in lane.numbered)

    @property
    def first(self) -> str | None:
        """The fleet whose turn is next; None if nothing waits."""
        if not self._length:
            return None
        fleet: str = self._turns.first[-1]
        return fleet

    def add(self, fleet: str, entry: E) -> None:
        """One more waits, behind the others of its class and tenant on its fleet."""
        line = self._lines.get(fleet)
        if line is None:
            line = self._lines[fleet] = _Line()
        key = (entry.urgency, entry.asker.tenant)
        lane = line.lanes.get(key)
        if lane is None:
            lane = line.lanes[key] = _Lane(entry, fleet)
            self._turns.add(lane.path)
        lane.numbered.append((next(self._numbers), entry))
        line.length += 1
        line.units += entry.cost
        self._length += 1

    def take(self, most: int, most_units: float = inf) -> Turn[E]:
        """Begins the next turn with at most so many requests, and no further one once it has so many units.

        Raises IndexError if nothing waits.
        """
        path = self._turns.first
        self._turns.begin(path)
        fleet = path[-1]
        line = self._lines[fleet]
        self._taken = line.take(most, most_units)
        self._length -= len(self._taken)
        return Turn(fleet, [entry for _, entry in self._taken], line.length > 0)

    def end_turn(self, fleet: str, cost_s: float, again: Sequence[E] = ()) -> None:
        """Ends the fleet's turn, which took so long. `again`, the last of those taken, wait on before the others."""
        line = self._lines[fleet]
        if again:
            wanted = {id(entry) for entry in again}
            line.put_back([each for each in self._taken if id(each[1]) in wanted])
            self._length += len(again)
        self._taken = []
        lanes = list(line.lanes.items())
        units = sum(lane.taken - lane.returned for _, lane in lanes)
        if not units:  # nobody's was carried out, and it took its time
            units = sum(lane.taken for _, lane in lanes)
            for _, lane in lanes:
                lane.returned = 0.0
        for key, lane in lanes:
            if lane.taken > lane.returned:
                share_s = cost_s * (lane.taken - lane.returned) / units
                self._turns.charge(lane.path, share_s, lane.weights)
            lane.taken = lane.returned = 0.0
            if not lane.numbered:
                self._turns.remove(lane.path)
                del line.lanes[key]
        if not line.lanes:
            del self._lines[fleet]


_by_number = itemgetter(0)
