"""The heart of a simulation: one seeded source of chance, one line of time, what is still to happen, and the trace.

There are no threads. Whoever waits says when it wants to go on; whoever is in the middle of something may let others go
first (`interleave`), which is how two servers get in each other's way.
"""

from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Final

START_US: Final = 1_700_000_000_000_000
"""When every simulation begins."""
MAX_DEPTH: Final = 3
"""How many may be in the middle of something at once."""

MS: Final = 1_000
SECOND: Final = 1_000_000
HOUR: Final = 3600 * SECOND

Act = Callable[[], None]


class Violation(Exception):
    """Something that must never be."""


class Kernel:
    """Time in microseconds, chance and the agenda of one simulation."""

    def __init__(self, seed: int, *, tracing: bool = False) -> None:
        self.seed = seed
        self.chance = Random(seed)
        self.now_us = START_US
        self.steps = 0
        self.tally: Counter[str] = Counter()
        """What really happened, and how often."""
        self.calm = False
        """No fault happens any more: what is under way comes to its end."""
        self.trace: list[str] | None = [] if tracing else None
        self._agenda: list[tuple[int, int, Act]] = []
        self._asked = 0
        self._depth = 0

    def at(self, time_us: int, act: Act) -> None:
        """Does this then, or as soon as possible if that is over; what is due at one time in the order asked."""
        self._asked += 1
        heappush(self._agenda, (time_us, self._asked, act))

    def after(self, delay_us: int, act: Act) -> None:
        """Does this after a while."""
        self.at(self.now_us + delay_us, act)

    def step(self) -> bool:
        """Does what is next; False if nothing is left."""
        if not self._agenda:
            return False
        time_us, _, act = heappop(self._agenda)
        self.now_us = max(self.now_us, time_us)
        self.steps += 1
        act()
        return True

    def interleave(self, steps: int, within_us: int) -> None:
        """Lets so many others go first, as far as they are due within this time."""
        if self._depth >= MAX_DEPTH:
            return
        self._depth += 1
        try:
            until_us = self.now_us + within_us
            while steps > 0 and self._agenda and self._agenda[0][0] <= until_us:
                self.step()
                steps -= 1
        finally:
            self._depth -= 1

    def pass_time(self, by_us: int) -> None:
        """Time passes in which nobody can do anything."""
        self.now_us += by_us

    def odds(self, probability: float) -> bool:
        """Whether something of this probability happens now."""
        return probability > 0 and self.chance.random() < probability

    def between(self, low_us: int, high_us: int) -> int:
        """A time between these, rather a short one."""
        return self.chance.randint(low_us, self.chance.randint(low_us, high_us))

    def note(self, text: str) -> None:
        """One line of the trace. Ask for `trace` first where making the text takes time."""
        if self.trace is not None:
            self.trace.append(f"{(self.now_us - START_US) / SECOND:14.6f}  {'  ' * self._depth}{text}")

    def happened(self, what: str) -> None:
        """Counts it, and notes it."""
        self.tally[what] += 1
        self.note(what)


class Clock:
    """A clock that somebody has: runs a little fast or slow, from wherever it was set."""

    def __init__(self, kernel: Kernel, *, ahead_us: int = 0, fast_ppm: int = 0) -> None:
        self._kernel = kernel
        self._shown_us = kernel.now_us + ahead_us
        self._since_us = kernel.now_us
        self._fast_ppm = fast_ppm

    def now_us(self) -> int:
        """What it shows."""
        return self._reading(self._kernel.now_us)

    def set_by(self, by_us: int) -> None:
        """Somebody sets it forward, or back."""
        self._shown_us = self.now_us() + by_us
        self._since_us = self._kernel.now_us

    def when_it_shows(self, time_us: int) -> int:
        """The true time at which it first shows this, if nobody sets it."""
        true_us = self._since_us + (time_us - self._shown_us) * 1_000_000 // (1_000_000 + self._fast_ppm) - 2
        while self._reading(true_us) < time_us:
            true_us += 1
        return true_us

    def _reading(self, true_us: int) -> int:
        passed_us = true_us - self._since_us
        return self._shown_us + passed_us + passed_us * self._fast_ppm // 1_000_000
