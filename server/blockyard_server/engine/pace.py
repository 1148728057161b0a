"""How often something is done that takes the longer the more there is: it has at most a share of the time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Pace:
    """After something took a while it rests, for so long that it has this share of the time."""

    def __init__(self, share: float, *, max_rest_s: float, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        """No rest is longer than `max_rest_s`: it may have taken long because the machine was busy."""
        self._rest_for_each_s = 1 / share - 1
        self._max_rest_s = max_rest_s
        self._monotonic_s = monotonic_s
        self._rests_until_s = monotonic_s()

    @property
    def is_due(self) -> bool:
        """Whether it has rested for long enough."""
        return self._monotonic_s() >= self._rests_until_s

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Surrounds what takes a while, also if it fails."""
        began_s = self._monotonic_s()
        try:
            yield
        finally:
            ended_s = self._monotonic_s()
            self._rests_until_s = ended_s + min(self._max_rest_s, (ended_s - began_s) * self._rest_for_each_s)
