"""One intent, asked for many times at once: one grant. And a release by token that races its Acquire: never a leak."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from blockyard import (
    AllocationEnded,
    AsyncClient,
    CallFailed,
    Grant,
    NoCapacity,
    Operation,
    ReleaseOutcome,
    ReleaseResult,
    TokenCancelled,
    TokenMismatch,
    operations,
)
from tests.harness.in_process import client_of, serving
from tests.harness.journal import check_fleet
from tests.harness.one_shot import OneShotClient
from tests.harness.samples import some_at_first

pytestmark = pytest.mark.every_deployment

FLEET = "gpu"
COPIES = 50


@dataclass
class Yard:
    """A fleet of 8 blocks and two kinds of clients."""

    client: AsyncClient
    impatient: OneShotClient


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with (
        serving(tmp_path) as running,
        client_of(running) as client,
        OneShotClient(running.address) as impatient,
    ):
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "node-1", total_blocks=8)
        yield Yard(client, impatient)


def one_block(token: str, holder: str = "job") -> Operation[Grant]:
    return operations.acquire(FLEET, blocks=1, holder=holder, token=token)


async def test_fifty_copies_of_one_acquire_in_flight_are_one_grant_and_fifty_equal_answers(yard: Yard) -> None:
    outcomes = await yard.impatient.send_all([one_block("intent")] * COPIES)
    grants = [outcome for outcome in outcomes if isinstance(outcome, Grant)]
    assert len(grants) == COPIES
    assert [grant.replayed for grant in grants].count(False) == 1
    first = grants[0]
    assert {(g.allocation.name, g.revision, g.allocation.placements) for g in grants} == {
        (first.allocation.name, first.revision, first.allocation.placements)
    }
    assert all(g.allocation == first.allocation for g in grants), "the allocations are equal in every field"
    journal = await check_fleet(yard.client, FLEET)
    assert journal.granted == {"intent": first.allocation.name}


async def test_the_answers_of_one_batch_are_equal_but_for_replayed(yard: Yard) -> None:
    """Copies that share one transaction even share the server's time."""
    outcomes = await yard.client.batch([one_block("intent")] * COPIES)
    grants = [outcome for outcome in outcomes if isinstance(outcome, Grant)]
    assert len(grants) == COPIES
    told = [replace(grant, replayed=False, server_time=grants[0].server_time) for grant in grants]
    assert all(answer == told[0] for answer in told)
    assert [grant.replayed for grant in grants] == [False] + [True] * (COPIES - 1)
    await check_fleet(yard.client, FLEET)


async def test_copies_of_many_intents_that_compete_are_granted_once_each(yard: Yard) -> None:
    """Twenty intents, five copies each, for eight blocks: a copy never takes the block of another intent's."""
    calls = [one_block(f"intent-{n % 20}") for n in range(100)]
    outcomes = await yard.impatient.send_all(calls)
    granted = {call.token: o.allocation.name for call, o in zip(calls, outcomes, strict=True) if isinstance(o, Grant)}
    assert len(granted) == 8
    assert all(isinstance(outcome, Grant | NoCapacity) for outcome in outcomes)
    journal = await check_fleet(yard.client, FLEET)
    assert journal.granted == granted


async def test_one_token_for_two_requests_is_granted_to_one_of_them(yard: Yard) -> None:
    calls = [one_block("intent", holder=f"holder-{n % 2}") for n in range(COPIES)]
    outcomes = await yard.impatient.send_all(calls)
    grants = [outcome for outcome in outcomes if isinstance(outcome, Grant)]
    refusals = [outcome for outcome in outcomes if isinstance(outcome, TokenMismatch)]
    assert len(grants) == len(refusals) == COPIES // 2
    assert len({grant.allocation.holder for grant in grants}) == 1
    assert {refusal.metadata["fields"] for refusal in refusals} == {"holder"}
    await check_fleet(yard.client, FLEET)


async def test_tokens_of_two_callers_never_meet(yard: Yard, tmp_path: Path) -> None:
    await yard.client.acquire(FLEET, blocks=1, holder="job", token="intent")
    async with serving(tmp_path / "another") as other, AsyncClient(other.address, caller="second") as second:
        await second.create_fleet(FLEET)
        await second.create_instance(FLEET, "node-1", total_blocks=8)
        async with AsyncClient(other.address, caller="first") as first:
            grants = await asyncio.gather(
                *(client.acquire(FLEET, blocks=1, holder="job", token="intent") for client in (first, second))
            )
        assert [grant.replayed for grant in grants] == [False, False]
        assert len({grant.allocation.name for grant in grants}) == 2


@pytest.mark.parametrize("seed", some_at_first(range(4), 2))
async def test_a_release_by_token_that_races_its_acquire_never_leaks(yard: Yard, seed: int) -> None:
    dice = Random(seed)

    async def race(token: str) -> tuple[Grant | CallFailed, ReleaseResult | CallFailed]:
        if dice.random() < 0.5:
            acquire = yard.impatient.start(one_block(token))
            release = yard.impatient.start(operations.release_by_token(FLEET, token))
        else:
            release = yard.impatient.start(operations.release_by_token(FLEET, token))
            acquire = yard.impatient.start(one_block(token))
        return await acquire.outcome(), await release.outcome()

    for granted, released in await asyncio.gather(*(race(f"intent-{n}") for n in range(40))):
        assert isinstance(released, ReleaseResult)
        match granted:
            case Grant():
                assert released.outcome is ReleaseOutcome.RELEASED
            case AllocationEnded():
                pytest.fail("it was granted, and its only acquire was not told so")
            case _:
                assert isinstance(granted, TokenCancelled | NoCapacity)
                assert released.outcome is ReleaseOutcome.CANCELLED_BEFORE_GRANT
    journal = await check_fleet(yard.client, FLEET)
    assert journal.live == set()
    assert journal.cancelled.isdisjoint(journal.granted)


async def test_an_acquire_that_arrives_after_its_release_is_refused_for_ever(yard: Yard) -> None:
    await yard.client.release_by_token(FLEET, "closed")
    granted = await yard.client.acquire(FLEET, blocks=1, holder="job", token="ended")
    await yard.client.release_by_token(FLEET, "ended")
    late = await yard.impatient.send_all([one_block(token) for token in ("closed", "ended") for _ in range(10)])
    assert [type(outcome) for outcome in late] == [TokenCancelled] * 10 + [AllocationEnded] * 10
    journal = await check_fleet(yard.client, FLEET)
    assert journal.granted == {"ended": granted.allocation.name}
    assert journal.live == set()


async def test_each_allocation_released_many_times_at_once_is_released_once(yard: Yard) -> None:
    grants = [await yard.client.acquire(FLEET, blocks=1, holder="job", token=f"intent-{n}") for n in range(8)]
    by_name = [operations.release(grant.allocation) for grant in grants for _ in range(3)]
    by_token = [operations.release_by_token(FLEET, f"intent-{n}") for n in range(8) for _ in range(3)]
    results = await yard.impatient.send_all([*by_name, *by_token])
    fates: dict[str, list[ReleaseOutcome]] = {}
    for result in results:
        assert isinstance(result, ReleaseResult)
        assert result.allocation is not None
        fates.setdefault(result.allocation.name, []).append(result.outcome)
    assert len(fates) == 8
    for outcomes in fates.values():
        assert outcomes.count(ReleaseOutcome.RELEASED) == 1
        assert outcomes.count(ReleaseOutcome.ALREADY_RELEASED) == 5
    journal = await check_fleet(yard.client, FLEET)
    assert journal.live == set()
