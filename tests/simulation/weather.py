"""What goes wrong in one simulation, and how often: drawn from the seed, so that each has a mixture of its own.

A world in which everything goes wrong at once hides what one fault alone would show, so most kinds are left out of
most worlds.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random
from typing import Final

from blockyard_server.domain.retention import Retention
from tests.simulation.kernel import HOUR, MS, SECOND


class Point(StrEnum):
    """Where in a transaction something may happen."""

    BEGIN = "before the lock"
    LOCKED = "after the lock"
    READ = "at a read"
    WRITE = "before the rows"
    WRITTEN = "after the rows"
    COMMIT = "before the commit"
    COMMITTED = "after the commit"


class Fault(StrEnum):
    """What happens there."""

    AWAY = "store away"
    CONFLICT = "conflict"
    UNKNOWN = "commit unknown"
    BROKEN = "invariant broken"
    CRASH = "crash"
    PAUSE = "server stopped for a while"


_POINTS: Final = {
    Fault.AWAY: tuple(Point),
    Fault.CONFLICT: (Point.LOCKED, Point.READ, Point.WRITE, Point.WRITTEN, Point.COMMIT),
    Fault.UNKNOWN: (Point.COMMIT, Point.COMMITTED),
    Fault.BROKEN: (Point.WRITE,),
    Fault.CRASH: tuple(Point),
    Fault.PAUSE: tuple(Point),
}

_SOMETIMES: Final = (0.0, 0.0, 0.02, 0.1, 0.3)


@dataclass(frozen=True, slots=True)
class Weather:
    """How often what happens in one world. Probabilities are for each transaction, message or deed of an operator."""

    servers: int
    fleets: int
    clients: int
    own_clock: bool
    """One server on a database without a clock, as with SQLite."""
    transaction_faults: tuple[tuple[Fault, Point], ...]
    """Each is as likely as the others."""
    transaction_fault: float
    interleaved: float
    """Others go first, before a lock and after a commit."""
    request_lost: float
    answer_lost: float
    doubled: float
    """A client asks two servers at once."""
    slow: float
    """A message takes up to minutes."""
    longest_delay_us: int
    client_crash: float
    clock_steps_us: tuple[int, ...]
    """By how much the database's clock, or a server's at its start, may be set."""
    deeds: tuple[str, ...]
    """What operators and servers do by themselves; a repetition makes it more likely."""
    small_limits: bool
    """Sweeps, prunes and the catching up of memory reach their limits."""
    ttls_us: tuple[int | None, ...]
    drift_ppm: int
    """Clocks drift by at most so much."""
    forgetting: bool = False
    """Servers let the fleets grow older, and forget what has reached its retention."""
    retention: Retention = field(default_factory=lambda: Retention(SECOND, SECOND))
    """How long servers remember what has ended, and events: shorter than in life, as the day is."""


_DEEDS: Final = (
    "sweep",
    "prune",
    "compact",
    "verify",
    "shape",
    "policy",
    "crash",
    "stop",
    "outage",
    "clock",
    "halt",
    "aim",
)


def draw_weather(chance: Random) -> Weather:
    """The weather of a world."""
    own_clock = chance.random() < 0.15
    kinds = [fault for fault in Fault if chance.random() < 0.5]
    steps_us = (200 * MS, -300 * MS, 2 * SECOND, -5 * SECOND, 60 * SECOND, -60 * SECOND, HOUR, -HOUR)
    deeds = [deed for deed in _DEEDS if chance.random() < 0.5]
    weather = Weather(
        servers=1 if own_clock else chance.choice((1, 2, 2, 3)),
        fleets=chance.choice((1, 1, 1, 2)),
        clients=chance.choice((2, 3, 3, 4)),
        own_clock=own_clock,
        transaction_faults=tuple((fault, point) for fault in kinds for point in _POINTS[fault]),
        transaction_fault=chance.choice((0.02, 0.1, 0.3)) if kinds else 0.0,
        interleaved=chance.choice((0.0, 0.1, 0.4)),
        request_lost=chance.choice(_SOMETIMES),
        answer_lost=chance.choice(_SOMETIMES),
        doubled=chance.choice(_SOMETIMES),
        slow=chance.choice(_SOMETIMES),
        longest_delay_us=chance.choice((SECOND, 20 * SECOND, 200 * SECOND)),
        client_crash=chance.choice((0.0, 0.0, 0.05)),
        clock_steps_us=tuple(step for step in steps_us if chance.random() < 0.4) or (HOUR,),
        deeds=("sweep", *deeds, *deeds[:1] * 2),
        small_limits=chance.random() < 0.4,
        ttls_us=chance.choice(
            ((None,), (None, 2 * SECOND), (300 * MS, SECOND), (SECOND, 5 * SECOND, 30 * SECOND), (5 * SECOND,))
        ),
        drift_ppm=chance.choice((0, 0, 50, 400)),
    )
    # Dice of their own: a world in which nobody forgets is the same as without this.
    own = Random(repr(weather))
    spans_us = (1200 * MS, 3 * SECOND)
    retention = Retention(own.choice(spans_us), own.choice(spans_us))
    return replace(weather, forgetting=own.random() < 0.3, retention=retention)
