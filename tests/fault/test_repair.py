"""Repair over a real server on damaged data: each kind of damage is mended, conflicts are left, halts last."""

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import pytest

from blockyard import AsyncClient, EventKind, FleetNotFound, InvariantViolated, TokenMismatch
from blockyard_server.domain.actor import Actor
from blockyard_server.domain.requests import Acquire, Demand
from blockyard_server.engine.repair import Planned, Repairer
from blockyard_server.store.sqlite.triggers import SQLITE_TRIGGERS
from tests.harness.in_process import client_of, serving

TABLES: Final = ("instances", "allocations", "held_blocks", "tokens", "journal")
FIRST, SECOND = "fleets/gpu/allocations/3", "fleets/gpu/allocations/4"


@pytest.fixture(scope="module")
def sound_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a server that was stopped: FIRST has blocks 0 and 1 of n1, and SECOND has 2."""
    folder = tmp_path_factory.mktemp("sound")
    asyncio.run(fill(folder))
    return folder / "blockyard.db"


async def fill(folder: Path) -> None:
    async with serving(folder) as server, client_of(server) as client:
        await client.create_fleet("gpu")
        await client.create_instance("gpu", "n1", total_blocks=8)
        await client.acquire("gpu", holder="first", blocks=2, token="one")
        await client.acquire("gpu", holder="second", blocks=1)


def damaged(sound_data: Path, folder: Path, *statements: str) -> Path:
    """A copy of the data, after what the statements did while its guards were away."""
    data = folder / "blockyard.db"
    shutil.copy(sound_data, data)
    with closing(sqlite3.connect(data, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        for name in SQLITE_TRIGGERS:
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)
        for text in SQLITE_TRIGGERS.values():
            db.execute(text)
    return data


@asynccontextmanager
async def client_on(folder: Path) -> AsyncIterator[AsyncClient]:
    """A client of a server on the data in the folder, which starts and ends with it."""
    async with serving(folder) as server, client_of(server) as client:
        yield client


def rows_of(data: Path) -> dict[str, list[Any]]:
    """All that a repair could change, as it is on the disk."""
    with closing(sqlite3.connect(data)) as db:
        return {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in TABLES}  # noqa: S608 - our own names


LOST_ROW = "DELETE FROM held_blocks WHERE block = 1"
STRAY_ROW = "INSERT INTO held_blocks (fleet, instance, block, allocation) VALUES ('gpu', 'n1', {}, 99)"
FALSE_COUNTER = "UPDATE instances SET busy_blocks = {}"
LOST_GRANT = "DELETE FROM journal WHERE kind = 'GRANTED' AND revision = 3"
FALSE_OWNER = "UPDATE held_blocks SET allocation = 4 WHERE block = 1"

DAMAGES: Final = {
    "a counter": ((FALSE_COUNTER.format(7),), {"COUNTER_SET": 1}),
    "a counter out of its range": ((FALSE_COUNTER.format(-4),), {"COUNTER_SET": 1}),
    "a lost row": ((LOST_ROW,), {"BLOCK_HELD": 1}),
    "a lost row and its count": (
        (LOST_ROW, FALSE_COUNTER.format(2)),
        {"BLOCK_HELD": 1, "COUNTER_SET": 1, "MEMORY_RELOADED": 1},
    ),
    "all rows lost": (
        ("DELETE FROM held_blocks", FALSE_COUNTER.format(0)),
        {"BLOCK_HELD": 3, "COUNTER_SET": 1, "MEMORY_RELOADED": 1},
    ),
    "a stray row": ((STRAY_ROW.format(5),), {"BLOCK_FREED": 1}),
    "a stray row and a counter of 0": (
        (STRAY_ROW.format(5), FALSE_COUNTER.format(0)),
        {"BLOCK_FREED": 1, "COUNTER_SET": 1},
    ),
    "a stray row beyond the instance": ((STRAY_ROW.format(20),), {"BLOCK_FREED": 1}),
    "a row of another": ((FALSE_OWNER,), {"BLOCK_FREED": 1, "BLOCK_HELD": 1}),
    "a lost token": (("DELETE FROM tokens WHERE token = 'one'",), {"TOKEN_RECORDED": 1}),
    "a cancelled token": (("UPDATE tokens SET allocation = NULL WHERE token = 'one'",), {"TOKEN_RECORDED": 1}),
    "a lost event": ((LOST_GRANT,), {"JOURNAL_SETTLED": 1, "JOURNAL_RECONCILED": 2}),
    "the journal's end": (
        ("DELETE FROM journal WHERE revision = 4",),
        {"JOURNAL_SETTLED": 1, "JOURNAL_RECONCILED": 1},
    ),
    "a false size": (("UPDATE instances SET total_blocks = 16",), {"SHAPE_RECONCILED": 1}),
    "an ended allocation's rows": (
        ("UPDATE allocations SET live = 0, state = 'RELEASED', end_time_us = 1 WHERE allocation = 4",),
        {"BLOCK_FREED": 1, "COUNTER_SET": 1, "MEMORY_RELOADED": 1},
    ),
    "all of it": (
        (LOST_ROW, STRAY_ROW.format(5), STRAY_ROW.format(20), FALSE_COUNTER.format(-4), LOST_GRANT),
        {"BLOCK_FREED": 2, "BLOCK_HELD": 1, "COUNTER_SET": 1, "JOURNAL_SETTLED": 1, "JOURNAL_RECONCILED": 1},
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_what_is_damaged_is_mended_and_stays_so(sound_data: Path, tmp_path: Path, damage: str) -> None:
    statements, expected = DAMAGES[damage]
    data = damaged(sound_data, tmp_path, *statements)
    before = rows_of(data)
    async with client_on(tmp_path) as client:
        assert not (await client.verify("gpu")).clean
        assert (await client.get_fleet("gpu")).halted
        with pytest.raises(InvariantViolated):
            await client.acquire("gpu", holder="third", blocks=1)

        plan = await client.repair("gpu")
        assert (plan.applied, plan.halted, plan.truncated, plan.unrepaired) == (False, True, False, ())
        assert rows_of(data) == before, "a dry run changes nothing"

        done = await client.repair("gpu", apply=True)
        assert counted(done.corrections) == expected
        assert done.corrections == plan.corrections
        assert (done.applied, done.halted, done.truncated, done.unrepaired) == (True, False, False, ())
        [event] = [event async for event in client.list_events("gpu", kinds=[EventKind.REPAIRED])]
        assert (event.corrections, event.revision) == (done.corrections, done.revision)

    async with client_on(tmp_path) as client:
        assert (await client.verify("gpu")).clean
        assert not (await client.get_fleet("gpu")).halted
        nothing = await client.repair("gpu", apply=True)
        assert (nothing.applied, nothing.corrections, nothing.halted) == (False, (), False)
        first = await client.get_allocation(FIRST)
        assert [(each.instance, each.blocks) for each in first.placements] == [("n1", (0, 1))]
        assert (await client.acquire("gpu", holder="first", blocks=2, token="one")).replayed
        more = await client.acquire("gpu", holder="third", blocks=1)
        await client.release(more.allocation)
        await client.release(first)
        assert (await client.verify("gpu")).clean


def counted(corrections: Any) -> dict[str, int]:
    kinds = [each.kind.value for each in corrections]
    return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


CONFLICTS: Final = {
    "two live ones have one block": "UPDATE allocations SET granted = '[[\"n1\",[1,2]]]' WHERE allocation = 4",
    "a live one has a block beyond": "UPDATE allocations SET granted = '[[\"n1\",[2,30]]]' WHERE allocation = 4",
    "a live one cannot be read": "UPDATE allocations SET granted = '[' WHERE allocation = 4",
    "an event cannot be read": "UPDATE journal SET body = '{' WHERE revision = 4",
    "an instance cannot be read": "UPDATE instances SET labels = '{'",
}


@pytest.mark.parametrize("conflict", CONFLICTS)
async def test_what_no_rule_can_know_is_left_and_the_fleet_stays_halted_beyond_a_restart(
    sound_data: Path, tmp_path: Path, conflict: str
) -> None:
    data = damaged(sound_data, tmp_path, CONFLICTS[conflict])
    before = rows_of(data)
    async with client_on(tmp_path) as client:
        done = await client.repair("gpu", apply=True)
        assert done.halted
        assert done.unrepaired
        after = rows_of(data)
        assert {name: after[name] for name in TABLES[1:4]} == {name: before[name] for name in TABLES[1:4]}

    async with client_on(tmp_path) as client:
        assert (await client.get_fleet("gpu")).halted
        again = await client.repair("gpu", apply=True)
        assert (again.corrections, again.halted, again.unrepaired) == ((), True, done.unrepaired)
        with pytest.raises(InvariantViolated):
            await client.release(FIRST)


async def test_a_false_memory_is_read_anew_and_the_journal_says_so(sound_data: Path, tmp_path: Path) -> None:
    damaged(sound_data, tmp_path)
    async with serving(tmp_path) as server, client_of(server) as client:
        index = server.engine._transactor._unit.memory._states["gpu"].index
        index.set_busy(index.by_name["n1"], 0b1000_0000)

        done = await client.repair("gpu", apply=True)

        assert counted(done.corrections) == {"MEMORY_RELOADED": 1}
        assert (done.applied, done.halted) == (True, False)
        granted = await client.acquire("gpu", holder="third", blocks=5)
        assert granted.allocation.placements[0].blocks == (3, 4, 5, 6, 7)
        assert (await client.verify("gpu")).clean


async def test_a_false_memory_that_verify_finds_halts_the_fleet_and_is_thrown_away(
    sound_data: Path, tmp_path: Path
) -> None:
    damaged(sound_data, tmp_path)
    async with serving(tmp_path) as server, client_of(server) as client:
        index = server.engine._transactor._unit.memory._states["gpu"].index
        index.set_busy(index.by_name["n1"], 0)

        assert [each.check.value for each in (await client.verify("gpu")).discrepancies] == ["MEMORY"]
        assert (await client.get_fleet("gpu")).halted
        done = await client.repair("gpu", apply=True)

        assert (done.corrections, done.halted) == ((), False)
        assert not (await client.get_fleet("gpu")).halted
        assert (await client.acquire("gpu", holder="third", blocks=5)).allocation.placements[0].blocks[0] == 3


async def test_a_conflict_that_people_have_decided_is_then_repaired(sound_data: Path, tmp_path: Path) -> None:
    data = damaged(sound_data, tmp_path, CONFLICTS["two live ones have one block"])
    async with client_on(tmp_path) as client:
        assert (await client.repair("gpu", apply=True)).halted
    with closing(sqlite3.connect(data)) as db, db:  # as docs/how-to/operate.md says, with every guard in force
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("DELETE FROM held_blocks WHERE fleet = 'gpu' AND allocation = 4")
        db.execute("UPDATE allocations SET live = 0, state = 'RELEASED', end_time_us = 1 WHERE allocation = 4")

    async with client_on(tmp_path) as client:
        done = await client.repair("gpu", apply=True)
        assert (done.unrepaired, done.halted) == ((), False)
        assert (await client.verify("gpu")).clean
        first = await client.get_allocation(FIRST)
        assert [(each.instance, each.blocks) for each in first.placements] == [("n1", (0, 1))]


async def test_a_fleet_whose_own_record_cannot_be_read_is_left_to_people(sound_data: Path, tmp_path: Path) -> None:
    damaged(sound_data, tmp_path, "UPDATE fleets SET labels = '['")
    async with client_on(tmp_path) as client:
        done = await client.repair("gpu", apply=True)
        assert (done.applied, done.halted) == (False, True)
        assert "the row of fleet gpu cannot be read" in [left.actual for left in done.unrepaired]


async def test_a_repair_that_the_database_refuses_is_refused_and_changes_nothing(
    sound_data: Path, tmp_path: Path
) -> None:
    data = damaged(sound_data, tmp_path, FALSE_COUNTER.format(7), "UPDATE fleets SET labels = '['")
    before = rows_of(data)
    async with client_on(tmp_path) as client:
        with pytest.raises(InvariantViolated, match="fleet gpu cannot be repaired; keep a copy of the data"):
            await client.repair("gpu", apply=True)
        with pytest.raises(FleetNotFound):
            await client.repair("nowhere")
    assert rows_of(data) == before


async def test_a_fleet_that_keeps_changing_is_made_to_stand_still_and_then_mended(
    sound_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = damaged(sound_data, tmp_path)
    async with client_on(tmp_path) as client:
        await client.acquire("gpu", holder="third", blocks=1)  # the fleet is in memory
        with closing(sqlite3.connect(data)) as db, db:
            db.execute("DELETE FROM tokens WHERE token = 'one'")
        undisturbed = Repairer.apply
        disturbed: list[object] = []

        def mend(self: Repairer, fleet: str, planned: Planned, actor: Actor | None) -> bool:
            if not disturbed:
                disturbed.append(
                    self._transactor.carry_out(fleet, [Acquire("gpu", "c", "t", "h", (Demand(blocks=1),))])
                )
            return undisturbed(self, fleet, planned, actor)

        monkeypatch.setattr(Repairer, "apply", mend)
        done = await client.repair("gpu", apply=True)

        assert disturbed
        assert counted(done.corrections) == {"TOKEN_RECORDED": 1}
        assert (done.applied, done.halted) == (True, False)
        assert (await client.verify("gpu")).clean
        assert (await client.acquire("gpu", holder="first", blocks=2, token="one")).replayed


async def test_a_token_whose_grant_the_journal_has_no_more_is_recorded_without_its_request(
    sound_data: Path, tmp_path: Path
) -> None:
    damaged(sound_data, tmp_path, "DELETE FROM tokens WHERE token = 'one'", LOST_GRANT)
    async with client_on(tmp_path) as client:
        assert (await client.repair("gpu", apply=True)).applied
        with pytest.raises(TokenMismatch):
            await client.acquire("gpu", holder="first", blocks=2, token="one")
        assert (await client.verify("gpu")).clean


async def test_a_sound_fleet_needs_no_repair_and_gets_no_event(sound_data: Path, tmp_path: Path) -> None:
    damaged(sound_data, tmp_path)
    async with client_on(tmp_path) as client:
        revision = (await client.get_fleet("gpu")).revision
        for apply in (False, True):
            report = await client.repair("gpu", apply=apply)
            assert (report.applied, report.corrections, report.unrepaired) == (False, (), ())
            assert (report.halted, report.revision) == (False, revision)
        assert (await client.get_fleet("gpu")).revision == revision
