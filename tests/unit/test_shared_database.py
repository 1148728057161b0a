"""Servers on one database: conflicts, commits whose end got lost, halts that all know of, and one time for all."""

from dataclasses import replace

import pytest

from blockyard_server.domain.answers import Grant, ReleaseAnswer, ReleaseOutcome
from blockyard_server.domain.errors import AllocationEnded, LeaseExpired
from blockyard_server.domain.events import LeasesExtended
from blockyard_server.domain.repair import Plan
from blockyard_server.domain.requests import (
    CreateFleet,
    CreateInstance,
    FleetFields,
    InstanceFields,
    Release,
    Renew,
    Request,
)
from blockyard_server.engine.batch import Outcome
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.failures import InvariantViolated, StoreUnavailable
from blockyard_server.engine.fleet_time import BACKWARD_TOLERANCE_US
from blockyard_server.engine.repair import Planned, Repairer
from blockyard_server.engine.store_protocol import CommitUnknown, InvariantBroken, StoreConflict, StoreFailed
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.unit_of_work import MAX_ATTEMPTS
from tests.unit.engine_stories import acquire, engine_over, filled_store, once
from tests.unit.hooked_store import HookedStore

SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
DAY_US = 24 * HOUR_US


class Server:
    """A server's write side on a database that it shares; its own clock says nothing about the time."""

    def __init__(self, store: HookedStore, clock: ManualClock, *, ahead_us: int = 0) -> None:
        self.store = store
        self.clock = clock
        self.transactor = Transactor(store, _Ahead(clock, ahead_us), grace_s=3600.0)

    def ask(self, *requests: Request) -> list[Outcome]:
        """The outcomes of one batch."""
        return self.transactor.carry_out("gpu", requests)

    def grant(self, token: str, ttl_us: int | None = None) -> int:
        """Acquires a block, and answers the allocation."""
        (outcome,) = self.ask(acquire(token, ttl_us=ttl_us))
        assert isinstance(outcome, Grant)
        return outcome.view.allocation.allocation


class _Ahead:
    """A server's own clock: runs like all others, from wherever it was set."""

    def __init__(self, clock: ManualClock, ahead_us: int) -> None:
        self._clock = clock
        self._ahead_us = ahead_us

    def now_us(self) -> int:
        return self._clock.now_us() + self._ahead_us


class Shared:
    """A database with a clock that can be set, and servers on it. Time passes for all of them alike."""

    def __init__(self) -> None:
        self.store = filled_store()
        self.clock = ManualClock()
        self.set_by_us = 0
        self.store.database_time_us = lambda: self.clock.now_us() + self.set_by_us

    def held_up_after_the_clock_was_read(self, by_us: int) -> None:
        """The next transaction's server gets its answer so much later."""
        read = self.store.database_time_us
        assert read is not None

        def slowly() -> int | None:
            shown_us = read()
            self.store.database_time_us = read
            self.clock.advance(by_us)
            return shown_us

        self.store.database_time_us = slowly

    def server(self, *, ahead_us: int = 0) -> Server:
        """One more server."""
        return Server(self.store, self.clock, ahead_us=ahead_us)


@pytest.fixture
def shared() -> Shared:
    return Shared()


async def test_what_is_old_is_told_by_the_time_of_each_fleet_and_not_by_that_of_another(shared: Shared) -> None:
    engine = engine_over(shared.store, shared.clock)
    await engine.start()
    await engine.submit(acquire("ended"))
    await engine.submit(Release("gpu", "slurm", token="ended"))
    shared.set_by_us = 30 * DAY_US  # farther than any retention
    await engine.submit(CreateFleet("young", FleetFields()))
    await engine.submit(CreateInstance("young", "n1", InstanceFields(8)))

    await engine._sweeper.round()

    with pytest.raises(AllocationEnded):
        await engine.submit(acquire("ended"))
    await engine.stop()


