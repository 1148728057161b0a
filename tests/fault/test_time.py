"""Time that stands still for a server, and clocks that are set while leases run: none ends early, and none stays."""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from blockyard import AllocationEnded, AllocationState, AsyncClient, LeaseExpired, NoCapacity, TokenCancelled
from tests.harness.deployments import Deployment, deployed
from tests.harness.in_process import client_of, serving
from tests.harness.journal import check_fleet
from tests.harness.patience import eventually
from tests.harness.process import ServerProcess
from tests.harness.samples import some_at_first

FLEET = "gpu"
HOUR_S = 3600
DAY_S = 24 * HOUR_S

Step = Callable[[int], None]

STEPPED_CLOCK = """
CREATE SCHEMA clockwork;
CREATE SEQUENCE clockwork.step MINVALUE -1000000 START 0;
ALTER FUNCTION pg_catalog.clock_timestamp() RENAME TO clock_timestamp_of_the_system;
CREATE FUNCTION pg_catalog.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql AS
  'SELECT pg_catalog.clock_timestamp_of_the_system() + last_value * interval ''1 second'' FROM clockwork.step';
"""
"""In the place of PostgreSQL's own, in this database alone: a search path with another one changes nothing."""


async def test_a_server_that_is_frozen_past_a_lease_gives_its_blocks_to_one_holder_only(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, sweep_interval_s=0.05) as server:
        await asyncio.to_thread(server.start)
        async with AsyncClient(server.address) as client:
            await client.create_fleet(FLEET)
            await client.create_instance(FLEET, "node-1", total_blocks=1)
            lease = await client.acquire(FLEET, blocks=1, holder="before", ttl=timedelta(seconds=0.5))
            server.freeze()
            await asyncio.sleep(1.0)
            server.thaw()
            after = await client.acquire(FLEET, blocks=1, holder="after")
            assert after.allocation.fencing_token > lease.allocation.fencing_token
            with pytest.raises(LeaseExpired):
                await client.renew(lease.allocation)
            journal = await check_fleet(client, FLEET)
            assert journal.live == {after.allocation.name}


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
async def test_a_wall_clock_that_is_set_between_two_starts_ends_no_lease_early(
    tmp_path: Path, by_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, restart_grace_s=HOUR_S) as running, client_of(running) as client:
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "node-1", total_blocks=1)
        lease = await client.acquire(FLEET, blocks=1, holder="job", ttl=timedelta(minutes=5))
    now_ns = time.time_ns
    readings: list[int] = []

    def set_ns() -> int:
        readings.append(now_ns() + by_s * 1_000_000_000)
        return readings[-1]

    monkeypatch.setattr(time, "time_ns", set_ns)
    async with serving(tmp_path, restart_grace_s=HOUR_S) as running, client_of(running) as client:
        with pytest.raises(NoCapacity):
            await client.acquire(FLEET, blocks=1, holder="rival")
        renewal = await client.renew(lease.allocation)
        assert renewal.allocation.name == lease.allocation.name
        assert renewal.allocation.expire_time is not None
        assert renewal.allocation.expire_time - renewal.server_time <= timedelta(minutes=5)
        await check_fleet(client, FLEET)
    assert readings, "nobody has looked at the clock that was set"


