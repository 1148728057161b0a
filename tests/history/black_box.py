"""Checker B: linearizability from the outside, with no knowledge of revisions.

A history can be linearized only if each part of it can that is about one thing. Two kinds of parts are searched:

- the calls about one intent (`intents.py`);
- on each instance, the grants and releases of its blocks (`effects.py`), with all that was seen of it: counts, holders,
  and refusals, which say that there was no room.

An instance's history is searched in windows: a window ends where no change is under way and only one state is possible,
so that the next one begins from a known state. A window that would take too long is skipped, and counted.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from tests.history.effects import Effect, Unsettled, effects_of
from tests.history.intents import Intent, intent_steps, view_in
from tests.history.record import Acquire, Described, Get, History, Listed, Op, Refused, Release, Renew, Shape
from tests.history.search import LIMIT, GaveUp, NoOrder, Search, Step, boundaries, find_order

MAX_VIOLATIONS: Final = 20
"""Then the checker stops."""
IDLE: Final = 0
"""The owner of an idle block."""

Owners = tuple[int, ...]
"""Who has each block of an instance."""
Progress = Callable[[str], None]


@dataclass(slots=True)
class BlackBoxReport:
    """What checker B found."""

    ops: int = 0
    intents: int = 0
    """Small histories of one intent that were searched."""
    intents_skipped: int = 0
    windows: int = 0
    """Windows of instances that were searched."""
    windows_skipped: int = 0
    effects: int = 0
    """Grants and releases on instances, in these windows."""
    sightings: int = 0
    """What was seen of instances, in these windows."""
    unsettled: int = 0
    """Intents of which nobody knows whether they were granted: with any, instances are not searched."""
    violations: list[str] = field(default_factory=list)

    @property
    def linearizable(self) -> bool:
        """Nothing was wrong."""
        return not self.violations


class _Enough(Exception):
    """There are as many violations as anybody reads."""


def check_black_box(history: History, progress: Progress = lambda _: None, limit: int = LIMIT) -> BlackBoxReport:
    """Searches the life of every intent, and the blocks of every instance."""
    check = _Check(history, progress, limit)
    try:
        check.search_intents()
        if not check.report.unsettled:
            check.search_instances()
    except _Enough:
        pass
    return check.report


class _Check:
    def __init__(self, history: History, progress: Progress, limit: int) -> None:
        self._history = history
        self._ops = history.ops
        self._progress = progress
        self._limit = limit
        self.report = BlackBoxReport(ops=len(history.ops))
        self._effects: list[list[Effect]] = [[] for _ in history.sizes]
        self._sightings: list[_Sighting] = []

    def _blame(self, what: str, *numbers: int) -> None:
        self.report.violations.append("; ".join([what, *(str(self._ops[number]) for number in numbers)]))
        if len(self.report.violations) >= MAX_VIOLATIONS:
            raise _Enough

    def search_intents(self) -> None:
        """Searches the calls about each token, and gathers their effects."""
        for ops in self._by_intent():
            self.report.intents += 1
            if self.report.intents % 100_000 == 0:
                self._progress(f"searched {self.report.intents} intents")
            try:
                find_order(intent_steps(ops), Intent(), self._limit)
            except GaveUp:
                self.report.intents_skipped += 1
            except NoOrder:
                self._blame("no order explains the calls about one intent", *(op.number for op in ops))
            try:
                for effect in effects_of(ops):
                    self._effects[effect.instance].append(effect)
            except Unsettled:
                self.report.unsettled += 1

    def _by_intent(self) -> Iterator[list[Op]]:
        """The calls about each token, in the order of their starts."""
        group = self._groups()
        order = sorted((n for n in range(len(group)) if group[n] >= 0), key=group.__getitem__)
        for _, numbers in groupby(order, key=group.__getitem__):
            yield sorted(map(self._ops.__getitem__, numbers), key=lambda op: op.start_ns)

    def _groups(self) -> "array[int]":
        """For each call the number of its intent, or -1. Notes what says something about instances."""
        tokens: dict[str, int] = {}
        of_allocation: dict[int, int] = {}
        group = array("q")
        late: list[tuple[int, int]] = []
        for op in self._ops:
            self._note_sighting(op)
            token = _token(op)
            group.append(-1 if token is None else tokens.setdefault(token, len(tokens)))
            view = view_in(op.answer)
            if view is not None:
                of_allocation.setdefault(view.allocation, group[-1])
            elif token is None and isinstance(op.asked, Release | Renew | Get):
                late.append((op.number, op.asked.allocation or 0))
        for number, allocation in late:
            group[number] = of_allocation.get(allocation, -1)
        return group

    def _note_sighting(self, op: Op) -> None:
        if isinstance(op.answer, Described) and _contradicts_itself(op.answer, self._history.sizes):
            self._blame("the numbers of one answer contradict each other", op.number)
        seen = _sighting(op, self._history.sizes)
        if seen is not None:
            self._sightings.append(seen)

    def search_instances(self) -> None:
        """Searches what happened on each instance, with all that was seen of it."""
        for instance, size in enumerate(self._history.sizes):
            _InstanceSearch(self, instance, size).run(self._steps(instance, size))
            self._progress(f"searched instance {instance}")

    def _steps(self, instance: int, size: int) -> list[Step[Owners]]:
        steps = [
            Step(e.number, e.start_ns, e.end_ns, (_freed if e.frees else _granted)(e.allocation, e.mask))
            for e in self._effects[instance]
        ]
        self.report.effects += len(steps)
        for seen in self._sightings:
            fits = _fits(seen, instance, size)
            if fits is not None:
                self.report.sightings += 1
                steps.append(Step(seen.number, seen.start_ns, seen.end_ns, _read(fits), is_read=True))
        return steps

    def broken(self, instance: int, step: Step[Owners]) -> None:
        """A window without an order."""
        self._blame(f"no order explains what happened on instance {instance}", step.number)

    @property
    def limit(self) -> int:
        """For one search."""
        return self._limit


class _InstanceSearch:
    """One instance's history, window by window."""

    def __init__(self, check: _Check, instance: int, size: int) -> None:
        self._check = check
        self._instance = instance
        self._idle: Owners = (IDLE,) * size
        self._search: Search[Owners] | None = Search(self._idle, check.limit)
        self._under_way: set[Step[Owners]] = set()
        self._ended: list[Step[Owners]] = []
        """Changes since the last known state."""
        self._known = self._idle
        self._is_open = False
        """The window has a change."""

    def run(self, steps: list[Step[Owners]]) -> None:
        """Searches all of it; a window that is broken or too wide is left out."""
        for begins, step in boundaries(steps):
            if begins:
                self._begin(step)
            else:
                self._end(step)
        if self._is_open:
            self._check.report.windows += 1

    def _begin(self, step: Step[Owners]) -> None:
        if not step.is_read:
            self._under_way.add(step)
            self._is_open = True
        if self._search is not None:
            self._search.begin(step)

    def _end(self, step: Step[Owners]) -> None:
        if not step.is_read:
            self._under_way.discard(step)
            self._ended.append(step)
        if self._search is not None and self._search.knows(step):
            try:
                self._search.end(step)
            except GaveUp:
                self._search = None
            except NoOrder:
                self._search = None
                self._check.broken(self._instance, step)
        if not self._under_way and not step.is_read:
            self._close_the_window()

    def _close_the_window(self) -> None:
        """No change is under way, so there is one state: all changes that have begun have happened."""
        if self._search is None:
            self._known = _settle(self._known, self._ended)
            self._search = Search(self._known, self._check.limit)
            self._check.report.windows_skipped += 1
        else:
            (self._known,) = self._search.states()
            self._check.report.windows += 1
        self._ended.clear()
        self._is_open = False