async def test_a_lease_that_ended_is_swept_while_another_fleets_time_is_behind(shared: Shared) -> None:
    engine = engine_over(shared.store, shared.clock)
    await engine.start()
    await engine.submit(acquire("held"))
    shared.set_by_us = 30 * DAY_US
    await engine.submit(acquire("held again"))
    await engine.submit(CreateFleet("young", FleetFields()))
    await engine.submit(CreateInstance("young", "n1", InstanceFields(8)))
    leased = replace(acquire("leased", ttl_us=SECOND_US), fleet="young")
    await engine.submit(leased)
    shared.clock.advance(2 * SECOND_US)
    await engine.submit(acquire("held for long"))

    await engine._sweeper.round()

    assert shared.store.rows["young"].held == {}
    await engine.stop()


def test_a_transaction_that_the_database_ended_for_another_is_run_again(shared: Shared) -> None:
    server = shared.server()
    shared.store.before_commit = once(StoreConflict("deadlock detected"))

    assert server.grant("a") in shared.store.rows["gpu"].allocations
    assert len(shared.store.rows["gpu"].held) == 1


def test_a_transaction_that_is_ended_again_and_again_is_given_up_and_changes_nothing(shared: Shared) -> None:
    attempts: list[str] = []

    def refuse(fleet: str) -> None:
        attempts.append(fleet)
        raise StoreConflict("deadlock detected")

    shared.store.before_commit = refuse

    with pytest.raises(StoreUnavailable):
        shared.server().ask(acquire("a"))

    assert len(attempts) == MAX_ATTEMPTS
    assert shared.store.rows["gpu"].held == {}


def test_a_commit_whose_answer_was_lost_is_found_in_the_journal_and_its_answers_stand(shared: Shared) -> None:
    server = shared.server()
    allocation = server.grant("a")
    shared.store.after_commit = once(CommitUnknown("the connection was lost"))

    granted, released = server.ask(acquire("b"), Release("gpu", "slurm", allocation=allocation))

    assert isinstance(granted, Grant)
    assert not granted.replayed
    assert isinstance(released, ReleaseAnswer)
    assert released.outcome is ReleaseOutcome.RELEASED
    assert len(shared.store.rows["gpu"].held) == 1


def test_a_commit_that_did_not_happen_is_not_found_and_is_made_again(shared: Shared) -> None:
    server = shared.server()
    shared.store.before_commit = once(CommitUnknown("the connection was lost"))

    (granted,) = server.ask(acquire("a"))

    assert isinstance(granted, Grant)
    assert not granted.replayed
    assert len(shared.store.rows["gpu"].held) == 1


def test_another_servers_event_at_the_same_revision_is_not_taken_for_a_lost_commit(shared: Shared) -> None:
    first, second = shared.server(), shared.server()
    first.grant("a")
    shared.store.before_commit = once(CommitUnknown("the connection was lost"))
    looks = iter(["the attempt", "the look into the journal"])

    def overtake(_fleet: str) -> None:
        if next(looks, "") == "the look into the journal":
            second.grant("b")

    shared.store.before_begin = overtake

    (granted,) = first.ask(acquire("c"))

    assert isinstance(granted, Grant)
    assert {a.token for a in shared.store.rows["gpu"].allocations.values()} == {"a", "b", "c"}
    assert len(shared.store.rows["gpu"].held) == 3


def test_while_the_clock_is_behind_another_servers_same_event_is_not_taken_for_a_lost_commit(shared: Shared) -> None:
    first, second = shared.server(), shared.server()
    first.grant("a")
    lease = second.grant("b")
    release = Release("gpu", "slurm", allocation=lease)
    shared.set_by_us = -5 * SECOND_US
    shared.store.before_commit = once(CommitUnknown("the connection was lost"))
    looks = iter(["the attempt", "the look into the journal"])

    def overtake(_fleet: str) -> None:
        if next(looks, "") == "the look into the journal":
            second.ask(release)

    shared.store.before_begin = overtake

    with pytest.raises(StoreUnavailable):
        first.ask(release)
    (again,) = first.ask(release)
    assert isinstance(again, ReleaseAnswer)
    assert again.outcome is ReleaseOutcome.ALREADY_RELEASED


