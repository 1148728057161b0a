"""Verification in the background: damage behind a running server's back halts the fleet, bit by bit and untouched."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from blockyard import AsyncClient, InvariantViolated
from blockyard_server.engine import auditor as auditor_module
from blockyard_server.store.sqlite.triggers import SQLITE_TRIGGERS
from tests.harness.in_process import client_of, serving
from tests.harness.patience import eventually

OFTEN_S: Final = 0.02

DAMAGES: Final = {
    "a counter": ("UPDATE instances SET busy_blocks = 5 WHERE instance = 'n1'", "instance n1, COUNTER"),
    "a stray row": (
        "INSERT INTO held_blocks (fleet, instance, block, allocation) VALUES ('gpu', 'n1', 5, 99)",
        "instance n1",
    ),
    "a lost row, counter and all": (
        "DELETE FROM held_blocks WHERE block = 1; UPDATE instances SET busy_blocks = 1 WHERE instance = 'n1'",
        "MEMORY",
    ),
    "a row of another": ("UPDATE held_blocks SET allocation = 99 WHERE block = 1", "allocation"),
    "a lost token": ("DELETE FROM tokens", "TOKEN: expected its token's record names it, found no record"),
    "an allocation that cannot be read": ("UPDATE allocations SET granted = '['", "cannot be read"),
}


def damage(data: Path, script: str) -> None:
    """Runs statements behind the server's back, with the guards away."""
    with closing(sqlite3.connect(data, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        for name in SQLITE_TRIGGERS:
            db.execute(f"DROP TRIGGER {name}")
        for statement in script.split("; "):
            db.execute(statement)
        for text in SQLITE_TRIGGERS.values():
            db.execute(text)
        db.execute("COMMIT")


def held_rows(data: Path) -> list[Any]:
    """The evidence."""
    tables = ("instances", "held_blocks", "tokens")
    with closing(sqlite3.connect(data)) as db:
        return [db.execute(f"SELECT * FROM {name} WHERE fleet = 'gpu'").fetchall() for name in tables]  # noqa: S608 - ours


async def fill(client: AsyncClient, instances: int = 1) -> None:
    await client.create_fleet("gpu")
    for number in range(1, instances + 1):
        await client.create_instance("gpu", f"n{number}", total_blocks=8)
    await client.acquire("gpu", holder="job", blocks=2)


@pytest.mark.parametrize("what", DAMAGES)
async def test_damage_halts_the_fleet_with_an_alarm_and_is_left_as_it_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    script, found = DAMAGES[what]
    data = tmp_path / "blockyard.db"
    async with serving(tmp_path, audit_interval_s=OFTEN_S) as server, client_of(server) as client:
        await fill(client)
        await client.create_fleet("sound")
        damage(data, script)
        before = held_rows(data)

        async def is_halted() -> bool:
            return (await client.get_fleet("gpu")).halted

        await eventually(is_halted, "the fleet is halted")
        with pytest.raises(InvariantViolated):
            await client.acquire("gpu", holder="late", blocks=1)
        await client.create_instance("sound", "n1", total_blocks=1)
        counts = server.engine.counts
        assert (counts.halted_fleets, counts.halts, counts.discrepancies > 0) == ({"gpu"}, 1, True)
        assert held_rows(data) == before

    [alarm] = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert alarm.startswith("fleet gpu: an invariant does not hold, its writes are stopped: ")
    assert found in alarm


async def test_a_sound_fleet_that_keeps_changing_is_never_halted(tmp_path: Path) -> None:
    async with serving(tmp_path, audit_interval_s=0.001) as server, client_of(server) as client:
        await fill(client, instances=3)

        async def come_and_go(number: int) -> None:
            for _ in range(40):
                held = await client.acquire("gpu", holder=f"job-{number}", blocks=1, ttl=60)
                await client.release(held.allocation)

        await asyncio.gather(*(come_and_go(number) for number in range(8)))

        assert server.engine.counts.audit_steps > 5
        assert server.engine.counts.halts == 0
        assert (await client.verify("gpu")).clean


async def test_a_step_is_bounded_and_the_next_one_goes_on_where_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor_module, "MAX_INSTANCES_AT_ONCE", 2)
    monkeypatch.setattr(auditor_module, "MAX_ALLOCATIONS_AT_ONCE", 2)
    data = tmp_path / "blockyard.db"
    async with serving(tmp_path, audit_interval_s=0) as server, client_of(server) as client:
        await fill(client, instances=5)
        for _ in range(4):
            await client.acquire("gpu", holder="job", blocks=1)
        counts, auditor = server.engine.counts, server.engine._auditor

        compared = []
        for _ in range(4):
            await auditor.round()
            compared.append((counts.audited_instances, counts.audited_allocations))
        assert compared == [(2, 2), (4, 4), (5, 5), (7, 7)], "the fourth begins anew"

        damage(data, "UPDATE instances SET busy_blocks = 7 WHERE instance = 'n5'")
        await auditor.round()
        assert counts.halts == 0
        await auditor.round()
        assert counts.halts == 1
        await auditor.round()
        assert counts.audit_steps == 6, "a halted fleet is left alone"


async def test_a_slice_ends_before_it_has_too_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditor_module, "MAX_BLOCKS_AT_ONCE", 10)
    async with serving(tmp_path, audit_interval_s=0) as server, client_of(server) as client:
        await fill(client, instances=4)
        for blocks in (6, 8, 8, 8):
            await client.acquire("gpu", holder="job", blocks=blocks)
        counts, auditor = server.engine.counts, server.engine._auditor

        compared = []
        for _ in range(4):
            await auditor.round()
            compared.append((counts.audited_instances, counts.audited_allocations))

    assert compared == [(1, 2), (2, 3), (3, 4), (4, 5)]


async def test_fleets_take_turns_and_none_is_looked_at_while_it_is_turned_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditor_module, "MAX_FLEETS_AT_ONCE", 2)
    async with serving(tmp_path, audit_interval_s=0) as server, client_of(server) as client:
        for name in ("a", "b", "c"):
            await client.create_fleet(name)
            await client.create_instance(name, "n1", total_blocks=1)
        assert server.engine._auditor._task is None
        counts = server.engine.counts

        steps = []
        for _ in range(3):
            await server.engine._auditor.round()
            steps.append(counts.audit_steps)

    assert steps == [2, 3, 5]
