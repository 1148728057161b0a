"""Checker A: linearizability with the revision as witness.

The answers claim an order: each change names the revision that it made, each read the revision that it saw. This
checker takes the claim at its word and carries all calls out one after the other in that order, on a fleet of its
own (`sequential.py`). Every answer must be what that fleet answers; then the order must agree with real time
(`real_time.py`).

Revisions that no answer names are filled from the journal. Each must be the effect of a call whose answer never
came, or the end of a lease that was due, or the extension of leases by a restart; nothing else may have happened.
"""

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from tests.history.real_time import Positions, Spans
from tests.history.record import (
    CANCELLED,
    HELD,
    RELEASED,
    Acquire,
    Answer,
    Described,
    Event,
    Freed,
    Got,
    Granted,
    History,
    Listed,
    Op,
    Refused,
    Release,
    Renew,
    Renewed,
    Shape,
    View,
)
from tests.history.sequential import Impossible, SequentialFleet

MAX_VIOLATIONS: Final = 20
"""Then the checker stops."""
UNSEEN: Final = -1
"""The revision of a call whose answer names none."""
WITHOUT_CLIENT: Final = {"EXPIRED", "LEASES_EXTENDED"}
"""Changes that a server makes by itself."""
NOTHING_WAS_DONE: Final = {"OVERLOADED"}
"""Refusals that say nothing about the fleet."""

Progress = Callable[[str], None]


@dataclass(slots=True)
class WitnessReport:
    """What checker A found."""

    ops: int = 0
    unknown: int = 0
    """Calls without an answer."""
    took_effect: int = 0
    """Those of them whose effect is in the journal."""
    changes: int = 0
    """Revisions replayed."""
    by_server: Counter[str] = field(default_factory=Counter)
    """Changes that no client asked for, by kind."""
    violations: list[str] = field(default_factory=list)

    @property
    def linearizable(self) -> bool:
        """Nothing was wrong."""
        return not self.violations


class _Enough(Exception):
    """There are as many violations as anybody reads."""


def check_with_witness(history: History, progress: Progress = lambda _: None) -> WitnessReport:
    """Replays a history in the order of its revisions, and compares that order with real time."""
    check = _Check(history, progress)
    try:
        check.read()
        fleet = check.replay()
        if fleet is not None:
            check.place_refusals(fleet)
        check.compare_with_real_time()
    except _Enough:
        pass
    return check.report