def _settle(state: Owners, changes: list[Step[Owners]]) -> Owners:
    """The state after all changes, in any order that works; those that never fit are left out."""
    waiting = changes
    while waiting:
        left = []
        for step in waiting:
            after = step.apply(state)
            if after is None:
                left.append(step)
            else:
                state = after
        if len(left) == len(waiting):
            return state
        waiting = left
    return state


def _token(op: Op) -> str | None:
    """The intent that a call is about, if it says so."""
    if isinstance(op.asked, Acquire):
        return op.asked.token
    if isinstance(op.asked, Release) and op.asked.token is not None:
        return op.asked.token
    view = view_in(op.answer)
    return None if view is None else view.token


def _contradicts_itself(seen: Described, sizes: tuple[int, ...]) -> bool:
    """Busy and idle blocks are all blocks; the totals are their sums, and the holders have the busy ones."""
    held = [0] * len(sizes)
    for instance, _, mask in seen.holds or ():
        held[instance] += mask.bit_count()
    return (
        any(busy + idle != size for busy, idle, size in zip(seen.busy, seen.idle, sizes, strict=True))
        or (seen.total_busy, seen.total_idle) != (sum(seen.busy), sum(seen.idle))
        or (seen.holds is not None and tuple(held) != seen.busy)
    )


