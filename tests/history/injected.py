"""Faults put into a history that was recorded: each finds a place where what it writes cannot possibly be true.

An answer is only changed where the clients themselves know better: blocks were granted and the answer had come before
the changed call began, and nobody had begun to release them when it ended; or the other way round.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from tests.history.record import (
    RELEASED,
    Acquire,
    Answer,
    Described,
    Freed,
    Got,
    Granted,
    History,
    Op,
    Placements,
    Release,
    Renewed,
    View,
)

NEVER: Final = 2**62


@dataclass(slots=True)
class Sure:
    """What is sure of an allocation without a lease."""

    view: View
    """As it was granted."""
    op: int
    held_from_ns: int
    """The answer had come."""
    held_until_ns: int = NEVER
    """Nobody had asked for any of it to be released."""
    free_from_ns: int = NEVER
    """The answer to the release of all of it had come."""


def sure_of(history: History) -> dict[int, Sure]:
    """What the answers make sure, by allocation."""
    sure: dict[int, Sure] = {}
    names: dict[str, int] = {}
    for op in history.ops:
        if isinstance(op.answer, Granted) and not op.answer.replayed and isinstance(op.asked, Acquire):
            view = op.answer.view
            if op.asked.ttl_ms is None:
                sure[view.allocation] = Sure(view, op.number, op.end_ns or NEVER)
            names[view.token] = view.allocation
    for op in history.ops:
        if not isinstance(op.asked, Release):
            continue
        allocation = op.asked.allocation if op.asked.token is None else names.get(op.asked.token)
        known = sure.get(allocation or 0)
        if known is None:
            continue
        known.held_until_ns = min(known.held_until_ns, op.start_ns)
        if isinstance(op.answer, Freed) and op.answer.outcome == RELEASED and not op.asked.placements:
            known.free_from_ns = min(known.free_from_ns, op.end_ns or NEVER)
    return sure


def _descriptions(history: History) -> Iterator[tuple[Op, Described]]:
    for op in history.ops:
        if isinstance(op.answer, Described):
            yield op, op.answer


def _held_during(sure: dict[int, Sure], op: Op) -> Iterator[Sure]:
    return (s for s in sure.values() if s.held_from_ns < op.start_ns and s.held_until_ns > (op.end_ns or NEVER))


def _changed(history: History, number: int, answer: Answer) -> History:
    ops = list(history.ops)
    ops[number] = replace(ops[number], answer=answer)
    return replace(history, ops=ops)


def _with_counts(seen: Described, more: Placements, by: int) -> Described:
    """The same description with some blocks more (1) or less (-1) busy; its numbers agree with each other."""
    busy, idle = list(seen.busy), list(seen.idle)
    for instance, mask in more:
        busy[instance] += by * mask.bit_count()
        idle[instance] -= by * mask.bit_count()
    return replace(seen, busy=tuple(busy), idle=tuple(idle), total_busy=sum(busy), total_idle=sum(idle))


def double_grant(history: History) -> History:
    """A grant has the blocks of another one that was held all the while."""
    sure = sure_of(history)
    for late in sure.values():
        op = history.ops[late.op]
        for early in _held_during(sure, op):
            if early.view.placements != late.view.placements:
                return _moved(history, late.view.allocation, early.view.placements)
    raise AssertionError("no two grants were held at once")


def _moved(history: History, allocation: int, placements: Placements) -> History:
    """Wherever the history shows an allocation, it has other blocks."""
    ops = list(history.ops)
    for number, op in enumerate(ops):
        answer = op.answer
        view = answer.view if isinstance(answer, Granted | Freed | Renewed | Got) else None
        if view is not None and view.allocation == allocation:
            moved = replace(view, placements=placements)
            ops[number] = replace(op, answer=_showing(answer, moved))
    journal = [
        replace(event, placements=placements) if event.allocation == allocation and event.placements else event
        for event in history.journal
    ]
    return History(history.sizes, ops, journal)


def _showing(answer: Answer | None, view: View) -> Answer | None:
    if isinstance(answer, Granted | Freed | Renewed | Got):
        return replace(answer, view=view)
    return answer


def stale_count(history: History) -> History:
    """A description counts one busy block less than the least that it could be."""
    sure = sure_of(history)
    for op, seen in _descriptions(history):
        least = [0] * len(history.sizes)
        for known in _held_during(sure, op):
            for instance, mask in known.view.placements:
                least[instance] += mask.bit_count()
        instance = max(range(len(least)), key=least.__getitem__)
        if least[instance] and seen.holds is None:
            surplus = seen.busy[instance] - least[instance] + 1
            return _changed(history, op.number, _with_counts(seen, ((instance, (1 << surplus) - 1),), -1))
    raise AssertionError("nothing was held during any description")


def lost_release(history: History) -> History:
    """A description shows blocks busy whose release had been answered before."""
    sure = sure_of(history)
    for op, seen in _descriptions(history):
        taken: dict[int, int] = {}
        for instance, _, mask in seen.holds or ():
            taken[instance] = taken.get(instance, 0) | mask
        for allocation, known in sure.items():
            lost = tuple(
                (instance, still)
                for instance, mask in known.view.placements
                if (still := mask & ~taken.get(instance, 0))
            )
            if seen.holds is not None and known.free_from_ns < op.start_ns and lost:
                more = [(instance, allocation, mask) for instance, mask in lost]
                again = _with_counts(seen, lost, 1)
                return _changed(history, op.number, replace(again, holds=tuple(sorted([*seen.holds, *more]))))
    raise AssertionError("nothing was released before any description")


def lost_grant(history: History) -> History:
    """A description does not show blocks whose grant had been answered before."""
    sure = sure_of(history)
    for op, seen in _descriptions(history):
        for known in _held_during(sure, op):
            if seen.holds is not None:
                less = _with_counts(seen, known.view.placements, -1)
                left = tuple(hold for hold in seen.holds if hold[1] != known.view.allocation)
                return _changed(history, op.number, replace(less, holds=left))
    raise AssertionError("nothing was held during any description")


def regrant(history: History) -> History:
    """An acquire that was sent again got another allocation than the first time."""
    sure = sure_of(history)
    for op in history.ops:
        if isinstance(op.answer, Granted) and op.answer.replayed and op.answer.view.allocation in sure:
            view = replace(op.answer.view, allocation=10**9)
            return _changed(history, op.number, Granted(view, replayed=True))
    raise AssertionError("no acquire was sent again")


INJECTIONS: Final[tuple[Callable[[History], History], ...]] = (
    double_grant,
    stale_count,
    lost_release,
    lost_grant,
    regrant,
)
