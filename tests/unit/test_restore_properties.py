"""Random lives with random restores: no name and no fencing token is issued twice, and no ghost changes anything."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Final

import pytest

from blockyard_server.domain.answers import Grant, ReleaseAnswer, ReleaseOutcome, Renewal
from blockyard_server.domain.errors import AllocationNotFound
from blockyard_server.domain.events import Restored
from blockyard_server.domain.requests import DeleteFleet, Release, Renew
from blockyard_server.domain.restore import CHANGES_PER_S, BumpTooSmall
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.restore import Report, restore_alone, restored
from blockyard_server.engine.store_protocol import Origin, ServerRow, StoreRefused
from blockyard_server.engine.transactor import Transactor
from tests.memory.rows import Rows
from tests.memory.store import MemoryStore
from tests.unit.engine_stories import acquire, create, register

FLEETS: Final = ("gpu", "tpu", "cpu")
QUICK: Final = 400
SLOW: Final = 10_000
LEAST_US: Final = 1_000_000 // CHANGES_PER_S
"""A change takes at least this long."""


@dataclass(frozen=True)
class Backup:
    """All that a database has, at one moment."""

    rows: dict[str, Rows]
    origin: Origin


@dataclass
class World:
    """A database that is lost now and then, and what its clients were told."""

    dice: random.Random
    store: MemoryStore = field(default_factory=MemoryStore)
    clock: ManualClock = field(default_factory=lambda: ManualClock(1_800_000_000_000_000))
    issued: set[tuple[str, int]] = field(default_factory=set)
    """Each allocation and its fencing token, which are one number, by fleet."""
    backups: list[Backup] = field(default_factory=list)
    tokens: int = 0

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A server starts."""
        self.server = Transactor(self.store, self.clock)

    def change(self) -> None:
        """A client asks for something."""
        self.clock.advance(LEAST_US)
        fleet = self.dice.choice(FLEETS)
        self.tokens += 1
        if not (fleet in self.store.rows and self.store.rows[fleet].record is not None):
            self.server.carry_out(fleet, [create(fleet)])
            self.clock.advance(LEAST_US)
            self.server.carry_out(fleet, [register("n1", 4, fleet)])
            return
        roll = self.dice.random()
        if roll < 0.05:
            self.server.carry_out(fleet, [DeleteFleet(fleet)])
        elif roll < 0.75:
            [answer] = self.server.carry_out(fleet, [acquire(f"t{self.tokens}", fleet=fleet)])
            if isinstance(answer, Grant):
                self.note(fleet, answer)
        else:
            live = self.store.rows[fleet].live()
            if live:
                which = self.dice.choice(live).allocation
                self.server.carry_out(fleet, [Release(fleet, "slurm", allocation=which)])

    def note(self, fleet: str, grant: Grant) -> None:
        """A name and a fencing token were issued: neither was before."""
        number = grant.view.allocation.allocation
        assert (fleet, number) not in self.issued, f"{fleet}/{number} was issued a second time"
        self.issued.add((fleet, number))

    def back_up(self) -> None:
        """Keeps a copy, and a few older ones."""
        self.backups.append(Backup({f: rows.copy() for f, rows in self.store.rows.items()}, self.store.the_origin))
        if len(self.backups) > 6:
            del self.backups[self.dice.randrange(len(self.backups))]

    def restore(self, bump: int | None = None) -> Report:
        """The database is lost, and a backup takes its place; perhaps one that was restored before."""
        backup = self.dice.choice(self.backups)
        self.store = MemoryStore()
        self.store.rows = {fleet: rows.copy() for fleet, rows in backup.rows.items()}
        self.store.the_origin = backup.origin
        report = restored(self.store, self.clock.now_us(), bump)
        self.start()
        return report