@pytest.fixture
def stepped(database: str) -> Step:
    """Sets the clock of the PostgreSQL at `database`, as its servers see it."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(STEPPED_CLOCK)

    def step(by_s: int) -> None:
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("SELECT setval('clockwork.step', %s)", (by_s,))

    return step


def _offset_s(database: str) -> float:
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute("SELECT clock_offset_us FROM fleets").fetchone()
    assert row is not None
    return float(row[0]) / 1_000_000


@pytest.mark.parametrize("by_s", [HOUR_S, -HOUR_S])
async def test_a_databases_clock_that_is_set_ends_no_lease_early_and_keeps_none_for_ever(
    tmp_path: Path, database: str, stepped: Step, by_s: int
) -> None:
    with deployed(Deployment(3, lambda: database)):
        async with serving(tmp_path, restart_grace_s=HOUR_S, sweep_interval_s=0.05) as all_, client_of(all_) as client:
            await client.create_fleet(FLEET)
            await client.create_instance(FLEET, "node-1", total_blocks=2)
            lease = await client.acquire(FLEET, blocks=1, holder="job", ttl=timedelta(minutes=5))
            for _ in range(6):
                await client.renew(lease.allocation)
            await asyncio.to_thread(stepped, by_s)
            for _ in range(6):
                assert (await client.renew(lease.allocation)).allocation.name == lease.allocation.name
            assert await asyncio.to_thread(_offset_s, database) == pytest.approx(-by_s, abs=60)
            short = await client.acquire(FLEET, blocks=1, holder="short", ttl=timedelta(seconds=0.5))
            with pytest.raises(NoCapacity):
                await client.acquire(FLEET, blocks=2, holder="rival")

            async def short_is_over() -> bool:
                return (await client.get_allocation(short.allocation.name)).end_time is not None

            await eventually(short_is_over, "a lease of half a second ended")
            await client.renew(lease.allocation)
            await check_fleet(client, FLEET)


async def _use_up_two_tokens(client: AsyncClient) -> str:
    """One token is granted and released, the other is cancelled. Answers the name of the first one's allocation."""
    await client.create_fleet(FLEET)
    await client.create_instance(FLEET, "node-1", total_blocks=2)
    released = await client.acquire(FLEET, blocks=1, holder="job", token="released")
    await client.release(released.allocation)
    await client.release_by_token(FLEET, "cancelled")
    return released.allocation.name


async def _expect_all_remembered(client: AsyncClient, name: str) -> None:
    with pytest.raises(AllocationEnded):
        await client.acquire(FLEET, blocks=1, holder="job", token="released")
    with pytest.raises(TokenCancelled):
        await client.acquire(FLEET, blocks=1, holder="job", token="cancelled")
    assert (await client.get_allocation(name)).state is AllocationState.RELEASED
    await check_fleet(client, FLEET)  # from revision 1 on


@pytest.mark.parametrize("by_s", some_at_first([10 * DAY_S, -10 * DAY_S, 40 * DAY_S], 1))
async def test_starts_with_a_clock_that_is_days_off_forget_no_token_no_allocation_and_no_event(
    tmp_path: Path, by_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as running, client_of(running) as client:
        name = await _use_up_two_tokens(client)
    now_ns = time.time_ns
    for start_by_s in (by_s, by_s, 2 * by_s, 0):
        monkeypatch.setattr(time, "time_ns", lambda by_s=start_by_s: now_ns() + by_s * 1_000_000_000)
        async with serving(tmp_path) as running, client_of(running) as client:
            for _ in range(3):
                await running.engine._sweeper.round()
            await _expect_all_remembered(client, name)
            # Events in the future, which later starts go on from.
            await client.release((await client.acquire(FLEET, blocks=1, holder="later")).allocation)


@pytest.mark.slow
async def test_a_databases_clock_that_is_days_ahead_makes_no_server_forget_a_token(
    tmp_path: Path, database: str, stepped: Step
) -> None:
    with deployed(Deployment(3, lambda: database)):
        async with serving(tmp_path) as running, client_of(running) as client:
            name = await _use_up_two_tokens(client)
            await asyncio.to_thread(stepped, 10 * DAY_S)
            for _ in range(3):
                await running.engine._sweeper.round()
                await _expect_all_remembered(client, name)
        # And as after a fail-over with every server away: nobody can tell how much of it was a step.
        await asyncio.to_thread(stepped, 80 * DAY_S)
        async with serving(tmp_path) as running, client_of(running) as client:
            for _ in range(3):
                await running.engine._sweeper.round()
                await _expect_all_remembered(client, name)


@pytest.mark.parametrize("by_s", [DAY_S, 400 * DAY_S])
async def test_by_default_no_start_ends_a_lease_early_however_long_it_is(
    tmp_path: Path, by_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path, restart_grace_s=None) as running, client_of(running) as client:
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "node-1", total_blocks=1)
        lease = await client.acquire(FLEET, blocks=1, holder="job", ttl=timedelta(hours=24))
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + by_s * 1_000_000_000)
    async with serving(tmp_path, restart_grace_s=None) as running, client_of(running) as client:
        found = await client.get_allocation(lease.allocation.name)
        assert found.expire_time is not None
        left = found.expire_time - (await client.describe(FLEET)).server_time
        assert timedelta(hours=23, minutes=50) < left <= timedelta(hours=24)
        await check_fleet(client, FLEET)
