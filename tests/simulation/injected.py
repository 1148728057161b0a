"""Faults put into the engine on purpose. Each takes one guard away, and some seed must see that it is gone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final
from weakref import WeakKeyDictionary

import pytest

from blockyard_server.domain import acquire, allocation, placement, release, renew
from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.retention import Forgettable, Retention, forgettable
from blockyard_server.engine import batch, fleet_time, memory
from blockyard_server.engine.batch import Attempt
from blockyard_server.engine.fleet_age import FleetAges, Look
from blockyard_server.engine.fleet_time import Reading
from blockyard_server.engine.halts import Halts
from blockyard_server.engine.memory import FleetMemory
from blockyard_server.engine.store_protocol import StoreFailed
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.unit_of_work import UnitOfWork
from tests.oracle.placement import blocks_of, mask_of
from tests.simulation.database import SimulatedTransaction

Injection = Callable[[pytest.MonkeyPatch], None]


def _unknown_is_success(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(UnitOfWork, "_was_committed", lambda *_: True)


def _unknown_is_failure(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(UnitOfWork, "_was_committed", lambda *_: False)


def _any_event_is_ours(patch: pytest.MonkeyPatch) -> None:
    def look(self: UnitOfWork, fleet: str, written: Sequence[Any], _unknown: object) -> bool:
        with self._store.transaction(fleet) as tx:
            return bool(written) and len(tx.events_after(written[0].revision - 1, len(written))) == len(written)

    patch.setattr(UnitOfWork, "_was_committed", look)


def _failed_commit_is_answered(patch: pytest.MonkeyPatch) -> None:
    attempt = UnitOfWork._attempt

    def answer(self: UnitOfWork, fleet: str, work: Callable[[Attempt], Any], *rest: Any, **named: Any) -> Any:
        decided: list[Any] = []

        def note(under_way: Attempt) -> Any:
            decided.append(work(under_way))
            return decided[-1]

        try:
            return attempt(self, fleet, note, *rest, **named)
        except StoreFailed:
            if decided:
                return decided[-1]
            raise

    patch.setattr(UnitOfWork, "_attempt", answer)


def _memory_is_kept(patch: pytest.MonkeyPatch) -> None:
    begun: dict[int, FleetState] = {}
    current = FleetMemory.current

    def keep_at_once(self: FleetMemory, fleet: str, tx: Any) -> FleetState:
        state = begun[id(self)] = current(self, fleet, tx)
        self.keep(state)
        return state

    patch.setattr(FleetMemory, "current", keep_at_once)
    patch.setattr(FleetMemory, "forget", lambda *_: None)


def _memory_does_not_catch_up(patch: pytest.MonkeyPatch) -> None:
    def believe(state: FleetState, head: Any, _tx: object) -> bool:
        state.revision = head.revision
        return True

    patch.setattr(memory, "_catch_up", believe)


def _ended_a_moment_late(patch: pytest.MonkeyPatch) -> None:
    def ended(expire_time_us: int | None, now_us: int) -> bool:
        return expire_time_us is not None and expire_time_us < now_us

    expire_due = batch._expire_due
    for module in (allocation, release, renew):
        patch.setattr(module, "lease_ended", ended)
    patch.setattr(
        batch, "_expire_due", lambda attempt, *rest: expire_due(replace(attempt, now_us=attempt.now_us - 1), *rest)
    )


def _ended_leases_are_renewed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(renew, "_check_held", lambda *_: None)


def _tokens_before_the_lock(patch: pytest.MonkeyPatch) -> None:
    enter, tokens = SimulatedTransaction.__enter__, SimulatedTransaction.tokens

    def look_first(self: SimulatedTransaction) -> SimulatedTransaction:
        seen[id(self)] = dict(self._rows.tokens)
        return enter(self)

    def answer(self: SimulatedTransaction, keys: Any) -> Any:
        tokens(self, keys)
        return {key: seen[id(self)][key] for key in keys if key in seen[id(self)]}

    seen: dict[int, Any] = {}
    patch.setattr(SimulatedTransaction, "__enter__", look_first)
    patch.setattr(SimulatedTransaction, "tokens", answer)


def _steps_are_not_seen(patch: pytest.MonkeyPatch) -> None:
    def read(_self: object, _fleet: str, head: Any, database_us: int | None, **_: object) -> Reading:
        assert database_us is not None
        return Reading(database_us + (head.clock_offset_us if head else 0))

    unpatched = fleet_time.FleetTimes.read

    def blind(self: Any, fleet: str, head: Any, database_us: int | None, **named: Any) -> Reading:
        own = database_us is None
        return unpatched(self, fleet, head, None, **named) if own else read(self, fleet, head, database_us)

    patch.setattr(fleet_time.FleetTimes, "read", blind)


def _own_clock_decides(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fleet_time.FleetTimes, "read", lambda self, *_, **__: Reading(self.own_us()))


def _no_lease_is_extended(patch: pytest.MonkeyPatch) -> None:
    def extend(_self: UnitOfWork, attempt: Attempt) -> None:
        attempt.extended = True

    patch.setattr(UnitOfWork, "_extend_leases", extend)


def _extended_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    extend = UnitOfWork._extend_leases

    def extend_and_note(self: UnitOfWork, attempt: Attempt) -> None:
        extend(self, attempt)
        bounds = attempt.reading.clock_offset
        if bounds is not None:
            self._times.keep(attempt.state.fleet, bounds)

    patch.setattr(UnitOfWork, "_extend_leases", extend_and_note)


def _nobody_takes_the_time_over(patch: pytest.MonkeyPatch) -> None:
    compared = fleet_time._compared

    def go_on(seen: Any, fresh: Any, asked_us: int) -> Reading:
        if seen.offset_us == fresh.offset_us:
            return compared(seen, fresh, asked_us)
        return Reading(asked_us + seen.most_us + seen.offset_us, clock_offset=seen)

    patch.setattr(fleet_time, "_compared", go_on)


def _time_goes_back(patch: pytest.MonkeyPatch) -> None:
    read = fleet_time.FleetTimes.read

    def forget_latest(*given: Any, latest_us: int, **options: Any) -> Reading:
        return read(*given, latest_us=min(latest_us, 0), **options)

    patch.setattr(fleet_time.FleetTimes, "read", forget_latest)


def _time_is_counted_twice(patch: pytest.MonkeyPatch) -> None:
    since = FleetAges.since

    def count_again(self: FleetAges, fleet: str, look: Look) -> int | None:
        before = self._looks.get(fleet)
        return None if before is None else since(self, fleet, look._replace(age_us=before.age_us))

    patch.setattr(FleetAges, "since", count_again)


def _what_nobody_watched_counts(patch: pytest.MonkeyPatch) -> None:
    """As if a server that starts knew when another one looked last, by the time that the fleet's clock shows."""
    worlds: WeakKeyDictionary[Any, dict[str, tuple[int, int]]] = WeakKeyDictionary()

    def age(self: Transactor, fleet: str, retention: Retention) -> Forgettable:
        looked = worlds.setdefault(self._unit._store.database, {})  # type: ignore[attr-defined]  # the simulated store's

        def grow(attempt: Attempt) -> Forgettable:
            age, clock_us = attempt.tx.age(), attempt.tx.database_time_us or self.times.own_us()
            last_age_us, last_us = looked.get(fleet, (age.age_us, clock_us))
            if age.age_us == last_age_us and clock_us - last_us >= retention.step_us and attempt.tx.head is not None:
                age = age.after(clock_us - last_us, attempt.tx.head.revision, retention)
                attempt.tx.set_age(age)
            if age.age_us != last_age_us or fleet not in looked:
                looked[fleet] = (age.age_us, clock_us)
            return forgettable(age, retention)

        return self.in_transaction(fleet, grow)

    patch.setattr(Transactor, "age", age)