def test_while_the_end_of_a_commit_cannot_be_read_nobody_is_answered(shared: Shared) -> None:
    server = shared.server()
    shared.store.after_commit = once(CommitUnknown("the connection was lost"))
    begins = iter([None, StoreFailed("no connection")])

    def begin(_fleet: str) -> None:
        failure = next(begins, None)
        if failure is not None:
            raise failure

    shared.store.before_begin = begin

    with pytest.raises(StoreUnavailable):
        server.ask(acquire("a"))

    (replay,) = server.ask(acquire("a"))
    assert isinstance(replay, Grant)
    assert replay.replayed


def test_a_fleet_that_one_server_halts_is_halted_for_all_and_after_a_start(shared: Shared) -> None:
    first, second = shared.server(), shared.server()
    second.grant("a")
    shared.store.before_write = once(InvariantBroken("UNIQUE constraint failed"))

    for server in (first, second, shared.server()):
        with pytest.raises(InvariantViolated):
            server.ask(acquire("b"))

    assert shared.store.rows["gpu"].halted


def test_a_halt_that_cannot_be_recorded_holds_here_and_is_recorded_later(shared: Shared) -> None:
    first, second = shared.server(), shared.server()
    shared.store.before_write = once(InvariantBroken("UNIQUE constraint failed"))
    begins = iter([None, StoreFailed("no connection")])

    def begin(_fleet: str) -> None:
        failure = next(begins, None)
        if failure is not None:
            raise failure

    shared.store.before_begin = begin

    with pytest.raises(InvariantViolated):
        first.ask(acquire("a"))
    assert not shared.store.rows["gpu"].halted
    with pytest.raises(InvariantViolated):
        first.ask(acquire("a"))
    with pytest.raises(InvariantViolated):
        second.ask(acquire("a"))


def test_a_server_whose_own_clock_is_an_hour_ahead_ends_no_lease_early(shared: Shared) -> None:
    right, ahead = shared.server(), shared.server(ahead_us=HOUR_US)
    ahead.grant("greets")
    lease = right.grant("lease", ttl_us=60 * SECOND_US)

    shared.clock.advance(60 * SECOND_US - 1)
    (renewed,) = ahead.ask(Renew("gpu", lease))
    assert not isinstance(renewed, LeaseExpired)

    shared.clock.advance(60 * SECOND_US)
    (late,) = ahead.ask(Renew("gpu", lease))
    assert isinstance(late, LeaseExpired)


@pytest.mark.parametrize("by_us", [HOUR_US, -HOUR_US, 2 * SECOND_US])
def test_a_step_of_the_databases_clock_is_taken_out_of_the_fleets_time(shared: Shared, by_us: int) -> None:
    first, second = shared.server(), shared.server()
    lease = first.grant("lease", ttl_us=60 * SECOND_US)
    second.grant("other")

    shared.set_by_us = by_us
    shared.clock.advance(59 * SECOND_US)
    for server in (first, second):
        (renewed,) = server.ask(Renew("gpu", lease))
        assert not isinstance(renewed, LeaseExpired), "the clock was set, and no time has passed"
    shared.clock.advance(60 * SECOND_US)
    (late,) = second.ask(Renew("gpu", lease))
    assert isinstance(late, LeaseExpired)


def test_a_small_step_back_is_waited_out(shared: Shared) -> None:
    server = shared.server()
    lease = server.grant("lease", ttl_us=60 * SECOND_US)

    shared.set_by_us = -BACKWARD_TOLERANCE_US
    shared.clock.advance(60 * SECOND_US)
    (renewed,) = server.ask(Renew("gpu", lease))

    assert not isinstance(renewed, LeaseExpired), "it ends late, and never early"


