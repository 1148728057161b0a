"""What each answer has to be, given the books before it and the events that came with it."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

from blockyard_server.domain.allocation import Allocation, AllocationState
from blockyard_server.domain.answers import (
    Deleted,
    FleetRecord,
    Grant,
    InstanceRecord,
    ReleaseAnswer,
    ReleaseOutcome,
    Renewal,
)
from blockyard_server.domain.errors import (
    AllocationEnded,
    AllocationNotFound,
    InstanceExists,
    InstanceInUse,
    InstanceNotFound,
    LeaseExpired,
    NoCapacity,
    Refused,
    TokenCancelled,
    TokenMismatch,
    Unsatisfiable,
)
from blockyard_server.domain.events import (
    Event,
    Expired,
    FleetCreated,
    FleetUpdated,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceUpdated,
    Released,
    Renewed,
    TokenWasCancelled,
)
from blockyard_server.domain.requests import (
    Acquire,
    CreateFleet,
    CreateInstance,
    DeleteInstance,
    Release,
    Renew,
    Request,
    UpdateFleet,
    UpdateInstance,
)
from blockyard_server.engine.batch import Outcome, RetryNextBatch
from tests.oracle import placement
from tests.oracle.domain_types import placements, plain_demand
from tests.simulation.books import FleetRecords
from tests.simulation.kernel import Violation

HELD = AllocationState.HELD
_REFUSALS: Final[dict[type[object], type[Refused]]] = {
    placement.Unsatisfiable: Unsatisfiable,
    placement.NoCapacity: NoCapacity,
}
_WAIT_FOR_THE_SWEEP = (NoCapacity, InstanceInUse, LeaseExpired, AllocationEnded)

E = TypeVar("E", bound=Event)


class Replay:
    """Goes through one transaction: the events change the books, and each answer is held against them."""

    def __init__(self, books: FleetRecords, events: Iterable[Event], now_us: int) -> None:
        self._books = books
        self._events = deque(events)
        self._now_us = now_us

    def sweep(self, most: int) -> bool:
        """The transaction begins with a sweep. Answers whether it may have left something."""
        due = self._books.due(self._now_us)[:most]
        for allocation in due:
            if self._next(Expired).allocation != allocation:
                raise Violation(f"allocation {allocation} is the next to be swept, and another one is")
        return len(due) == most

    def answer(self, requests: Sequence[Request], outcomes: Sequence[Outcome], *, more_due: bool) -> None:
        """The transaction carries out requests."""
        if len(requests) != len(outcomes):
            raise Violation(f"{len(outcomes)} answers to {len(requests)} requests")
        for number, (request, outcome) in enumerate(zip(requests, outcomes, strict=True)):
            expected = self._expect(request)
            if more_due and isinstance(expected, type) and issubclass(expected, _WAIT_FOR_THE_SWEEP):
                if not all(isinstance(left, RetryNextBatch) for left in outcomes[number:]):
                    raise Violation(f"{request} was answered with {outcome}, and leases are still to be swept")
                return
            if not _agree(expected, outcome):
                raise Violation(f"{request} was answered with {outcome!r}, and has to be {expected}")

    def end(self) -> None:
        """Every event has its reason."""
        if self._events:
            raise Violation(f"events that no request asked for: {list(self._events)}")

    def _next(self, kind: type[E]) -> E:
        if not self._events or not isinstance(self._events[0], kind):
            raise Violation(f"an event {kind.__name__} is missing before {list(self._events)}")
        event: E = self._events.popleft()  # type: ignore[assignment]  # it is what was looked for, as seen above
        self._books.apply(event)
        return event

    def _expect(self, request: Request) -> object:
        return _EXPECTED[type(request)](self, request)

    def _create_fleet(self, _request: CreateFleet) -> object:
        self._next(FleetCreated)
        return FleetRecord

    def _acquire(self, request: Acquire) -> object:
        key = (request.caller, request.token)
        if key in self._books.tokens:
            number = self._books.tokens[key]
            if number is None:
                return TokenCancelled
            if self._books.asked[key] != request:
                return TokenMismatch
            known = self._books.allocations[number]
            return (known, known.revision, True) if self._is_held(known) else AllocationEnded
        expected = self._place(request)
        if not isinstance(expected, placement.Placed):
            return _REFUSALS[type(expected)]
        event = self._next(Granted)
        if (event.placements, event.exclusive) != (placements(expected), expected.exclusive):
            raise Violation(f"{request} is granted {event.placements}, and has to be {expected}")
        ttl_us = self._ttl_us(request.ttl_us)
        expire_time_us = None if ttl_us is None else self._now_us + ttl_us
        said = (event.caller, event.token, event.holder, event.ttl_us, event.expire_time_us)
        if said != (request.caller, request.token, request.holder, ttl_us, expire_time_us):
            raise Violation(f"{request} is granted as {event}")
        self._books.asked[key] = request
        return (self._books.allocations[event.revision], event.revision, False)

    def _place(self, request: Acquire) -> placement.Placed[str] | placement.Unsatisfiable | placement.NoCapacity:
        assert self._books.fields is not None
        strategy = request.strategy or self._books.fields.default_placement_strategy
        return placement.place(self._books.fleet(), [plain_demand(each) for each in request.demands], strategy)

    def _ttl_us(self, asked_us: int | None) -> int | None:
        fields = self._books.fields
        assert fields is not None
        times = [fields.default_ttl_us if asked_us is None else asked_us, fields.max_ttl_us]
        return min((time for time in times if time is not None), default=None)

    def _is_held(self, allocation: Allocation) -> bool:
        ended = allocation.expire_time_us is not None and allocation.expire_time_us <= self._now_us
        return allocation.state is HELD and not ended

    def _release(self, request: Release) -> object:
        number = request.allocation
        if request.token is not None:
            key = (request.caller, request.token)
            if key not in self._books.tokens:
                self._next(TokenWasCancelled)
            number = self._books.tokens[key]
            if number is None:
                return ReleaseOutcome.CANCELLED_BEFORE_GRANT
        if number not in self._books.allocations:
            return AllocationNotFound
        was = self._books.allocations[number]
        if was.state is not HELD:
            already = {AllocationState.RELEASED: ReleaseOutcome.ALREADY_RELEASED}
            return already.get(was.state, ReleaseOutcome.ALREADY_EXPIRED)
        if not self._is_held(was):
            self._next(Expired)
            return ReleaseOutcome.ALREADY_EXPIRED
        has = {(name, block) for name, blocks in was.placements for block in blocks}
        wanted = {(name, block) for name, blocks in request.placements for block in blocks} or has
        if not has & wanted:
            return ReleaseOutcome.ALREADY_RELEASED
        event = self._next(Released)
        if {(name, block) for name, blocks in event.freed for block in blocks} != has & wanted:
            raise Violation(f"{request} frees {event.freed}")
        return ReleaseOutcome.RELEASED

    def _renew(self, request: Renew) -> object:
        was = self._books.allocations.get(request.allocation)
        if was is None:
            return AllocationNotFound
        if was.state is AllocationState.RELEASED:
            return AllocationEnded
        if not self._is_held(was):
            return LeaseExpired
        if was.expire_time_us is not None and was.ttl_us is not None:
            ttl_us = self._ttl_us(request.ttl_us or was.ttl_us)
            assert ttl_us is not None
            if self._now_us + ttl_us > was.expire_time_us:
                event = self._next(Renewed)
                if (event.allocation, event.expire_time_us) != (request.allocation, self._now_us + ttl_us):
                    raise Violation(f"{request} is renewed as {event}")
        return self._books.allocations[request.allocation]

    def _register(self, request: CreateInstance) -> object:
        there = self._books.instances.get(request.instance)
        if there is None:
            there = self._next(InstanceCreated).fields
        return InstanceRecord if replace(there, state=request.fields.state) == request.fields else InstanceExists

    def _update(self, request: UpdateInstance) -> object:
        fields = self._books.instances.get(request.instance)
        if fields is None:
            return InstanceNotFound
        total = request.changes.get("total_blocks", fields.total_blocks)
        state = request.changes.get("state", fields.state)
        assert isinstance(total, int)
        if any(name == request.instance and block >= total for name, block in self._books.held):
            return InstanceInUse
        if (total, state) != (fields.total_blocks, fields.state):
            event = self._next(InstanceUpdated)
            if (event.fields.total_blocks, event.fields.state) != (total, state):
                raise Violation(f"{request} makes it {event.fields}")
        return InstanceRecord

    def _update_fleet(self, request: UpdateFleet) -> object:
        assert self._books.fields is not None
        changes: dict[str, Any] = dict(request.changes)
        fields = replace(self._books.fields, **changes)
        if fields != self._books.fields and self._next(FleetUpdated).fields != fields:
            raise Violation(f"{request} makes it {self._books.fields}")
        return FleetRecord

    def _delete(self, request: DeleteInstance) -> object:
        if request.instance not in self._books.instances:
            return InstanceNotFound
        if any(name == request.instance for name, _ in self._books.held):
            return InstanceInUse
        self._next(InstanceDeleted)
        return Deleted


_EXPECTED: Final[dict[type[Request], Callable[[Replay, Any], object]]] = {
    Acquire: Replay._acquire,
    Release: Replay._release,
    Renew: Replay._renew,
    CreateFleet: Replay._create_fleet,
    UpdateFleet: Replay._update_fleet,
    CreateInstance: Replay._register,
    UpdateInstance: Replay._update,
    DeleteInstance: Replay._delete,
}


def _agree(expected: object, outcome: Outcome) -> bool:
    match expected, outcome:
        case (ReleaseOutcome(), ReleaseAnswer()):
            return outcome.outcome is expected
        case (Allocation(), Renewal()):
            return outcome.view.allocation == expected
        case ((allocation, revision, replayed), Grant()):
            return (outcome.view.allocation, outcome.revision, outcome.replayed) == (allocation, revision, replayed)
        case (type(), _):
            return isinstance(outcome, expected)
        case _:
            return False
