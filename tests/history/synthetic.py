"""Histories that were never recorded: calls at a sequential fleet, right or faulty, spread over time as if concurrent.

Each call takes effect at one instant; its start and its end are moved away from it at random, so that calls overlap.
Some answers are lost, with the effect or without. In the end somebody finds out what became of every intent.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from tests.history.record import (
    HELD,
    Acquire,
    Answer,
    Asked,
    Describe,
    Described,
    Event,
    Freed,
    Get,
    Granted,
    History,
    ListHeld,
    Op,
    Placements,
    Refused,
    Release,
    Renew,
    Shape,
    View,
)
from tests.history.sequential import SequentialFleet

STEP_NS: Final = 1_000_000
"""Between the instants at which two calls take effect."""
SHAPES: Final = (
    (Shape(1, 1),),
    (Shape(1, 1),),
    (Shape(1, 2),),
    (Shape(2, 1),),
    (Shape(1, 3, on=0),),
    (Shape(1, 1, exclusive=True),),
    (Shape(1, 2), Shape(1, 1)),
)
TTLS_MS: Final = (None, None, 5, 40)

LOOKS: Final = 12
"""Descriptions that are asked for after a fault, more than overlap with it."""

Fault = Callable[["Faulty", Asked], Answer | None]
"""Answers a call wrongly, or None: not this one."""


class Faulty:
    """A fleet that follows the contract until its fault strikes, once, at the first call from `at` on that it fits."""

    def __init__(self, sizes: tuple[int, ...], fault: Fault | None = None, at: int = 0) -> None:
        self.fleet = SequentialFleet(sizes)
        self.journal: list[Event] = []
        self.time_us = 0
        self.past: list[Described] = []
        """What was to be seen before."""
        self._fault, self._at = fault, at
        self.struck = False

    def call(self, asked: Asked, number: int) -> Answer:
        """One call takes effect."""
        self.time_us += STEP_NS // 1000
        self._expire()
        if self._fault is not None and not self.struck and number >= self._at:
            wrong = self._fault(self, asked)
            if wrong is not None:
                self.struck = True
                return wrong
        answer, event = self.fleet.carry_out(asked, self.time_us)
        if event is not None:
            self.take(event)
        return answer

    def take(self, event: Event) -> None:
        """Something happens."""
        seen = self.fleet.carry_out(Describe(full=True))[0]
        assert isinstance(seen, Described)
        self.past.append(seen)
        self.fleet.apply(event)
        self.journal.append(event)

    def _expire(self) -> None:
        for allocation, life in list(self.fleet.held.items()):
            if life.expire_us is not None and life.expire_us <= self.time_us:
                self.take(
                    Event(
                        self.fleet.revision + 1,
                        "EXPIRED",
                        self.time_us,
                        allocation,
                        life.placements,
                        ended=True,
                    )
                )


@dataclass(frozen=True, slots=True)
class Plan:
    """How a synthetic history is made."""

    calls: int = 300
    sizes: tuple[int, ...] = (4, 4, 3)
    spread: float = 4.0
    """How many steps a start is before, and an end after, the instant of the effect at most."""
    lost: float = 0.04
    """The share of answers that are lost."""
    settle: bool = True
    """In the end the fate of every intent is found out."""
    leases: bool = True
    """Some allocations have one."""


def synthetic_history(seed: object, plan: Plan | None = None, fault: Fault | None = None) -> History:
    """A history with one instant for each call, hence linearizable, unless a fault strikes."""
    plan = plan or Plan()
    dice = Random(str(seed))
    server = Faulty(plan.sizes, fault, at=plan.calls // 2)
    ops: list[Op] = []
    chooser = _Chooser(dice, TTLS_MS if plan.leases else (None,))
    looks = 0
    for number in range(plan.calls):
        # What nobody looks at is no fault: for a while after it, everybody looks.
        asked = Describe(full=True) if looks else chooser.next()
        looks = max(0, looks - 1)
        answer, lost = None, dice.random() < plan.lost
        if not lost or dice.random() < 0.5:
            was_right = not server.struck
            answer = server.call(asked, number)
            if was_right and server.struck:
                looks, lost = LOOKS, False
        ops.append(_op(dice, plan, ops, asked, None if lost else answer))
        chooser.hear(ops[-1].answer)
    if plan.settle:
        calm = replace(plan, spread=0.0)
        for asked in _questions(ops):
            ops.append(_op(dice, calm, ops, asked, server.call(asked, len(ops))))
            ended = ops[-1].answer
            if isinstance(ended, Refused) and ended.allocation is not None:
                get = Get(ended.allocation)
                ops.append(_op(dice, calm, ops, get, server.call(get, len(ops))))
        seen = server.call(Describe(full=True), len(ops))
        ops.append(_op(dice, calm, ops, Describe(full=True), seen))
    assert fault is None or server.struck, "the fault found no call that fits"
    return History(plan.sizes, ops, server.journal)


def _op(dice: Random, plan: Plan, ops: list[Op], asked: Asked, answer: Answer | None) -> Op:
    instant = STEP_NS * (len(ops) + 1) + (int(plan.spread * STEP_NS) + STEP_NS if plan.spread == 0.0 else 0)
    start, end = (int(dice.uniform(0, plan.spread) * STEP_NS) + 1 for _ in range(2))
    return Op(len(ops), dice.randrange(8), instant - start, None if answer is None else instant + end, asked, answer)


def _questions(ops: list[Op]) -> list[Asked]:
    """Calls that find out what became of each intent."""
    acquires = {op.asked.token: op.asked for op in ops if isinstance(op.asked, Acquire) and op.answer is None}
    seen = {op.answer.view.allocation for op in ops if isinstance(op.answer, Granted)}
    return [*acquires.values(), *(Release(token=token) for token in acquires), *(Get(name) for name in sorted(seen))]


class _Chooser:
    """Chooses calls that make sense often, and conflicts often enough."""

    def __init__(self, dice: Random, ttls_ms: tuple[int | None, ...]) -> None:
        self._dice = dice
        self._ttls_ms = ttls_ms
        self._asked: list[Acquire] = []
        self._granted: dict[int, Placements] = {}
        """The allocations that somebody was told of: nobody can name another."""

    def hear(self, answer: Answer | None) -> None:
        """An answer has come."""
        if isinstance(answer, Granted):
            self._granted.setdefault(answer.view.allocation, answer.view.placements)

    def next(self) -> Asked:
        dice = self._dice
        names = list(self._granted)[-12:]
        if not names:
            return self._acquire()
        token, name = dice.choice(self._asked[-8:]), dice.choice(names)
        possible: list[Asked] = [
            token,
            self._release(name),
            Release(token=token.token),
            Renew(dice.choice(names), 40),
            Describe(full=dice.random() < 0.5),
            Get(dice.choice(names)),
            ListHeld(),
        ]
        return dice.choices(possible, WEIGHTS)[0] if dice.random() < 0.7 else self._acquire()

    def _acquire(self) -> Acquire:
        self._asked.append(
            Acquire(f"token-{len(self._asked)}", self._dice.choice(SHAPES), self._dice.choice(self._ttls_ms))
        )
        return self._asked[-1]

    def _release(self, name: int) -> Release:
        if self._dice.random() < 0.7:
            return Release(name)
        instance, mask = self._dice.choice(self._granted[name])
        return Release(name, placements=((instance, mask & -mask),))


WEIGHTS: Final = (6, 25, 6, 6, 12, 6, 4)


def double_grant(server: Faulty, asked: Asked) -> Answer | None:
    """Grants what somebody holds, and says so to both."""
    fleet = server.fleet
    lasting = [life for life in fleet.held.values() if life.expire_us is None]
    if not isinstance(asked, Acquire) or asked.token in fleet.tokens or asked.ttl_ms is not None or not lasting:
        return None
    revision = fleet.revision + 1
    event = Event(revision, "GRANTED", server.time_us, revision, lasting[-1].placements, None, asked.token)
    for instance, mask in event.placements:
        fleet.instances[instance].busy &= ~mask
    server.take(event)
    return Granted(View(revision, asked.token, HELD, event.placements, revision), replayed=False)


def stale_count(server: Faulty, asked: Asked) -> Answer | None:
    """Describes the fleet as it was some time ago, at the revision of today."""
    now = server.fleet.carry_out(Describe(full=True))[0]
    assert isinstance(now, Described)
    recent = {tuple(seen.busy) for seen in server.past[-20:]} | {now.busy}
    for old in reversed(server.past):
        if all(old.busy[0] != busy[0] for busy in recent) and isinstance(asked, Describe):
            return replace(old, revision=now.revision, holds=old.holds if asked.full else None)
    return None


def lost_release(server: Faulty, asked: Asked) -> Answer | None:
    """Answers that the blocks are released, writes it down, and keeps them busy."""
    answer, event = server.fleet.carry_out(asked, server.time_us)
    if not isinstance(answer, Freed) or event is None or not event.ended or event.kind != "RELEASED":
        return None
    server.take(event)
    for instance, mask in event.placements:
        server.fleet.instances[instance].busy |= mask
    return answer


def lost_grant(server: Faulty, asked: Asked) -> Answer | None:
    """Answers with a grant, writes it down, and forgets it."""
    answer, event = server.fleet.carry_out(asked, server.time_us)
    if not isinstance(answer, Granted) or event is None or event.expire_us is not None:
        return None
    server.take(event)
    for instance, mask in event.placements:
        server.fleet.instances[instance].busy &= ~mask
    for forgotten in (server.fleet.held, server.fleet.lives):
        forgotten.pop(event.revision)
    server.fleet.tokens.pop(event.token or "")
    return answer


def regrant(server: Faulty, asked: Asked) -> Answer | None:
    """Grants a token anew that was granted before."""
    fleet = server.fleet
    if not isinstance(asked, Acquire) or fleet.tokens.get(asked.token) is None:
        return None
    placements = fleet.place(asked.shapes)
    if placements is None:
        return None
    revision = fleet.revision + 1
    fleet.tokens.pop(asked.token)
    server.take(Event(revision, "GRANTED", server.time_us, revision, placements, None, asked.token))
    return Granted(View(revision, asked.token, HELD, placements, revision), replayed=False)


FAULTS: Final = (double_grant, stale_count, lost_release, lost_grant, regrant)
