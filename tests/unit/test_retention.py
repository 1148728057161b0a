"""How long what has ended is remembered: by what servers have certainly seen pass, whatever any clock says."""

from dataclasses import dataclass, field
from random import Random

import pytest

from blockyard_server.domain.answers import Grant
from blockyard_server.domain.errors import AllocationEnded, TokenCancelled
from blockyard_server.domain.requests import Release
from blockyard_server.domain.retention import MARKS_PER_RETENTION, FleetAge, Retention, forgettable
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.engine import Engine, EngineSettings
from blockyard_server.engine.store_protocol import CommitUnknown
from blockyard_server.engine.sweeper import SweeperSettings
from blockyard_server.engine.transactor import Transactor
from tests.harness.samples import some_at_first
from tests.unit.engine_stories import acquire, filled_store, once

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
WEEK = Retention(7 * DAY_US, 30 * DAY_US)
SHORT = Retention(40 * SECOND_US, 100 * SECOND_US)


class Life:
    """Servers on one store, one after the other or several, each with a clock of its own; true time passes for all."""

    def __init__(self, retention: Retention = WEEK) -> None:
        self.store = filled_store()
        self.true_us = 0
        self.retention = retention
        self.clocks: list[ManualClock] = []

    def start(self, *, ahead_us: int = 0) -> Transactor:
        """One more server: a start."""
        self.clocks.append(ManualClock(1_700_000_000_000_000 + self.true_us + ahead_us))
        server = Transactor(self.store, self.clocks[-1])
        server.load("gpu")
        server.extend_leases_on_takeover("gpu")
        return server

    def passes(self, by_us: int) -> None:
        """Time, for everybody."""
        self.true_us += by_us
        for clock in self.clocks:
            clock.advance(by_us)

    def forget(self, server: Transactor) -> None:
        """What the sweeper does."""
        if server.ages.due("gpu", self.retention.step_us):
            old = server.age("gpu", self.retention)
            server.prune("gpu", old.ended)
            server.compact("gpu", old.events)


def use_up(server: Transactor, token: str) -> None:
    """One token is granted and released, and one is cancelled."""
    server.carry_out("gpu", [acquire(f"{token} granted"), Release("gpu", "slurm", token=f"{token} granted")])
    server.carry_out("gpu", [Release("gpu", "slurm", token=f"{token} cancelled")])


def remembers(server: Transactor, token: str) -> bool:
    """Whether both are refused, which changes nothing."""
    outcomes = server.carry_out("gpu", [acquire(f"{token} granted"), acquire(f"{token} cancelled")])
    return [type(outcome) for outcome in outcomes] == [AllocationEnded, TokenCancelled]