def test_a_server_extends_the_leases_of_a_fleet_that_it_meets_for_the_first_time(shared: Shared) -> None:
    lease = shared.server().grant("lease", ttl_us=60 * SECOND_US)

    shared.set_by_us = HOUR_US
    newcomer = shared.server()
    (renewed,) = newcomer.ask(Renew("gpu", lease))

    assert not isinstance(renewed, LeaseExpired)
    assert [e for e in shared.store.rows["gpu"].journal if isinstance(e, LeasesExtended)]


@pytest.mark.parametrize("was_wide", [False, True])
def test_how_long_a_server_was_held_up_before_its_transaction_is_not_added_to_the_fleets_time(
    shared: Shared, *, was_wide: bool
) -> None:
    server, other = shared.server(), shared.server()
    if was_wide:
        other.transactor.refresh_clock("gpu")
        shared.held_up_after_the_clock_was_read(SECOND_US)
    server.transactor.refresh_clock("gpu")
    leases = []

    def held_up(_fleet: str) -> None:
        shared.store.before_begin = lambda _fleet: None
        shared.clock.advance(20 * SECOND_US)
        leases.append(other.grant("meanwhile", ttl_us=30 * SECOND_US))

    shared.store.before_begin = held_up
    server.transactor.refresh_clock("gpu")
    shared.clock.advance(29 * SECOND_US)

    (renewed,) = server.ask(Renew("gpu", leases[0]))
    assert not isinstance(renewed, LeaseExpired)
    assert shared.store.rows["gpu"].clock_offset_us < SECOND_US


@pytest.mark.parametrize(("idle_us", "step_us"), [(HOUR_US, 3 * SECOND_US), (DAY_US, 80 * SECOND_US)])
def test_a_server_that_has_not_looked_for_long_extends_what_a_step_may_have_ended(
    shared: Shared, idle_us: int, step_us: int
) -> None:
    idle, busy = shared.server(), shared.server()
    for server in (idle, busy, idle, busy):
        server.transactor.refresh_clock("gpu")
    shared.clock.advance(idle_us)
    lease = busy.grant("lease", ttl_us=2 * SECOND_US)

    shared.set_by_us = step_us

    (renewed,) = idle.ask(Renew("gpu", lease))
    assert not isinstance(renewed, LeaseExpired)


def test_small_steps_back_that_add_up_do_not_stop_the_time(shared: Shared) -> None:
    server = shared.server()
    server.grant("before", ttl_us=SECOND_US)
    for _ in range(6):
        shared.set_by_us -= 9 * SECOND_US
        shared.clock.advance(SECOND_US // 2)
        server.transactor.refresh_clock("gpu")
    lease = server.grant("lease", ttl_us=SECOND_US)

    shared.clock.advance(SECOND_US)

    (late,) = server.ask(Renew("gpu", lease))
    assert isinstance(late, LeaseExpired)


def test_a_repair_at_an_uncertain_time_does_not_carry_the_fleets_time_away(shared: Shared) -> None:
    server = shared.server()
    lease = server.grant("lease", ttl_us=60 * SECOND_US)
    shared.set_by_us = HOUR_US
    newcomer = shared.server().transactor
    planned = Planned(shared.store.rows["gpu"].revision, Plan((), (), truncated=False), ())
    assert Repairer(newcomer).apply("gpu", planned)
    shared.set_by_us = 0

    (renewed,) = server.ask(Renew("gpu", lease))

    assert not isinstance(renewed, LeaseExpired)


async def test_a_fleet_with_leases_is_looked_at_so_often_that_a_dead_holders_lease_ends(shared: Shared) -> None:
    engine = engine_over(shared.store, shared.clock, restart_grace_s=3600.0)
    await engine.start()
    await engine.submit(acquire("dead", ttl_us=HOUR_US // 2))
    for _ in range(31):
        shared.clock.advance(60 * SECOND_US)
        await engine._sweeper.round()

    assert shared.store.rows["gpu"].held == {}
    await engine.stop()
