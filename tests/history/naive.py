"""Linearizability by the book: every order of the calls that agrees with real time is tried, on the whole fleet.

Only for a handful of calls without leases: it is what the checkers are compared with.
"""

from collections.abc import Callable, Sequence
from typing import Final

from tests.history.record import Event, Op
from tests.history.search import Step
from tests.history.sequential import SequentialFleet

MOST_CALLS: Final = 8

Past = tuple[Event, ...]
"""A state of a fleet: all that has happened to it."""


def after(sizes: tuple[int, ...], past: Past, op: Op) -> Past | None:
    """What has happened when a call has taken effect. None: it cannot, with this answer."""
    fleet = SequentialFleet(sizes)
    for happened in past:
        fleet.apply(happened)
    answer, event = fleet.carry_out(op.asked)
    if op.answer is not None and op.answer != answer:
        return None
    return past if event is None else (*past, event)


def has_an_order(sizes: tuple[int, ...], ops: Sequence[Op]) -> bool:
    """Whether some order explains every answer."""
    assert len(ops) <= MOST_CALLS, "this takes too long"
    return _try(sizes, (), list(ops))


def _try(sizes: tuple[int, ...], past: Past, left: list[Op]) -> bool:
    if all(op.answer is None for op in left):
        return True
    first_end = min(op.end_ns for op in left if op.end_ns is not None)
    for op in left:
        if op.start_ns > first_end:
            continue
        rest = [other for other in left if other is not op]
        reached = after(sizes, past, op)
        if reached is not None and _try(sizes, reached, rest):
            return True
    return False


def whole_fleet(sizes: tuple[int, ...], ops: Sequence[Op]) -> list[Step[Past]]:
    """The same question for the search."""
    return [Step(op.number, op.start_ns, op.end_ns, _step(sizes, op)) for op in ops]


def _step(sizes: tuple[int, ...], op: Op) -> Callable[[Past], Past | None]:
    return lambda past: after(sizes, past, op)
