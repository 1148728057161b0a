"""Checker B, first part: the life of each intent by itself.

All calls about one token and what it was granted are a small history: granted once, replayed with the same allocation,
released, ended, or cancelled. `intent_steps` makes it searchable; nothing here looks at a revision.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.history.record import (
    ALREADY_EXPIRED,
    ALREADY_RELEASED,
    CANCELLED,
    EXPIRED,
    HELD,
    RELEASED,
    Acquire,
    Answer,
    Freed,
    Get,
    Got,
    Granted,
    Op,
    Placements,
    Refused,
    Release,
    Renew,
    Renewed,
    View,
)
from tests.history.search import Step
from tests.history.sequential import common, without

FRESH: Final = "FRESH"
"""The token is not known."""
CLOSED: Final = "CLOSED"
"""The token is cancelled."""
CLOCK_SLACK_NS: Final = 50_000_000
"""How much earlier than by the clients' clock a lease may seem to end: the server's clock is another one."""


@dataclass(frozen=True, slots=True)
class Intent:
    """What is known of an intent at one moment."""

    state: str = FRESH
    allocation: int | None = None
    placements: Placements = ()

    def shows(self, view: View) -> bool:
        """Whether an answer shows it as it is."""
        return (view.state, view.allocation, view.placements) == (self.state, self.allocation, self.placements)


def view_in(answer: Answer | None) -> View | None:
    """The allocation that an answer about an intent shows."""
    return answer.view if isinstance(answer, Granted | Freed | Renewed | Got) else None


def granted_by(ops: Sequence[Op]) -> Intent:
    """The intent as it was granted, as far as the answers tell: the first view has the most blocks."""
    views = [view for op in ops if (view := view_in(op.answer)) is not None]
    if not views:
        return Intent(HELD)
    most = max(views, key=lambda view: sum(mask.bit_count() for _, mask in view.placements))
    return Intent(HELD, most.allocation, most.placements)


def lease_end_ns(ops: Sequence[Op]) -> int | None:
    """No lease that was granted or renewed by these calls ends sooner. None: there is no lease."""
    ends = []
    for op in ops:
        if isinstance(op.asked, Acquire) and op.asked.ttl_ms is None:
            return None
        if isinstance(op.asked, Acquire) or (isinstance(op.asked, Renew) and isinstance(op.answer, Renewed)):
            ends.append((op.start_ns, op.asked.ttl_ms or 0, isinstance(op.asked, Acquire)))
    first = min((start_ns + ttl_ms * 1_000_000 for start_ns, ttl_ms, acquires in ends if acquires), default=None)
    if first is None:
        return None
    renewed = [start_ns + ttl_ms * 1_000_000 for start_ns, ttl_ms, acquires in ends if not acquires]
    return max(first, *renewed, 0) - CLOCK_SLACK_NS


def intent_steps(ops: Sequence[Op]) -> list[Step[Intent]]:
    """The calls about one intent, and the end of its lease, which nobody calls for."""
    telling = [op for op in ops if not _is_silent(op)]
    granted = granted_by(telling)
    steps = [Step(op.number, op.start_ns, op.end_ns, _meaning(op, granted), _is_read(op)) for op in telling]
    end_ns = lease_end_ns(telling)
    if end_ns is not None:
        steps.append(Step(ops[0].number, end_ns, None, _expire))
    return steps


def _is_silent(op: Op) -> bool:
    """It says nothing about the intent."""
    if isinstance(op.answer, Refused):
        return op.answer.reason == "OVERLOADED"
    return op.answer is None and isinstance(op.asked, Get | Renew)


def _is_read(op: Op) -> bool:
    match op.answer:
        case None:
            return False
        case Granted():
            return op.answer.replayed
        case Freed():
            return op.answer.outcome in {ALREADY_RELEASED, ALREADY_EXPIRED}
        case _:
            return True


def _expire(intent: Intent) -> Intent | None:
    return Intent(EXPIRED, intent.allocation, intent.placements) if intent.state == HELD else None


def _meaning(op: Op, granted: Intent) -> Callable[[Intent], Intent | None]:
    match op.asked:
        case Acquire():
            return _acquire(op.answer, granted)
        case Release():
            return _release(op.asked, op.answer)
        case Renew():
            return _renew(op.answer)
        case _:
            return _get(op.answer)


def _acquire(answer: Answer | None, granted: Intent) -> Callable[[Intent], Intent | None]:
    def apply(intent: Intent) -> Intent | None:
        match answer:
            case None:
                return granted if intent.state == FRESH else None
            case Granted() if answer.replayed:
                return intent if intent.shows(answer.view) else None
            case Granted():
                view = answer.view
                return Intent(HELD, view.allocation, view.placements) if intent.state == FRESH else None
            case Refused():
                return intent if answer.reason in _refusals(intent, answer) else None
            case _:
                return None

    return apply


def _refusals(intent: Intent, answer: Refused) -> set[str]:
    """The reasons for which an acquire may be refused in this state."""
    if intent.state == FRESH:
        return {"NO_CAPACITY"}
    if intent.state == CLOSED:
        return {"TOKEN_CANCELLED"}
    return {"ALLOCATION_ENDED"} if intent.state != HELD and answer.allocation == intent.allocation else set()


def _release(asked: Release, answer: Answer | None) -> Callable[[Intent], Intent | None]:
    def apply(intent: Intent) -> Intent | None:
        outcome, after = _freed(asked, intent)
        if answer is None:
            return None if after == intent else after
        if not isinstance(answer, Freed) or answer.outcome != outcome:
            return None
        return after if answer.view is None or after.shows(answer.view) else None

    return apply


def _freed(asked: Release, intent: Intent) -> tuple[str, Intent]:
    """What a release does: its outcome, and the intent after it."""
    if intent.state in {FRESH, CLOSED}:
        return (CANCELLED, Intent(CLOSED)) if asked.token is not None else ("ALLOCATION_NOT_FOUND", intent)
    freed = common(intent.placements, asked.placements) if asked.placements else intent.placements
    if intent.state != HELD or not freed:
        return (ALREADY_EXPIRED if intent.state == EXPIRED else ALREADY_RELEASED), intent
    left = without(intent.placements, freed)
    return RELEASED, Intent(HELD if left else RELEASED, intent.allocation, left or intent.placements)


def _renew(answer: Answer | None) -> Callable[[Intent], Intent | None]:
    def apply(intent: Intent) -> Intent | None:
        match answer:
            case Renewed():
                return intent if intent.shows(answer.view) else None
            case Refused(reason="LEASE_EXPIRED"):
                return intent if intent.state == EXPIRED else None
            case Refused(reason="ALLOCATION_ENDED"):
                return intent if intent.state == RELEASED else None
            case _:
                return None

    return apply


def _get(answer: Answer | None) -> Callable[[Intent], Intent | None]:
    def apply(intent: Intent) -> Intent | None:
        return intent if isinstance(answer, Got) and intent.shows(answer.view) else None

    return apply
