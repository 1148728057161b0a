"""How long to wait between two attempts to acquire, politely. Pure."""

import random
from collections.abc import Iterator
from typing import Final

FIRST_DELAY_S: Final = 0.25
LONGEST_DELAY_S: Final = 10.0
_GROWTH: Final = 1.6


def polite_delays(chance: random.Random) -> Iterator[float]:
    """Seconds, growing up to `LONGEST_DELAY_S`.

    Each is spread at random over its upper half, so that those who wait for the same blocks do not come back together.
    """
    delay_s = FIRST_DELAY_S
    while True:
        yield delay_s * chance.uniform(0.5, 1.0)
        delay_s = min(delay_s * _GROWTH, LONGEST_DELAY_S)
