"""How often something is done that takes the longer the more there is: it has at most a share of the time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

MAX_REST_S: Final = 30.0
"""No rest is longer: one look that took long because the machine was busy does not put off the next for hours."""


class Pace:
    """After something took a while it rests, for so long that it has this share of the time."""

    def __init__(self, share: float, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._rest_for_each_s = 1 / share - 1
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
            self._rests_until_s = ended_s + min(MAX_REST_S, (ended_s - began_s) * self._rest_for_each_s)
