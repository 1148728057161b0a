"""More acquires than blocks, all at once: exactly as many grants as there are blocks, and no error but NO_CAPACITY."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from blockyard import Grant, NoCapacity, operations
from blockyard_server.domain import errors
from blockyard_server.domain.answers import Grant as EngineGrant
from blockyard_server.domain.requests import Acquire, CreateFleet, CreateInstance, Demand, FleetFields, InstanceFields
from blockyard_server.engine.clock import SystemClock
from blockyard_server.engine.engine import Engine, EngineSettings
from blockyard_server.store.sqlite.store import SqliteStore
from tests.harness.in_process import client_of, serving
from tests.harness.journal import blocks_of, check_fleet
from tests.harness.one_shot import OneShotClient

FLEET = "gpu"
ASKED = 200
BLOCKS = 100


@pytest.mark.every_deployment
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((100,), id="one instance", marks=pytest.mark.slow),
        pytest.param((50, 50), id="two", marks=pytest.mark.slow),
        pytest.param((10,) * 10, id="ten"),
    ],
)
async def test_two_hundred_acquires_for_a_hundred_blocks_over_grpc(tmp_path: Path, sizes: Sequence[int]) -> None:
    async with serving(tmp_path) as running, client_of(running) as client, AsyncExitStack() as connections:
        await client.create_fleet(FLEET)
        for number, size in enumerate(sizes):
            await client.create_instance(FLEET, f"node-{number}", total_blocks=size)
        several = [await connections.enter_async_context(OneShotClient(running.address)) for _ in range(4)]

        calls = [operations.acquire(FLEET, blocks=1, holder=f"job-{n}") for n in range(ASKED)]
        shares = [calls[n :: len(several)] for n in range(len(several))]
        answers = await asyncio.gather(
            *(connection.send_all(share) for connection, share in zip(several, shares, strict=True))
        )

        outcomes = [outcome for answer in answers for outcome in answer]
        grants = [outcome for outcome in outcomes if isinstance(outcome, Grant)]
        refusals = [outcome for outcome in outcomes if isinstance(outcome, NoCapacity)]
        assert (len(grants), len(refusals)) == (BLOCKS, ASKED - BLOCKS)
        assert len({block for grant in grants for block in blocks_of(grant.allocation.placements)}) == BLOCKS
        journal = await check_fleet(client, FLEET)
        assert journal.live == {grant.allocation.name for grant in grants}


@pytest.mark.every_deployment
async def test_acquires_of_many_sizes_never_take_more_than_there_is(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as running,
        client_of(running) as client,
        OneShotClient(running.address) as impatient,
    ):
        await client.create_fleet(FLEET)
        for number in range(5):
            await client.create_instance(FLEET, f"node-{number}", total_blocks=20)
        calls = [operations.acquire(FLEET, blocks=1 + n % 7, holder=f"job-{n}") for n in range(ASKED)]
        outcomes = await impatient.send_all(calls)
        grants = [outcome for outcome in outcomes if isinstance(outcome, Grant)]
        assert all(isinstance(outcome, Grant | NoCapacity) for outcome in outcomes)
        snapshot = await client.describe(FLEET)
        assert snapshot.totals.busy_blocks == sum(len(blocks_of(g.allocation.placements)) for g in grants)
        assert snapshot.totals.idle_blocks == 0, "somebody asked for one block, so none is left"
        await check_fleet(client, FLEET)


@asynccontextmanager
async def started_engine(folder: Path) -> AsyncIterator[Engine]:
    engine = Engine(SqliteStore(folder / "blockyard.db"), SystemClock(), EngineSettings())
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def test_two_hundred_acquires_for_a_hundred_blocks_against_the_writer(tmp_path: Path) -> None:
    async with started_engine(tmp_path) as engine:
        await engine.submit(CreateFleet(FLEET, FleetFields()))
        for number in range(2):
            await engine.submit(CreateInstance(FLEET, f"node-{number}", InstanceFields(BLOCKS // 2)))
        demand = (Demand(blocks=1),)
        requests = [Acquire(FLEET, "default", f"token-{n}", f"job-{n}", demand) for n in range(ASKED)]

        outcomes = await asyncio.gather(*(engine.submit(request) for request in requests), return_exceptions=True)

        grants = [outcome for outcome in outcomes if isinstance(outcome, EngineGrant)]
        refusals = [outcome for outcome in outcomes if isinstance(outcome, errors.NoCapacity)]
        assert (len(grants), len(refusals)) == (BLOCKS, ASKED - BLOCKS)
        held = {
            (instance, block)
            for grant in grants
            for instance, blocks in grant.view.allocation.placements
            for block in blocks
        }
        assert len(held) == BLOCKS
        report = await engine.verify(FLEET)
        assert (report.clean, report.held_blocks_checked, report.allocations_checked) == (True, BLOCKS, BLOCKS)


@pytest.mark.every_deployment
async def test_acquires_and_releases_that_chase_each_other_leave_every_block_idle(tmp_path: Path) -> None:
    """Sixteen schedulers on eight blocks, each over and over: waits for no one, gives back what it got."""
    async with serving(tmp_path) as running, client_of(running) as client:
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "node-1", total_blocks=8)

        async def schedule(name: str) -> int:
            got = 0
            for _ in range(20):
                try:
                    grant = await client.acquire(FLEET, blocks=1, holder=name)
                except NoCapacity:
                    continue
                got += 1
                await client.release(grant.allocation, holder=name, fencing_token=grant.allocation.fencing_token)
            return got

        got = await asyncio.gather(*(schedule(f"scheduler-{n}") for n in range(16)))
        assert sum(got) >= 8
        journal = await check_fleet(client, FLEET)
        assert len(journal.granted) == sum(got)
        assert journal.live == set()
