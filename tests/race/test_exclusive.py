"""An exclusive grant owns its instance for as long as it has a block there, whatever becomes of the instance."""

from pathlib import Path

import pytest

from blockyard import AsyncClient, NoCapacity, Placement
from tests.harness.in_process import client_of, serving
from tests.harness.journal import check_fleet

FLEET = "gpu"

pytestmark = pytest.mark.every_deployment


async def _expect_nothing_acquirable(client: AsyncClient, *, busy: int, total: int) -> None:
    snapshot = await client.describe(FLEET)
    counts = (snapshot.totals.busy_blocks, snapshot.totals.idle_blocks, snapshot.totals.acquirable_blocks)
    assert counts == (busy, total - busy, 0)
    for wish in ({"blocks": 1}, {"exclusive": True}, {"blocks": 1, "instance_names": ["i1"]}):
        with pytest.raises(NoCapacity):
            await client.acquire(FLEET, holder="intruder", **wish)
    await check_fleet(client, FLEET)
    assert (await client.verify(FLEET)).clean


async def test_blocks_that_are_added_to_an_exclusively_held_instance_are_nobodys_until_it_is_released(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as running, client_of(running) as client:
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "i1", total_blocks=4)
        alone = (await client.acquire(FLEET, exclusive=True, holder="alone")).allocation
        assert alone.exclusive_instances == ("i1",)
        await client.update_instance(FLEET, "i1", total_blocks=8)
        for _ in range(3):  # each of several servers, one of which made the grant
            await _expect_nothing_acquirable(client, busy=4, total=8)
    async with serving(tmp_path) as running, client_of(running) as client:
        for _ in range(3):
            await _expect_nothing_acquirable(client, busy=4, total=8)
        assert (await client.get_allocation(alone.name)).exclusive_instances == ("i1",)
        await client.release(alone, placements=[Placement("i1", (0, 1, 2))])
        await _expect_nothing_acquirable(client, busy=1, total=8)
        await client.release(alone)
        assert (await client.describe(FLEET)).totals.acquirable_blocks == 8
        other = (await client.acquire(FLEET, blocks=8, holder="other")).allocation
        assert other.exclusive_instances == ()
        await check_fleet(client, FLEET)


async def test_a_grant_that_is_not_exclusive_owns_nothing_but_its_blocks(tmp_path: Path) -> None:
    async with serving(tmp_path) as running, client_of(running) as client:
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "i1", total_blocks=4)
        await client.acquire(FLEET, blocks=4, holder="all of it")
        await client.update_instance(FLEET, "i1", total_blocks=5)
        await client.acquire(FLEET, blocks=1, holder="another")
        await check_fleet(client, FLEET)
