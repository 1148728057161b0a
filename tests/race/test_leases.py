"""Renew against expiry: one predicate decides, commit order settles the rest, and the sweeper only sweeps."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from blockyard import (
    AllocationEnded,
    AllocationState,
    AsyncClient,
    EventKind,
    Grant,
    LeaseExpired,
    NoCapacity,
    ReleaseOutcome,
    Renewal,
    operations,
)
from blockyard_server.engine.clock import ManualClock
from tests.harness.in_process import client_of, serving
from tests.harness.journal import check_fleet
from tests.harness.one_shot import OneShotClient
from tests.harness.patience import eventually
from tests.harness.samples import some_at_first

pytestmark = pytest.mark.every_deployment

FLEET = "gpu"
SECOND_US = 1_000_000


@dataclass
class Yard:
    """A fleet of 8 blocks, a clock that stands, and a sweeper that never comes by itself."""

    client: AsyncClient
    impatient: OneShotClient
    clock: ManualClock


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    clock = ManualClock()
    async with (
        serving(tmp_path, clock=clock, sweep_interval_s=3600) as running,
        client_of(running) as client,
        OneShotClient(running.address) as impatient,
    ):
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "node-1", total_blocks=8)
        yield Yard(client, impatient, clock)


async def test_a_lease_is_renewable_one_microsecond_before_its_end(yard: Yard) -> None:
    grant = await yard.client.acquire(FLEET, blocks=8, holder="job", ttl=10)
    yard.clock.advance(10 * SECOND_US - 1)
    renewed = await yard.client.renew(grant.allocation)
    assert renewed.allocation.state is AllocationState.HELD
    assert grant.allocation.expire_time is not None
    assert renewed.allocation.expire_time == grant.allocation.expire_time + timedelta(seconds=10, microseconds=-1)
    await check_fleet(yard.client, FLEET)


async def test_at_its_expire_time_a_lease_is_not_renewable(yard: Yard) -> None:
    grant = await yard.client.acquire(FLEET, blocks=8, holder="job", ttl=10)
    yard.clock.advance(10 * SECOND_US)
    with pytest.raises(LeaseExpired):
        await yard.client.renew(grant.allocation)
    await check_fleet(yard.client, FLEET)


async def test_at_its_expire_time_a_lease_is_not_shown_as_held_though_nobody_swept(yard: Yard) -> None:
    grant = await yard.client.acquire(FLEET, blocks=8, holder="job", ttl=10)
    yard.clock.advance(10 * SECOND_US - 1)
    assert (await yard.client.describe(FLEET)).totals.busy_blocks == 8
    yard.clock.advance(1)
    assert (await yard.client.describe(FLEET)).totals.busy_blocks == 0
    shown = await yard.client.get_allocation(grant.allocation.name)
    assert shown.state is AllocationState.EXPIRED
    assert shown.end_time == grant.allocation.expire_time
    await check_fleet(yard.client, FLEET)


async def test_at_its_expire_time_a_leases_blocks_are_anothers_though_nobody_swept(yard: Yard) -> None:
    old = await yard.client.acquire(FLEET, blocks=8, holder="old", ttl=10)
    yard.clock.advance(10 * SECOND_US - 1)
    with pytest.raises(NoCapacity):
        await yard.client.acquire(FLEET, blocks=1, holder="new")
    yard.clock.advance(1)
    new = await yard.client.acquire(FLEET, blocks=8, holder="new")
    assert new.allocation.fencing_token > old.allocation.fencing_token
    assert (await yard.client.release(old.allocation)).outcome is ReleaseOutcome.ALREADY_EXPIRED
    with pytest.raises(AllocationEnded):
        await yard.client.acquire(FLEET, blocks=8, holder="old", ttl=10, token=old.allocation.idempotency_token)
    journal = await check_fleet(yard.client, FLEET)
    assert journal.live == {new.allocation.name}


async def test_when_renewals_and_rivals_meet_at_the_end_of_a_lease_one_side_has_the_block(yard: Yard) -> None:
    """Rounds of eight leases: at their last instant, or at their end, all holders renew and eight rivals acquire."""
    for turn in range(6):
        at_the_end = turn % 2 == 1
        grants = [await yard.client.acquire(FLEET, blocks=1, holder=f"holder-{n}", ttl=10) for n in range(8)]
        yard.clock.advance(10 * SECOND_US - (0 if at_the_end else 1))
        renewals = [yard.impatient.start(operations.renew(grant.allocation)) for grant in grants]
        rivals = [yard.impatient.start(operations.acquire(FLEET, blocks=1, holder=f"rival-{n}")) for n in range(8)]
        kept = [await each.outcome() for each in renewals]
        won = [await each.outcome() for each in rivals]
        if at_the_end:
            assert all(isinstance(outcome, LeaseExpired) for outcome in kept)
            assert all(isinstance(outcome, Grant) for outcome in won)
        else:
            assert all(isinstance(outcome, Renewal) for outcome in kept)
            assert all(isinstance(outcome, NoCapacity) for outcome in won)
        journal = await check_fleet(yard.client, FLEET)
        assert len(journal.holds) == 8
        await asyncio.gather(*(yard.client.release(name) for name in journal.live))


@pytest.mark.parametrize("seed", some_at_first(range(3), 1))
async def test_renewals_race_a_clock_that_runs(yard: Yard, seed: int) -> None:
    """Time passes while renewals, releases and rivals are in flight; the journal shows who was in time."""
    dice = Random(seed)

    def time_passes() -> None:
        # Twelve holders take turns, so that between two calls of one holder about a lease's time passes.
        yard.clock.advance(dice.randrange(2 * SECOND_US))

    async def hold_on(number: int) -> None:
        for _ in range(8):
            time_passes()
            try:
                grant = await yard.impatient.send(
                    operations.acquire(FLEET, blocks=1 + number % 2, holder=f"holder-{number}", ttl=12)
                )
                for _ in range(4):
                    time_passes()
                    await yard.impatient.send(operations.renew(grant.allocation))
            except (NoCapacity, LeaseExpired):
                continue
            result = await yard.impatient.send(operations.release(grant.allocation))
            assert result.outcome in {ReleaseOutcome.RELEASED, ReleaseOutcome.ALREADY_EXPIRED}

    await asyncio.gather(*(hold_on(number) for number in range(12)))
    yard.clock.advance(12 * SECOND_US)
    journal = await check_fleet(yard.client, FLEET)
    assert journal.live == set()
    kinds = {event.kind async for event in yard.client.list_events(FLEET)}
    assert {EventKind.RENEWED, EventKind.RELEASED, EventKind.EXPIRED} <= kinds, "each side of the race won sometimes"


async def test_the_sweeper_frees_what_nobody_asks_about(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, sweep_interval_s=0.01) as running, client_of(running) as client:
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "node-1", total_blocks=8)
        await client.acquire(FLEET, blocks=8, holder="job", ttl=10)
        clock.advance(10 * SECOND_US)

        async def swept() -> bool:
            # The journal is read as it is, without a sweep: only the sweeper can put this event there.
            return EventKind.EXPIRED in {event.kind async for event in client.list_events(FLEET)}

        await eventually(swept, "the sweeper came")
        await check_fleet(client, FLEET)


async def test_after_a_restart_no_lease_that_was_alive_ends_before_the_grace_has_passed(tmp_path: Path) -> None:
    clock = ManualClock()
    async with serving(tmp_path, clock=clock, sweep_interval_s=3600) as running, client_of(running) as client:
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "node-1", total_blocks=8)
        short = (await client.acquire(FLEET, blocks=2, holder="short", ttl=25)).allocation
        long = (await client.acquire(FLEET, blocks=2, holder="long", ttl=1000)).allocation
        ended = (await client.acquire(FLEET, blocks=2, holder="ended", ttl=1)).allocation
        clock.advance(SECOND_US)
        with pytest.raises(LeaseExpired):
            await client.renew(ended)
    clock.advance(30 * SECOND_US)
    async with (
        serving(tmp_path, clock=clock, sweep_interval_s=3600, restart_grace_s=20) as running,
        client_of(running) as client,
    ):
        clock.advance(20 * SECOND_US - 1)
        assert (await client.get_allocation(short.name)).state is AllocationState.HELD
        assert (await client.get_allocation(long.name)).expire_time == long.expire_time
        with pytest.raises(LeaseExpired):
            await client.renew(ended)
        clock.advance(1)
        with pytest.raises(LeaseExpired):
            await client.renew(short)
        await client.renew(long)
        await check_fleet(client, FLEET)