def _halt_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Halts, "check", lambda *_: None)


def _first_end_is_not_noted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FleetState, "_note_lease", lambda *_: None)


def _refused_before_the_sweep_is_done(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(batch, "DEPENDS_ON_PENDING_EXPIRY", ())


def _tokens_are_not_scoped_to_their_end(patch: pytest.MonkeyPatch) -> None:
    def held(self: Allocation, _now_us: int) -> bool:
        return self.expire_time_us is not None or self.end_time_us is None

    patch.setattr(Allocation, "is_held", held)


def _every_intent_is_new(patch: pytest.MonkeyPatch) -> None:
    look_up = batch._look_up

    def forget_half(tx: Any, records: Any, requests: Any) -> None:
        look_up(tx, records, requests)
        records.tokens = {key: known for key, known in records.tokens.items() if known.allocation is not None}

    patch.setattr(batch, "_look_up", forget_half)


def _replay_says_it_is_new(patch: pytest.MonkeyPatch) -> None:
    again = acquire._answer_again
    patch.setattr(acquire, "_answer_again", lambda *given: again(*given)._replace(replayed=False))


def _neighbours_are_not_looked_for(patch: pytest.MonkeyPatch) -> None:
    def lowest(idle: int, count: int) -> int:
        return mask_of(blocks_of(idle)[:count])

    patch.setattr(placement, "choose_blocks", lowest)


INJECTIONS: Final[dict[str, Injection]] = {
    "CommitUnknown is taken for success": _unknown_is_success,
    "CommitUnknown is taken for failure": _unknown_is_failure,
    "another server's event is taken for one's own": _any_event_is_ours,
    "a failed commit is answered as if it had happened": _failed_commit_is_answered,
    "memory is kept after a failed commit": _memory_is_kept,
    "memory does not catch up with other servers": _memory_does_not_catch_up,
    "a lease ends a moment after its end": _ended_a_moment_late,
    "an ended lease is renewed": _ended_leases_are_renewed,
    "tokens are looked up before the lock": _tokens_before_the_lock,
    "steps of the database's clock are not seen": _steps_are_not_seen,
    "each server goes by its own clock": _own_clock_decides,
    "no lease is extended after a start or a step": _no_lease_is_extended,
    "leases count as extended before the commit": _extended_before_the_commit,
    "a server goes on by the time that it had when another has changed it": _nobody_takes_the_time_over,
    "a fleet's time goes back behind its latest event": _time_goes_back,
    "two servers count the same time into a fleet's age": _time_is_counted_twice,
    "what nobody watched counts into a fleet's age": _what_nobody_watched_counts,
    "a halt is ignored": _halt_is_ignored,
    "the first end of a lease is not noted": _first_end_is_not_noted,
    "a refusal does not wait for the sweep": _refused_before_the_sweep_is_done,
    "a token of an ended allocation is answered as held": _tokens_are_not_scoped_to_their_end,
    "a cancelled token is not known": _every_intent_is_new,
    "a replay says that it is new": _replay_says_it_is_new,
    "blocks are chosen without looking for neighbours": _neighbours_are_not_looked_for,
}
"""What is broken, and how."""
