"""The story that Blockyard was made for, and the cases in which dstack's counter drifted, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blockyard import (
    AsyncClient,
    BlockNotGranted,
    Demand,
    Grant,
    InstanceInUse,
    InstanceState,
    NoCapacity,
    NotHolder,
    Placement,
    ReleaseOutcome,
    StaleFencingToken,
)
from tests.harness.in_process import client_of, serving
from tests.harness.journal import check_fleet

pytestmark = pytest.mark.every_deployment

FLEET = "gpu"
NODE = "node-1"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """A fleet with one instance of eight blocks."""
    async with serving(tmp_path) as running, client_of(running) as client:
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, NODE, total_blocks=8)
        yield client


async def busy_and_idle(client: AsyncClient) -> tuple[int, int]:
    totals = (await client.describe(FLEET)).totals
    return totals.busy_blocks, totals.idle_blocks


async def verified(client: AsyncClient) -> bool:
    return (await client.verify(FLEET)).clean


async def acquire_one_each(client: AsyncClient, replicas: int) -> list[Grant]:
    grants = [client.acquire(FLEET, blocks=1, holder=f"replica-{n}") for n in range(replicas)]
    return list(await asyncio.gather(*grants))


async def test_six_replicas_leave_two_idle_and_their_doubled_releases_leave_eight(client: AsyncClient) -> None:
    assert await busy_and_idle(client) == (0, 8)
    grants = []
    for replica in range(6):
        grants.append(await client.acquire(FLEET, blocks=1, holder=f"replica-{replica}"))
        assert await verified(client)
    assert await busy_and_idle(client) == (6, 2)

    twice = [client.release(grant.allocation) for grant in grants for _ in range(2)]
    results = await asyncio.gather(*twice)

    outcomes = [result.outcome for result in results]
    assert outcomes.count(ReleaseOutcome.RELEASED) == 6
    assert outcomes.count(ReleaseOutcome.ALREADY_RELEASED) == 6
    assert await busy_and_idle(client) == (0, 8)
    assert await verified(client)
    await check_fleet(client, FLEET)


async def test_verify_is_clean_at_every_moment_of_the_story(client: AsyncClient) -> None:
    over = asyncio.Event()

    async def verify_until_over() -> int:
        checks = 0
        while not over.is_set() or checks == 0:
            report = await client.verify(FLEET)
            assert report.clean, report.discrepancies
            checks += 1
        return checks

    watching = asyncio.create_task(verify_until_over())
    for _ in range(5):
        grants = await acquire_one_each(client, 6)
        await asyncio.gather(*(client.release(grant.allocation) for grant in grants for _ in range(2)))
    over.set()
    assert await watching > 0
    assert await busy_and_idle(client) == (0, 8)


@pytest.mark.parametrize("replicas", [2, 5, 8])
async def test_so_many_concurrent_releases_leave_nothing_busy(client: AsyncClient, replicas: int) -> None:
    grants = await acquire_one_each(client, replicas)
    assert await busy_and_idle(client) == (replicas, 8 - replicas)
    results = await asyncio.gather(*(client.release(grant.allocation) for grant in grants))
    assert {result.outcome for result in results} == {ReleaseOutcome.RELEASED}
    assert await busy_and_idle(client) == (0, 8)
    await check_fleet(client, FLEET)


async def test_a_release_with_a_wrong_idea_of_the_size_frees_what_was_granted(client: AsyncClient) -> None:
    """dstack's job was granted two blocks, its release counted back eight."""
    kept = (await client.acquire(FLEET, blocks=3, holder="other")).allocation
    mine = (await client.acquire(FLEET, blocks=2, holder="job")).allocation
    (granted,) = mine.placements

    with pytest.raises(BlockNotGranted):
        await client.release(mine, placements=[Placement(NODE, tuple(range(8)))])
    assert await busy_and_idle(client) == (5, 3)

    first, last = granted.blocks
    assert (await client.release(mine, placements=[Placement(NODE, (first,))])).outcome is ReleaseOutcome.RELEASED
    both = await client.release(mine, placements=[Placement(NODE, granted.blocks)])
    assert both.outcome is ReleaseOutcome.RELEASED
    assert both.allocation is not None
    assert both.allocation.placements == (Placement(NODE, (last,)),), "what was held at the end"
    again = await client.release(mine)
    assert again.outcome is ReleaseOutcome.ALREADY_RELEASED
    assert await busy_and_idle(client) == (3, 5)
    assert (await client.get_allocation(kept.name)).placements == kept.placements
    await check_fleet(client, FLEET)


async def test_a_release_with_a_wrong_idea_of_the_holder_or_the_grant_frees_nothing(client: AsyncClient) -> None:
    mine = (await client.acquire(FLEET, blocks=2, holder="job")).allocation
    with pytest.raises(NotHolder):
        await client.release(mine, holder="another")
    with pytest.raises(StaleFencingToken):
        await client.release(mine, fencing_token=mine.fencing_token + 1)
    assert await busy_and_idle(client) == (2, 6)
    await check_fleet(client, FLEET)