def test_what_has_ended_is_remembered_for_its_retention_and_then_forgotten() -> None:
    life = Life()
    server = life.start()
    use_up(server, "a")
    for _ in range(7 * 24):
        life.forget(server)
        assert remembers(server, "a")
        life.passes(DAY_US // 24)
    for _ in range(24):
        life.forget(server)
        life.passes(DAY_US // 24)

    assert [type(outcome) for outcome in server.carry_out("gpu", [acquire("a cancelled")])] == [Grant]
    assert life.store.rows["gpu"].tokens.keys() == {("slurm", "a cancelled")}


@pytest.mark.parametrize("ahead_us", [10 * DAY_US, 400 * DAY_US, -10 * DAY_US])
def test_a_start_with_a_clock_that_is_off_lets_nothing_grow_old(ahead_us: int) -> None:
    life = Life()
    server = life.start()
    use_up(server, "a")
    for start_ahead_us in (ahead_us, 2 * ahead_us, 0):
        server = life.start(ahead_us=start_ahead_us)
        for _ in range(60):
            life.forget(server)
            life.passes(60 * SECOND_US)

    assert remembers(server, "a")
    assert life.store.rows["gpu"].compacted_revision == 0


def test_a_server_that_is_started_every_day_forgets_in_the_end_and_its_marks_have_a_bound() -> None:
    life = Life()
    server = life.start()
    for day in range(45):
        server = life.start(ahead_us=(day % 3) * 100 * DAY_US)
        use_up(server, f"{day}")
        for _ in range(23 * 4):
            life.passes(DAY_US // 96)
            life.forget(server)
        life.passes(DAY_US // 24)  # nobody watches
    rows = life.store.rows["gpu"]

    assert all(remembers(server, f"{day}") for day in range(45 - 7, 45))
    assert len(rows.tokens) <= 2 * 9, "a week of it, and what was not seen to pass"
    assert 0 < rows.compacted_revision < rows.revision - 1
    assert len(rows.age.marks) <= 3 * MARKS_PER_RETENTION


def test_time_in_which_nobody_watched_does_not_count() -> None:
    life = Life()
    server = life.start()
    use_up(server, "a")
    for _ in range(12):
        life.forget(server)
        life.passes(DAY_US // 48)
    age_us = life.store.rows["gpu"].age.age_us
    life.passes(100 * DAY_US)  # every server is down
    server = life.start()
    life.forget(server)
    life.passes(DAY_US // 48)
    life.forget(server)

    assert life.store.rows["gpu"].age.age_us <= age_us + DAY_US // 48
    assert remembers(server, "a")


def test_what_a_database_says_of_the_time_does_not_count() -> None:
    life = Life()
    database = ManualClock()
    life.store.database_time_us = database.now_us
    server = life.start()
    use_up(server, "a")
    for _ in range(30):
        life.forget(server)
        database.advance(DAY_US)  # a step, or a machine that was suspended: our monotonic clock stood
        life.passes(60 * SECOND_US)

    assert remembers(server, "a")
    assert life.store.rows["gpu"].age.age_us <= 30 * 60 * SECOND_US


def test_a_commit_of_the_age_whose_answer_was_lost_counts_nothing_twice() -> None:
    life = Life()
    server = life.start()
    use_up(server, "a")
    life.forget(server)
    life.passes(3600 * SECOND_US)
    life.store.after_commit = once(CommitUnknown("the connection was lost"))
    life.forget(server)
    life.passes(3600 * SECOND_US)
    life.forget(server)
    life.passes(3600 * SECOND_US)
    life.forget(server)

    assert 3600 * SECOND_US < life.store.rows["gpu"].age.age_us <= life.true_us


def test_a_fleet_without_a_past_is_not_written_to() -> None:
    life = Life()
    server = life.start()
    life.forget(server)
    commits = len(life.store.commits)
    life.forget(server)
    life.passes(SECOND_US)
    life.forget(server)

    assert len(life.store.commits) == commits, "too early for a step"


async def test_a_round_of_the_sweeper_lets_each_fleet_grow_older_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockyard_server.engine.sweeper.MAX_FLEETS_AT_ONCE", 2)
    names = ["a", "b", "c", "d", "e"]
    store, clock = filled_store(8, *names), ManualClock()
    engine = Engine(store, clock, EngineSettings(sweeper=SweeperSettings(interval_s=3600.0), restart_grace_s=0.0))
    await engine.start()
    for _ in range(2):
        for _ in range(3):
            await engine._sweeper.round()
        clock.advance(3600 * SECOND_US)
    for _ in range(3):
        await engine._sweeper.round()

    assert {name: store.rows[name].age.age_us > 3600 * SECOND_US for name in names} == dict.fromkeys(names, True)
    await engine.stop()


@dataclass
class Watched:
    """A fleet and the servers that watch it, with the true time of every revision."""

    life: Life = field(default_factory=lambda: Life(SHORT))
    servers: list[Transactor] = field(default_factory=list)
    written_us: dict[int, int] = field(default_factory=dict)

    def write(self, server: Transactor, number: int) -> None:
        server.carry_out("gpu", [Release("gpu", "slurm", token=f"t{number}")])
        self.written_us[self.life.store.rows["gpu"].revision] = self.life.true_us

    def check(self) -> None:
        """Whatever is old enough to go by the fleet's age is so by true time."""
        old = forgettable(self.life.store.rows["gpu"].age, SHORT)
        for upto, retention_us in ((old.ended, SHORT.ended_us), (old.events, SHORT.journal_us)):
            for revision, written_us in self.written_us.items():
                assert revision > upto or self.life.true_us - written_us >= retention_us


@pytest.mark.parametrize("seed", some_at_first(range(150), 40))
def test_nothing_is_old_before_it_truly_is_whichever_servers_look_and_whenever(seed: int) -> None:
    chance = Random(seed)
    watched = Watched()
    watched.servers = [watched.life.start(ahead_us=ahead * DAY_US) for ahead in (0, 3, -2)][: chance.randint(1, 3)]
    longest_us = chance.choice((1_100_000, 3_000_000, 20_000_000))
    for number in range(200):
        watched.life.passes(chance.randint(1, longest_us))
        which = chance.randrange(len(watched.servers))
        what = chance.random()
        if what < 0.3:
            watched.write(watched.servers[which], number)
        elif what < 0.99:
            watched.life.forget(watched.servers[which])
        else:
            watched.servers[which] = watched.life.start(ahead_us=number * DAY_US)
        watched.check()
    assert watched.life.store.rows["gpu"].age.age_us <= watched.life.true_us


@pytest.mark.parametrize("seed", some_at_first(range(30), 10))
@pytest.mark.parametrize("retention", [WEEK, Retention(600 * SECOND_US, 30 * DAY_US), Retention(30 * DAY_US, DAY_US)])
def test_what_is_old_is_forgotten_soon_and_marks_stay_few(retention: Retention, seed: int) -> None:
    chance = Random(seed)
    step_us = retention.step_us * chance.choice((1, 7, 100))
    late_us = retention.longer_us // MARKS_PER_RETENTION * 2 + 2 * step_us
    age, revision = FleetAge(), 1
    at_us: dict[int, int] = {}
    for _ in range(400):
        for _ in range(chance.choice((0, 0, 1, 2))):
            revision += 1
            at_us[revision] = age.age_us
        age = age.after(chance.randint(retention.step_us, step_us), revision, retention)
        for upto, retention_us in (
            (age.forgettable(retention.ended_us), retention.ended_us),
            (age.forgettable(retention.journal_us), retention.journal_us),
        ):
            for number, written_us in at_us.items():
                old_us = age.age_us - written_us
                assert number > upto or old_us >= retention_us
                assert number <= upto or old_us <= retention_us + late_us
        assert len(age.marks) <= 3 * MARKS_PER_RETENTION


def test_a_revision_is_old_at_its_retention_and_not_a_microsecond_before() -> None:
    age = FleetAge().after(10 * SECOND_US, 5, SHORT)

    assert age.after(SHORT.ended_us - 1, 9, SHORT).forgettable(SHORT.ended_us) == 0
    assert age.after(SHORT.ended_us, 9, SHORT).forgettable(SHORT.ended_us) == 5
