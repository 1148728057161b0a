"""From the calls about one intent to the effects on blocks: what was granted and freed where, and when at the earliest
and at the latest, as far as the clients can know.

A grant without an answer has happened between the first attempt and the end of the first answer that shows it; a
release without an answer likewise. So no effect stays open once somebody has looked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from tests.history.intents import granted_by, lease_end_ns, view_in
from tests.history.record import EXPIRED, HELD, RELEASED, Acquire, Freed, Granted, Op, Refused, Release, View

ENDED: Final = {"ALLOCATION_ENDED", "LEASE_EXPIRED"}


@dataclass(frozen=True, slots=True)
class Effect:
    """Blocks of one instance change hands."""

    number: int
    """A call that has to do with it."""
    start_ns: int
    end_ns: int | None
    instance: int
    allocation: int
    mask: int
    frees: bool


class Unsettled(Exception):
    """Nobody has found out what became of an acquire without an answer."""


def effects_of(ops: Sequence[Op]) -> Iterator[Effect]:
    """The effects of one intent. Raises Unsettled."""
    granted = granted_by(ops)
    if granted.allocation is None:
        if any(op.answer is None and isinstance(op.asked, Acquire) for op in ops) and not _is_closed(ops):
            raise Unsettled
        return
    number, start_ns, end_ns = _grant(ops)
    for instance, mask in granted.placements:
        yield Effect(number, start_ns, end_ns, instance, granted.allocation, mask, frees=False)
        # Blocks go at once only if whatever may free the one frees the other too.
        masks: dict[_Freeing, int] = {}
        for block in range(mask.bit_length()):
            if mask >> block & 1 and (free := _free(ops, instance, 1 << block)) is not None:
                masks[free] = masks.get(free, 0) | 1 << block
        for free, freed in masks.items():
            from_ns, freed_by = min(free.possible)
            yield Effect(freed_by, from_ns, free.end_ns, instance, granted.allocation, freed, frees=True)


def _is_closed(ops: Sequence[Op]) -> bool:
    """The token was cancelled before it was granted."""
    return any(
        (isinstance(op.answer, Freed) and op.answer.view is None)
        or (isinstance(op.answer, Refused) and op.answer.reason == "TOKEN_CANCELLED")
        for op in ops
    )


def _grant(ops: Sequence[Op]) -> tuple[int, int, int | None]:
    shown = [op.end_ns for op in ops if op.end_ns is not None and _shows_the_grant(op)]
    for op in ops:
        if isinstance(op.answer, Granted) and not op.answer.replayed:
            return op.number, op.start_ns, min(shown)
    tried = [op for op in ops if isinstance(op.asked, Acquire)] or list(ops)
    first = min(tried, key=lambda op: op.start_ns)
    return first.number, first.start_ns, min(shown, default=None)


def _shows_the_grant(op: Op) -> bool:
    return view_in(op.answer) is not None or (isinstance(op.answer, Refused) and op.answer.reason in ENDED)


@dataclass(frozen=True, slots=True)
class _Freeing:
    possible: tuple[tuple[int, int], ...]
    """Starts and numbers of the calls that may have freed a block; the end of its lease is among them."""
    end_ns: int | None
    """By then it was free."""


def _free(ops: Sequence[Op], instance: int, bit: int) -> _Freeing | None:
    """What may have freed a block. None: nothing can have."""
    views = [view for op in ops if (view := view_in(op.answer)) is not None]
    released = any(view.state == RELEASED for view in views)
    covering = [op for op in ops if _may_free(op, instance, bit)]
    if any(view.state == EXPIRED and _has(view, instance, bit) for view in views):
        covering = []  # what was held at its end was not released before
    starts = [(op.start_ns, op.number) for op in covering]
    lease_ns = None if released else lease_end_ns(ops)
    if lease_ns is not None:
        starts.append((lease_ns, ops[0].number))
    if not starts:
        return None
    shown = [op.end_ns for op in ops if op.end_ns is not None and _shows_it_free(op, instance, bit)]
    if len(starts) == 1 and len(covering) == 1 and covering[0].end_ns is not None:
        shown.append(covering[0].end_ns)
    return _Freeing(tuple(sorted(starts)), min(shown, default=None))


def _may_free(op: Op, instance: int, bit: int) -> bool:
    if not isinstance(op.asked, Release):
        return False
    if op.answer is not None and not (isinstance(op.answer, Freed) and op.answer.outcome == RELEASED):
        return False
    return not op.asked.placements or any(i == instance and mask & bit for i, mask in op.asked.placements)


def _shows_it_free(op: Op, instance: int, bit: int) -> bool:
    view = view_in(op.answer)
    if view is None:
        return isinstance(op.answer, Refused) and op.answer.reason in ENDED
    return view.state != HELD or not _has(view, instance, bit)


def _has(view: View, instance: int, bit: int) -> bool:
    return any(i == instance and mask & bit for i, mask in view.placements)
