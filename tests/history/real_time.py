"""Real time against positions: whether calls can take effect at places that an order of changes leaves open to them.

A position is 2r for the change that made revision r, and 2r + 1 for what was seen between it and the next change. Each
call has the positions that its answer allows; whatever ended before another began must not have a later position.

Each call is given the least position that is allowed and not before any that had ended when it began. If there is
an order at all, this one is: the least positions are the least strict for all calls after them. Takes O(n log n).
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

NEVER: Final = 2**62
"""Later than every position and every time."""


@dataclass(slots=True)
class Spans:
    """Where something was the case: from the first of each pair of revisions until before the second."""

    begins: "array[int]" = field(default_factory=lambda: array("q"))
    ends: "array[int]" = field(default_factory=lambda: array("q"))

    def note(self, revision: int, *, is_so: bool) -> None:
        """From this revision on; revisions come in ascending order."""
        if is_so and len(self.begins) == len(self.ends):
            self.begins.append(revision)
        elif not is_so and len(self.begins) > len(self.ends):
            self.ends.append(revision)

    def next_at(self, revision: int) -> int | None:
        """The first revision from this one on where it is so."""
        place = bisect_left(self.ends, revision + 1)
        return max(revision, self.begins[place]) if place < len(self.begins) else None


class Positions:
    """The times of all calls, and the positions that are allowed to each: `least` to `most`, at `spans` only if any."""

    def __init__(self) -> None:
        self.start = array("q")
        self.end = array("q")
        self.least = array("q")
        self.most = array("q")
        self.spans: dict[int, Spans] = {}

    def add(self, start_ns: int, end_ns: int | None) -> None:
        """One more call; every position is allowed."""
        self.start.append(start_ns)
        self.end.append(NEVER if end_ns is None else end_ns)
        self.least.append(0)
        self.most.append(NEVER)

    def allow(self, number: int, least: int, most: int = NEVER) -> None:
        """Only positions from `least` to `most`."""
        self.least[number] = least
        self.most[number] = most

    def out_of_order(self) -> Iterator[tuple[int, int | None]]:
        """Each call that cannot have a position, with the call that had ended before it and was later (None: none)."""
        last_ended, last_position = None, 0
        position = array("q", bytes(8 * len(self.start)))
        for number, begins in self._boundaries():
            if begins:
                least = self._least_from(number, max(last_position, self.least[number]))
                if least is None or least > self.most[number]:
                    yield number, last_ended
                    position[number] = self.least[number]
                else:
                    position[number] = least
            elif position[number] > last_position:
                last_ended, last_position = number, position[number]

    def _least_from(self, number: int, position: int) -> int | None:
        spans = self.spans.get(number)
        if spans is None:
            return position
        revision = spans.next_at(position // 2)
        return None if revision is None else max(position, 2 * revision + 1)

    def _boundaries(self) -> Iterator[tuple[int, bool]]:
        """The starts (True) and ends of calls as time goes by; at equal times the starts come first."""
        starts, ends = _sorted(self.start), _sorted(self.end)
        place = 0
        for number in ends:
            while place < len(starts) and self.start[starts[place]] <= self.end[number]:
                yield starts[place], True
                place += 1
            yield number, False


def _sorted(times: "Sequence[int]") -> "array[int]":
    return array("q", sorted(range(len(times)), key=times.__getitem__))