def _granted(allocation: int, mask: int) -> Callable[[Owners], Owners | None]:
    def apply(owners: Owners) -> Owners | None:
        after = list(owners)
        for block, owner in enumerate(owners):
            if mask >> block & 1:
                if owner != IDLE:
                    return None
                after[block] = allocation
        return tuple(after)

    return apply


def _freed(allocation: int, mask: int) -> Callable[[Owners], Owners | None]:
    def apply(owners: Owners) -> Owners | None:
        after = list(owners)
        for block, owner in enumerate(owners):
            if mask >> block & 1:
                if owner != allocation:
                    return None
                after[block] = IDLE
        return tuple(after)

    return apply


def _read(fits: Callable[[Owners], bool]) -> Callable[[Owners], Owners | None]:
    return lambda owners: owners if fits(owners) else None


@dataclass(frozen=True, slots=True)
class _Sighting:
    """What a call says of instances at one moment between its start and its end: one of the last three."""

    number: int
    start_ns: int
    end_ns: int | None
    busy: tuple[int, ...] | None = None
    """How many blocks of each instance."""
    owners: tuple[Owners, ...] | None = None
    """Who has the blocks of each instance."""
    no_room_for: Shape | None = None
    """On no instance."""


def _sighting(op: Op, sizes: tuple[int, ...]) -> _Sighting | None:
    """None: the call says nothing of instances."""
    match op.asked, op.answer:
        case _, Described(holds=None, busy=busy):
            return _Sighting(op.number, op.start_ns, op.end_ns, busy=busy)
        case _, Described(holds=holds):
            return _Sighting(op.number, op.start_ns, op.end_ns, owners=_owners(sizes, holds or ()))
        case _, Listed(views=views):
            held = [(instance, view.allocation, mask) for view in views for instance, mask in view.placements]
            return _Sighting(op.number, op.start_ns, op.end_ns, owners=_owners(sizes, held))
        case Acquire(shapes=(Shape(instances=1) as shape,)), Refused(reason="NO_CAPACITY"):
            return _Sighting(op.number, op.start_ns, op.end_ns, no_room_for=shape)
        case _:
            return None


def _fits(seen: _Sighting, instance: int, size: int) -> Callable[[Owners], bool] | None:
    """Whether it can be seen while an instance has these owners. None: it says nothing of this instance."""
    if seen.busy is not None:
        idle = size - seen.busy[instance]
        return lambda owners: owners.count(IDLE) == idle
    if seen.owners is not None:
        return _shows(seen.owners[instance])
    return None if seen.no_room_for is None else _has_no_room(seen.no_room_for, instance, size)


def _owners(sizes: tuple[int, ...], holds: Iterable[tuple[int, int, int]]) -> tuple[Owners, ...]:
    owners = [[IDLE] * size for size in sizes]
    for instance, allocation, mask in holds:
        for block in range(sizes[instance]):
            if mask >> block & 1:
                owners[instance][block] = allocation
    return tuple([tuple(each) for each in owners])


def _shows(seen: Owners) -> Callable[[Owners], bool]:
    return lambda owners: owners == seen


def _has_no_room(shape: Shape, instance: int, size: int) -> Callable[[Owners], bool] | None:
    if (shape.on is not None and shape.on != instance) or size < shape.blocks:
        return None
    if shape.exclusive:
        return lambda owners: owners.count(IDLE) < size
    return lambda owners: owners.count(IDLE) < shape.blocks
