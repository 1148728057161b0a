"""Tells whether a call can still be answered before its deadline: what cannot is not begun.

Under overload calls wait in gRPC's own queue, and most of their time is over when their handler begins. Work that is
answered too late costs as much as work that is answered in time, and its caller asks again: so the server would do
ever less that counts. A call with less time left than calls have lately taken is refused at once (docs/adr/0017).
"""

import time
from collections.abc import Callable
from typing import Final

MIN_UNDER_WAY: Final = 100
"""With fewer calls under way there is no overload: whatever makes them slow, each is begun."""
MARGIN: Final = 2.0
"""A call needs so many times as long as calls took lately: the answer has to travel, and the next may take longer."""
WEIGHT: Final = 0.05
"""Of the latest call in the mean of all."""
HALF_LIFE_S: Final = 0.5
"""After so long without an answer the mean counts half: if none is begun, the next one is tried soon."""


class RecentLatency:
    """How long the calls of one method have lately taken, from the start of the handler to its answer."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._mean_s = 0.0
        self._at_s = 0.0

    def note(self, took_s: float) -> None:
        """One more was answered."""
        self._mean_s = (1 - WEIGHT) * self.mean_s() + WEIGHT * took_s
        self._at_s = self._monotonic_s()

    def mean_s(self) -> float:
        """The mean, of which less remains the longer nothing was answered."""
        return float(self._mean_s * 0.5 ** ((self._monotonic_s() - self._at_s) / HALF_LIFE_S))

    def is_too_late(self, left_s: float | None, under_way: int) -> bool:
        """Whether a call with so much time left (None: no deadline) is not to be begun beside so many others."""
        return left_s is not None and under_way >= MIN_UNDER_WAY and left_s < MARGIN * self.mean_s()