async def test_an_instance_cannot_be_deleted_under_its_holders_and_can_once_they_left(client: AsyncClient) -> None:
    grants = await acquire_one_each(client, 6)
    with pytest.raises(InstanceInUse):
        await client.delete_instance(FLEET, NODE)
    assert await busy_and_idle(client) == (6, 2)
    await asyncio.gather(*(client.release(grant.allocation) for grant in grants))
    await client.delete_instance(FLEET, NODE)
    assert await busy_and_idle(client) == (0, 0)

    late = await client.release(grants[0].allocation)
    assert late.outcome is ReleaseOutcome.ALREADY_RELEASED
    await client.create_instance(FLEET, NODE, total_blocks=8)
    late = await client.release(grants[1].allocation)
    assert late.outcome is ReleaseOutcome.ALREADY_RELEASED
    assert await busy_and_idle(client) == (0, 8), "an instance of the same name owes nothing to the one before"
    await check_fleet(client, FLEET)


async def test_deleting_an_instance_while_its_last_holders_leave_never_loses_a_block(client: AsyncClient) -> None:
    grants = await acquire_one_each(client, 8)

    async def delete_until_it_goes() -> int:
        refusals = 0
        while True:
            try:
                await client.delete_instance(FLEET, NODE)
            except InstanceInUse:
                refusals += 1
            else:
                return refusals

    deleting = asyncio.create_task(delete_until_it_goes())
    results = await asyncio.gather(*(client.release(grant.allocation) for grant in grants))
    await deleting
    assert {result.outcome for result in results} == {ReleaseOutcome.RELEASED}
    assert await busy_and_idle(client) == (0, 0)
    await check_fleet(client, FLEET)


@pytest.mark.parametrize("state", [InstanceState.OFFLINE, InstanceState.CORDONED])
async def test_what_is_held_on_an_instance_that_takes_no_grants_is_still_released(
    client: AsyncClient, state: InstanceState
) -> None:
    grants = await acquire_one_each(client, 6)
    await client.update_instance(FLEET, NODE, state=state)
    with pytest.raises(NoCapacity):
        await client.acquire(FLEET, blocks=1, holder="late")
    flagged = [(await client.get_allocation(grant.allocation.name)).offline_instances for grant in grants]
    assert flagged == [(NODE,) if state is InstanceState.OFFLINE else ()] * 6
    assert await busy_and_idle(client) == (6, 2)

    await asyncio.gather(*(client.release(grant.allocation) for grant in grants for _ in range(2)))
    assert await busy_and_idle(client) == (0, 8)
    assert await verified(client)
    await client.update_instance(FLEET, NODE, state=InstanceState.ACTIVE)
    assert len(await acquire_one_each(client, 8)) == 8
    await check_fleet(client, FLEET)


async def test_two_demands_that_only_together_exceed_an_instance_take_nothing(client: AsyncClient) -> None:
    five = Demand(blocks=5, instance_names=(NODE,))
    with pytest.raises(NoCapacity):
        await client.acquire(FLEET, demands=[five, five], holder="job")
    assert await busy_and_idle(client) == (0, 8)
    assert (await client.acquire(FLEET, demands=[five], holder="job")).allocation.placements
    with pytest.raises(NoCapacity):
        await client.acquire(FLEET, demands=[five], holder="job")
    assert await busy_and_idle(client) == (5, 3)
    await check_fleet(client, FLEET)


async def test_two_demands_that_only_together_exceed_what_is_idle_take_nothing(client: AsyncClient) -> None:
    await client.acquire(FLEET, blocks=2, holder="before")
    four = Demand(blocks=4)
    with pytest.raises(NoCapacity):
        await client.acquire(FLEET, demands=[four, four], holder="job")
    assert await busy_and_idle(client) == (2, 6)
    await check_fleet(client, FLEET)


async def test_a_gang_that_fits_only_partly_takes_nothing(client: AsyncClient) -> None:
    await client.create_instance(FLEET, "node-2", total_blocks=8)
    await client.create_instance(FLEET, "node-3", total_blocks=8)
    before = (await client.acquire(FLEET, blocks=5, holder="before", instance_names=["node-3"])).allocation
    with pytest.raises(NoCapacity):
        await client.acquire(FLEET, instances=3, blocks=4, holder="gang", token="gang")
    assert await busy_and_idle(client) == (5, 19)
    await check_fleet(client, FLEET)

    await client.release(before)
    gang = await client.acquire(FLEET, instances=3, blocks=4, holder="gang", token="gang")
    assert not gang.replayed, "a refusal leaves the token unused"
    assert {placement.instance for placement in gang.allocation.placements} == {NODE, "node-2", "node-3"}
    assert await busy_and_idle(client) == (12, 12)
    await check_fleet(client, FLEET)


async def test_gangs_that_compete_for_the_same_instances_are_granted_whole_or_not_at_all(client: AsyncClient) -> None:
    for number in (2, 3, 4):
        await client.create_instance(FLEET, f"node-{number}", total_blocks=8)

    async def ask(number: int) -> Grant | None:
        try:
            return await client.acquire(FLEET, instances=3, blocks=3, holder=f"gang-{number}")
        except NoCapacity:
            return None

    answers = await asyncio.gather(*(ask(number) for number in range(20)))
    grants = [grant for grant in answers if grant is not None]
    assert grants, "the first gang fits"
    assert all([len(p.blocks) for p in grant.allocation.placements] == [3, 3, 3] for grant in grants)
    assert await busy_and_idle(client) == (9 * len(grants), 32 - 9 * len(grants))
    await check_fleet(client, FLEET)