class _Check:
    def __init__(self, history: History, progress: Progress) -> None:
        self._history = history
        self._ops = history.ops
        self._progress = progress
        self.report = WitnessReport(ops=len(history.ops))
        self._revisions = array("q")
        self._positions = Positions()
        self._unknown: defaultdict[str | int, list[int]] = defaultdict(list)
        """Changes without an answer by what they are about: a token or an allocation."""
        self._refused: list[int] = []
        self._spans: dict[tuple[Shape, ...], Spans] = {}
        """Where each shape that was refused did not fit."""
        self._open: defaultdict[int, list[int]] = defaultdict(list)
        """Calls that saw an allocation as it has been since its last change."""
        self._late: defaultdict[int, list[int]] = defaultdict(list)
        """Calls that saw a longer lease than that: it must be extended before the next change."""

    def _blame(self, what: str, *ops: Op | None) -> None:
        self.report.violations.append("; ".join([what, *(str(op) for op in ops if op is not None)]))
        if len(self.report.violations) >= MAX_VIOLATIONS:
            raise _Enough

    def read(self) -> None:
        """Takes the times, and which revision each answer claims."""
        for op in self._ops:
            self._positions.add(op.start_ns, op.end_ns)
            self._revisions.append(revision_of(op.answer))
            if op.answer is None:
                self.report.unknown += 1
                if isinstance(op.asked, Acquire | Release | Renew):
                    self._unknown[_about(op.asked)].append(op.number)
            elif isinstance(op.answer, Refused):
                self._refused.append(op.number)
                if isinstance(op.asked, Acquire) and op.answer.reason == "NO_CAPACITY":
                    self._spans.setdefault(op.asked.shapes, Spans())

    def replay(self) -> SequentialFleet | None:
        """Carries out all calls in the order of the revisions. The fleet in the end; None if it broke off."""
        claims = _Claims(self._revisions)
        fleet: SequentialFleet | None = None
        for event in self._history.journal:
            if fleet is None:
                fleet = self._first_fleet(event.revision - 1, claims)
            self.report.changes += 1
            if self.report.changes % 100_000 == 0:
                self._progress(f"replayed {self.report.changes} changes")
            group = [self._ops[number] for number in claims.take(event.revision)]
            maker = self._maker(fleet, event, group)
            if not self._change(fleet, event, maker):
                return None
            for op in group:
                if op is not maker:
                    self._look(fleet, op)
        fleet = self._first_fleet(0, claims) if fleet is None else fleet
        for number in claims.rest():
            self._blame("the answer names a revision that the journal does not have", self._ops[number])
        for allocation in list(self._late):
            self._close(allocation, fleet.revision + 1)
        return fleet

    def _first_fleet(self, revision: int, claims: "_Claims") -> SequentialFleet:
        """The fleet before the first change, and what was seen of it."""
        fleet = SequentialFleet(self._history.sizes, revision)
        for shapes, spans in self._spans.items():
            spans.note(revision, is_so=not fleet.fits(shapes))
        for number in claims.take(revision):
            self._look(fleet, self._ops[number])
        return fleet

    def _maker(self, fleet: SequentialFleet, event: Event, group: list[Op]) -> Op | None:
        """The call that made this change: the one that says so, or the earliest that may have."""
        certain = [op for op in group if _says_it_made(op, event)]
        if len(certain) > 1:
            self._blame(f"two answers claim revision {event.revision}", *certain)
        if certain:
            return certain[0]
        about: list[str | int | None] = [event.token, event.allocation]
        if event.allocation in fleet.lives:
            about.append(fleet.lives[event.allocation].token)
        unknown = [
            op
            for key in about
            if key is not None
            for op in map(self._ops.__getitem__, self._unknown.get(key, ()))
            if fleet.carry_out(op.asked, event.time_us)[1] == event
        ]
        possible = [op for op in group if _may_have_made(op, event)]
        return min(possible + unknown, key=lambda op: op.start_ns, default=None)

    def _change(self, fleet: SequentialFleet, event: Event, maker: Op | None) -> bool:
        """Takes on an event. Answers whether the replay can go on."""
        answer: Answer | None = None
        if maker is not None:
            answer, expected = fleet.carry_out(maker.asked, event.time_us)
            if expected != event:
                self._blame(f"the journal has {event}, and a replay gives {expected or answer}", maker)
            self._positions.allow(maker.number, 2 * event.revision, 2 * event.revision)
            if maker.answer is None and isinstance(maker.asked, Acquire | Release | Renew):
                self.report.took_effect += 1
                self._unknown[_about(maker.asked)].remove(maker.number)
        elif event.kind in WITHOUT_CLIENT:
            self.report.by_server[event.kind] += 1
        else:
            self._blame(f"nobody asked for {event}")
        if not self._apply(fleet, event, maker):
            return False
        if maker is not None and maker.answer not in {None, answer}:
            self._blame(f"a replay answers {answer}", maker)
        if event.placements:
            touched = {instance for instance, _ in event.placements}
            for shapes, spans in self._spans.items():
                if len(shapes) > 1 or shapes[0].on is None or shapes[0].on in touched:
                    spans.note(event.revision, is_so=not fleet.fits(shapes))
        return True

    def _apply(self, fleet: SequentialFleet, event: Event, maker: Op | None) -> bool:
        """The event happens. Answers whether it can."""
        leases = {name: life.expire_us for name, life in fleet.held.items()} if event.kind == "LEASES_EXTENDED" else {}
        try:
            fleet.apply(event)
        except Impossible as impossible:
            self._blame(f"revision {event.revision} cannot follow: {impossible}", maker)
            return False
        self._close(event.allocation or 0, event.revision)
        for allocation, expire_us in leases.items():
            if fleet.lives[allocation].expire_us != expire_us:
                self._extend(fleet, allocation)
        return True

    def _close(self, allocation: int, revision: int) -> None:
        """Whoever saw the allocation as it was, saw it before this change."""
        for number in self._open.pop(allocation, ()):
            self._positions.most[number] = 2 * revision - 1
        for number in self._late.pop(allocation, ()):
            self._blame("no lease was ever as long as this answer says", self._ops[number])

    def _extend(self, fleet: SequentialFleet, allocation: int) -> None:
        """A restart has extended a lease, which is no change of the allocation's revision."""
        late = self._late.pop(allocation, [])
        self._close(allocation, fleet.revision)
        for number in late:
            told = _view_of(self._ops[number].answer)
            if told is not None and told.expire_us == fleet.lives[allocation].expire_us:
                self._positions.allow(number, 2 * fleet.revision + 1)
                self._open[allocation].append(number)
            else:
                self._late[allocation].append(number)

    def _look(self, fleet: SequentialFleet, op: Op) -> None:
        """A call that changed nothing, at a revision that its answer names: the fleet's, or an allocation's last."""
        answer, event = fleet.carry_out(op.asked, fleet_time_us(op.answer, fleet))
        told, expected = _view_of(op.answer), _view_of(answer)
        is_late = event is None and told is not None and expected is not None and told.expire_us != expected.expire_us
        if is_late and told is not None and op.answer is not None and answer is not None:
            answer = _with_lease(answer, told)
        if event is not None or op.answer != answer:
            self._blame(f"at revision {fleet.revision} a replay answers {answer} with {event}", op)
        position = 2 * fleet.revision + 1
        if isinstance(op.answer, Described | Listed):
            self._positions.allow(op.number, position, position)
            return
        self._positions.allow(op.number, position)
        if told is not None and told.state == HELD:
            (self._late if is_late else self._open)[told.allocation].append(op.number)
        elif is_late:
            self._blame("the lease of what has ended is another", op)

    def place_refusals(self, fleet: SequentialFleet) -> None:
        """Where each refusal may have been right."""
        for number in self._refused:
            op = self._ops[number]
            assert isinstance(op.answer, Refused)
            if op.answer.reason in NOTHING_WAS_DONE:
                continue
            since = _since(fleet, op)
            if since is not None:
                self._positions.allow(number, 2 * since + 1)
            elif isinstance(op.asked, Acquire) and op.answer.reason == "NO_CAPACITY":
                self._positions.spans[number] = self._spans[op.asked.shapes]
                used = fleet.cancelled.get(op.asked.token) or fleet.tokens.get(op.asked.token)
                if used is not None:
                    self._positions.most[number] = 2 * used - 1
            else:
                self._blame("nothing explains this refusal", op)

    def compare_with_real_time(self) -> None:
        """What ended before another began must not come after it."""
        self._progress("comparing with real time")
        for number, earlier in self._positions.out_of_order():
            self._blame(
                "the order of the revisions contradicts real time",
                self._ops[number],
                None if earlier is None else self._ops[earlier],
            )


