"""What a disturbance is, and in which order disturbances happen: the order follows from the seed."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.chaos.stage import Stage

STEPS_OF_A_ROUND: Final = 12
"""Disturbances that one set of data goes through before it is judged."""


class Violation(Exception):
    """A promise was broken. The message says which, and how that was seen."""


class Skipped(Exception):
    """This machine does not allow the disturbance. The message says why."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Something that goes wrong while clients work.

    `happen` returns once it has really happened. It raises Violation for what it sees itself, and Skipped where the
    machine does not allow it.
    """

    name: str
    kind: str
    """Several disturbances are of one kind: `--only` takes a name or a kind."""
    weight: int
    """How often it happens in comparison with the others."""
    happen: Callable[["Stage", Random], Awaitable[None]]


def chosen(disturbances: Sequence[Disturbance], only: Sequence[str]) -> list[Disturbance]:
    """Those with one of these names or kinds; all if there are none. Raises ValueError for an unknown one."""
    for word in only:
        if not any(word in {each.name, each.kind} for each in disturbances):
            names = ", ".join(sorted({each.kind for each in disturbances} | {each.name for each in disturbances}))
            message = f"{word!r} is neither a disturbance nor a kind; there are: {names}"
            raise ValueError(message)
    return [each for each in disturbances if not only or {each.name, each.kind} & set(only)]


def steps_of(disturbances: Sequence[Disturbance], seed: str, number: int, length: int) -> list[Disturbance]:
    """The steps of a round.

    A deck has each disturbance as often as its weight says. It is shuffled, dealt out, and shuffled again, so that none
    is left out for long.
    """
    dealt = _dealt(disturbances, seed)
    for _ in range(number * length):
        next(dealt)
    return [next(dealt) for _ in range(length)]


def _dealt(disturbances: Sequence[Disturbance], seed: str) -> Iterator[Disturbance]:
    dice = Random(f"deck {seed}")
    while True:
        deck = [each for each in disturbances for _ in range(each.weight)]
        dice.shuffle(deck)
        yield from deck