def live_and_restore(restores: int, seed: int) -> World:
    """A random life with so many restores."""
    world = World(random.Random(seed))
    world.back_up()
    for _ in range(restores):
        for _ in range(world.dice.randint(0, 8)):
            world.change()
            if world.dice.random() < 0.1:
                world.back_up()
        world.clock.advance(world.dice.choice((0, LEAST_US, 1_000_000, 3600_000_000)))
        world.restore()
    return world


def test_no_name_and_no_fencing_token_is_issued_twice_over_random_restores() -> None:
    world = live_and_restore(QUICK, seed=1)

    assert len(world.issued) > QUICK


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(10))
def test_no_name_and_no_fencing_token_is_issued_twice_over_ten_thousand_restores(seed: int) -> None:
    world = live_and_restore(SLOW // 10, seed=100 + seed)

    assert len(world.issued) > SLOW // 10


def ghosts(count: int) -> None:
    """Holders from the lost future try everything that they know."""
    world = World(random.Random(7))
    world.server.carry_out("gpu", [create(), register("n1", count)])
    world.server.carry_out("gpu", [register("n2", count)])
    world.back_up()
    lost = [world.server.carry_out("gpu", [acquire(f"ghost {n}", ttl_us=3600_000_000)])[0] for n in range(count)]
    world.clock.advance(LEAST_US * count)
    world.restore()
    held = [world.server.carry_out("gpu", [acquire(f"new {n}", ttl_us=3600_000_000)])[0] for n in range(count)]
    before = list(world.store.rows["gpu"].live())
    assert len(before) == len(held) == count
    for grant in lost:
        assert isinstance(grant, Grant)
        ghost = grant.view.allocation
        number = ghost.allocation
        for holder, token in ((None, None), (ghost.holder, number)):
            asked = (
                Renew("gpu", number, holder=holder, fencing_token=token),
                Release("gpu", "slurm", allocation=number, holder=holder, fencing_token=token),
            )
            outcomes = world.server.carry_out("gpu", asked)
            assert [type(outcome) for outcome in outcomes] == [AllocationNotFound] * 2
    assert world.store.rows["gpu"].live() == before
    for grant in lost:
        assert isinstance(grant, Grant)
        # By token a ghost cancels what the server never heard of, and frees nothing of others.
        [outcome] = world.server.carry_out("gpu", [Release("gpu", "slurm", token=grant.view.allocation.token)])
        assert isinstance(outcome, ReleaseAnswer)
        assert outcome.outcome is ReleaseOutcome.CANCELLED_BEFORE_GRANT
    assert world.store.rows["gpu"].live() == before


def test_no_ghost_renews_or_releases_anything() -> None:
    ghosts(50)


@pytest.mark.slow
def test_none_of_a_thousand_ghosts_renews_or_releases_anything() -> None:
    ghosts(1000)


def test_the_same_backup_restored_again_goes_on_above_what_came_after_the_first_time() -> None:
    world = World(random.Random(1))
    world.server.carry_out("gpu", [create(), register()])
    world.back_up()
    seen = []
    for _ in range(3):
        report = world.restore(bump=1_000_000)
        seen.append(report.fleets["gpu"].revision)
        world.clock.advance(1000)
    assert seen == sorted(set(seen))
    assert seen[1] - seen[0] >= 1000 * CHANGES_PER_S // 1_000_000


def test_a_fleet_of_the_lost_future_begins_above_it_when_it_is_made_again() -> None:
    world = World(random.Random(1))
    world.back_up()
    world.server.carry_out("new", [create("new"), register(fleet="new")])
    [lost] = world.server.carry_out("new", [acquire("a", fleet="new")])
    world.restore()
    world.server.carry_out("new", [create("new"), register(fleet="new")])
    [again] = world.server.carry_out("new", [acquire("a", fleet="new")])
    assert isinstance(lost, Grant)
    assert isinstance(again, Grant)
    assert not again.replayed
    assert again.view.allocation.allocation > 1_000_000_000 > lost.view.allocation.allocation


def test_a_token_of_the_lost_future_is_a_new_request_and_one_of_the_backup_is_replayed() -> None:
    world = World(random.Random(1))
    world.server.carry_out("gpu", [create(), register()])
    [known] = world.server.carry_out("gpu", [acquire("known")])
    world.back_up()
    [lost] = world.server.carry_out("gpu", [acquire("lost")])
    world.restore()
    [replayed, fresh] = world.server.carry_out("gpu", [acquire("known"), acquire("lost")])
    assert isinstance(known, Grant)
    assert isinstance(lost, Grant)
    assert isinstance(replayed, Grant)
    assert isinstance(fresh, Grant)
    assert (replayed.replayed, replayed.view.allocation.allocation) == (True, known.view.allocation.allocation)
    assert not fresh.replayed
    assert fresh.view.allocation.allocation != lost.view.allocation.allocation


def test_a_live_lease_of_the_backup_gets_its_grace_at_the_start() -> None:
    world = World(random.Random(1))
    world.server.carry_out("gpu", [create(), register()])
    [held] = world.server.carry_out("gpu", [acquire("a", ttl_us=1_000_000)])
    world.back_up()
    world.clock.advance(86_400_000_000)
    world.restore()
    world.server = Transactor(world.store, world.clock, grace_s=None)
    world.server.extend_leases_on_takeover("gpu")
    assert isinstance(held, Grant)
    [renewed] = world.server.carry_out("gpu", [Renew("gpu", held.view.allocation.allocation)])
    assert isinstance(renewed, Renewal)


def test_a_bump_that_does_not_cover_the_time_since_the_last_event_is_refused_and_changes_nothing() -> None:
    world = World(random.Random(1))
    world.server.carry_out("gpu", [create(), register()])
    world.back_up()
    world.clock.advance(10_000_000)

    with pytest.raises(BumpTooSmall, match=r"--bump 1000000 or more"):
        world.restore(bump=999_999)

    assert world.store.the_origin == world.backups[0].origin
    assert world.store.rows["gpu"].revision == 2
    assert world.restore(bump=1_000_000).fleets["gpu"].revision > 2 + 1_000_000
    assert world.restore(bump=2**52).fleets["gpu"].revision == 2 + 2**52 + 1


def test_a_restore_that_was_killed_half_way_keeps_servers_out_until_it_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(random.Random(1))
    for fleet in FLEETS:
        world.server.carry_out(fleet, [create(fleet)])
    done: list[int] = []

    class KilledError(Exception):
        pass

    def die_at_the_second(rows: Rows, revision: int) -> None:
        if done:
            raise KilledError
        done.append(revision)
        skip_to(rows, revision)

    skip_to = Rows.skip_to
    monkeypatch.setattr(Rows, "skip_to", die_at_the_second)
    with pytest.raises(KilledError):
        restored(world.store, world.clock.now_us(), None)
    assert world.store.why_restored() is not None
    monkeypatch.undo()

    report = restored(world.store, world.clock.now_us(), None)

    assert world.store.why_restored() is None
    assert all(each.revision > 1_000_000_000 for each in report.fleets.values())


def test_it_is_refused_while_a_server_is_alive_and_the_servers_go_on() -> None:
    world = World(random.Random(1))
    world.server.carry_out("gpu", [create()])
    world.store.servers["other"] = ServerRow("other", "1", 2, silent_us=34_000_000)

    with pytest.raises(StoreRefused, match="Stop all of them"):
        asyncio.run(restore_alone(world.store, world.clock.now_us(), None))

    assert world.store.why_restored() is None
    assert world.store.rows["gpu"].revision == 1
    world.store.servers["other"] = ServerRow("other", "1", 2, silent_us=36_000_000)
    report = asyncio.run(restore_alone(world.store, world.clock.now_us(), None))
    [event] = world.store.rows["gpu"].kept()
    assert event == Restored(report.fleets["gpu"].revision, world.clock.now_us(), backup_revision=1, epoch=1)
    assert set(world.store.servers) == {"other"}