class _Claims:
    """Which calls name which revision, handed out in ascending order."""

    def __init__(self, revisions: "array[int]") -> None:
        self._revisions = revisions
        self._order = array("q", sorted(range(len(revisions)), key=revisions.__getitem__))
        self._place = 0
        while self._place < len(self._order) and revisions[self._order[self._place]] == UNSEEN:
            self._place += 1

    def take(self, revision: int) -> Iterator[int]:
        """The calls that name this revision."""
        while self._place < len(self._order) and self._revisions[self._order[self._place]] == revision:
            self._place += 1
            yield self._order[self._place - 1]

    def rest(self) -> "array[int]":
        """Those that were never taken: the first such call stops the others behind it."""
        return self._order[self._place :]


def revision_of(answer: Answer | None) -> int:
    """The revision that an answer names, or UNSEEN."""
    match answer:
        case Freed() | Described() | Listed():
            return answer.revision
        case Granted() | Renewed() | Got():
            return answer.view.revision
        case _:
            return UNSEEN


def fleet_time_us(answer: Answer | None, fleet: SequentialFleet) -> int:
    """A time at which a renewal that changed nothing would have changed nothing: its lease was as long already."""
    if isinstance(answer, Renewed) and answer.view.allocation in fleet.lives:
        life = fleet.lives[answer.view.allocation]
        if life.expire_us is not None and life.ttl_us is not None:
            return life.expire_us - life.ttl_us
    return 0


def _about(asked: Acquire | Release | Renew) -> str | int:
    if isinstance(asked, Acquire):
        return asked.token
    if isinstance(asked, Renew):
        return asked.allocation
    about = asked.allocation if asked.token is None else asked.token
    assert about is not None
    return about


def _says_it_made(op: Op, event: Event) -> bool:
    match op.answer:
        case Granted():
            return not op.answer.replayed and event.kind == "GRANTED"
        case Freed():
            return op.answer.outcome == RELEASED and event.kind == "RELEASED"
        case _:
            return False


def _may_have_made(op: Op, event: Event) -> bool:
    """Answers that do not tell whether it was this call that made the change, or one before it."""
    match op.answer:
        case Freed():
            return op.answer.outcome == CANCELLED and event.kind == "TOKEN_CANCELLED"
        case Renewed():
            return event.kind == "RENEWED"
        case _:
            return False


def _since(fleet: SequentialFleet, op: Op) -> int | None:
    """The revision from which on a refusal is right for ever."""
    assert isinstance(op.answer, Refused)
    if op.answer.reason == "TOKEN_CANCELLED" and isinstance(op.asked, Acquire):
        return fleet.cancelled.get(op.asked.token)
    allocation = op.answer.allocation
    states: dict[str, tuple[str, ...]] = {}
    if isinstance(op.asked, Acquire) and fleet.tokens.get(op.asked.token) == allocation:
        states = {"ALLOCATION_ENDED": ("RELEASED", "EXPIRED")}
    elif isinstance(op.asked, Renew) and op.asked.allocation == allocation:
        states = {"ALLOCATION_ENDED": ("RELEASED",), "LEASE_EXPIRED": ("EXPIRED",)}
    life = None if allocation is None else fleet.lives.get(allocation)
    if life is None or life.state not in states.get(op.answer.reason, ()):
        return None
    return life.revision


def _view_of(answer: Answer | None) -> View | None:
    return answer.view if isinstance(answer, Granted | Freed | Renewed | Got) else None


def _with_lease(answer: Answer, told: View) -> Answer:
    """The same answer, with the end of the lease that another one tells."""
    assert isinstance(answer, Granted | Freed | Renewed | Got)
    assert answer.view is not None
    return replace(answer, view=replace(answer.view, expire_us=told.expire_us))
