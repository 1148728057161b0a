"""What is measured of every peer in the same way."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.load import Pair

INSTANCES: Final = 100
BLOCKS: Final = 8
"""Every peer has a fleet of this size, in its own words."""


class NotHere(Exception):
    """The peer cannot be measured on this machine; the message is a sentence that says why and what to do."""


class NotTrue(Exception):
    """The peer does not do what is measured: a claim did not claim, or claimed twice."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that is serving."""

    name: str
    pair: Pair
    """One claim and its release."""
    processes: Mapping[str, int]
    """Whose CPU time counts, with their descendants': a name for the table, and the process id."""
    proof: Callable[[], Awaitable[None]]
    """Shows that a claim really claims, once, after the load, with nothing else going on. Raises NotTrue."""
    slowness: float = 1
    """Its rounds take so many times as long: a peer with 50 calls a second needs more time to show a median."""
