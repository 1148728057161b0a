"""The server's memory is made wrong on purpose: the database refuses, writes stop, and nothing is mended."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from blockyard import AsyncClient, Check, DescribeView, InvariantViolated
from blockyard_server.app import RunningServer
from tests.harness.in_process import client_of, serving
from tests.harness.journal import check_fleet

FLEET = "gpu"


@dataclass
class Yard:
    """A fleet of 8 blocks, three of which are held."""

    running: RunningServer
    client: AsyncClient
    data: Path

    def make_memory_wrong(self, busy: int) -> None:
        """From now on the writer believes that these blocks of node-1 are busy, as a set of bits."""
        state = self.running.engine._transactor._unit.memory._states[FLEET]
        state.index.set_busy(state.index.by_name["node-1"], busy)

    def holders(self) -> list[tuple[int, int]]:
        """(block, allocation) of every held block, as another program sees them."""
        with closing(sqlite3.connect(self.data)) as db:
            return db.execute("SELECT block, allocation FROM held_blocks ORDER BY block, allocation").fetchall()


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with serving(tmp_path) as running, client_of(running) as client:
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "node-1", total_blocks=8)
        await client.acquire(FLEET, blocks=3, holder="first", token="first")
        yield Yard(running, client, tmp_path / "blockyard.db")


async def test_a_block_that_memory_takes_for_idle_is_not_given_to_a_second_holder(yard: Yard) -> None:
    before = yard.holders()
    yard.make_memory_wrong(0)
    with pytest.raises(InvariantViolated) as failure:
        await yard.client.acquire(FLEET, blocks=1, holder="second", token="second")
    assert failure.value.status == "DATA_LOSS"
    assert "UNIQUE" not in str(failure.value), "what the database says is not for clients"
    assert yard.holders() == before


async def test_a_fleet_whose_invariant_broke_takes_no_more_writes_and_can_still_be_read(
    yard: Yard,
) -> None:
    yard.make_memory_wrong(0)
    with pytest.raises(InvariantViolated):
        await yard.client.acquire(FLEET, blocks=1, holder="second")
    with pytest.raises(InvariantViolated):
        await yard.client.release_by_token(FLEET, "first")
    with pytest.raises(InvariantViolated):
        await yard.client.create_instance(FLEET, "node-2", total_blocks=8)

    assert (await yard.client.describe(FLEET, view=DescribeView.FULL)).totals.busy_blocks == 3
    await yard.client.create_fleet("another")
    await yard.client.create_instance("another", "node-1", total_blocks=8)
    assert (await yard.client.acquire("another", blocks=8, holder="job")).allocation.placements


async def test_verify_names_the_instance_that_memory_is_wrong_about_and_halts_the_fleet(yard: Yard) -> None:
    yard.make_memory_wrong(0b1111_0000)

    report = await yard.client.verify(FLEET)

    assert not report.clean
    assert {(found.check, found.instance) for found in report.discrepancies} == {(Check.MEMORY, "node-1")}
    with pytest.raises(InvariantViolated):
        await yard.client.acquire(FLEET, blocks=1, holder="second")
    assert (await yard.client.verify(FLEET)).clean, "the wrong memory was thrown away"
    assert (await yard.client.get_fleet(FLEET)).halted, "nobody has said yet that all is well"


async def test_a_restart_serves_the_fleet_no_more_than_before_but_a_repair_that_finds_nothing_does(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as running, client_of(running) as client:
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "node-1", total_blocks=8)
        await client.acquire(FLEET, blocks=3, holder="first", token="first")
        Yard(running, client, tmp_path / "blockyard.db").make_memory_wrong(0)
        with pytest.raises(InvariantViolated):
            await client.acquire(FLEET, blocks=1, holder="second", token="second")
    async with serving(tmp_path) as running, client_of(running) as client:
        await check_fleet(client, FLEET)
        with pytest.raises(InvariantViolated):
            await client.acquire(FLEET, blocks=5, holder="second", token="second")
        assert not (await client.repair(FLEET, apply=True)).corrections
        grant = await client.acquire(FLEET, blocks=5, holder="second", token="second")
        assert not grant.replayed
        await client.release_by_token(FLEET, "first")
        await check_fleet(client, FLEET)


async def test_what_another_program_did_to_the_rows_is_reported_and_left_as_it_is(yard: Yard) -> None:
    with closing(sqlite3.connect(yard.data, isolation_level=None)) as vandal:
        vandal.execute("UPDATE instances SET busy_blocks = 5")
        vandal.execute("DELETE FROM tokens WHERE token = 'first'")
    for _ in range(2):
        report = await yard.client.verify(FLEET)
        found = {(discrepancy.check, discrepancy.instance) for discrepancy in report.discrepancies}
        assert (Check.COUNTER, "node-1") in found
        assert Check.TOKEN in {check for check, _ in found}
    assert (await yard.client.get_instance(FLEET, "node-1")).busy_blocks == 5, "neither clamped nor mended"
