"""Where time comes from. Logic never asks for it: it is handed `now_us`."""

import time
from typing import Protocol


class Clock(Protocol):
    """Microseconds since the epoch."""

    def now_us(self) -> int:
        """The time now. Never goes back."""
        ...


class SystemClock:
    """The wall clock at the start, and the monotonic clock from then on.

    So a step of the wall clock while the server runs neither ends leases early nor keeps them alive.
    """

    def __init__(self) -> None:
        self._offset_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def now_us(self) -> int:
        """The time now."""
        return time.monotonic_ns() // 1000 + self._offset_us


class ManualClock:
    """A clock that stands until it is moved, for tests and simulations."""

    def __init__(self, now_us: int = 1_700_000_000_000_000) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        """The time now."""
        return self._now_us

    def advance(self, by_us: int) -> None:
        """Time passes. Never backwards."""
        if by_us < 0:
            message = "a clock never goes back"
            raise ValueError(message)
        self._now_us += by_us
