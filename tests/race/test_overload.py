"""More requests than may wait: refused politely, with nothing done, and the server recovers by itself."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from blockyard import AsyncClient, Grant, Overloaded, operations
from tests.harness.disturbed_store import DisturbedStore
from tests.harness.in_process import client_of, serving
from tests.harness.journal import check_fleet
from tests.harness.one_shot import OneShotClient
from tests.harness.patience import eventually

FLEET = "gpu"
WAITING = 4


@dataclass
class Yard:
    """A fleet of 64 blocks behind a server at which four requests may wait."""

    client: AsyncClient
    impatient: OneShotClient
    store: DisturbedStore


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    store = DisturbedStore(tmp_path / "blockyard.db")
    async with (
        serving(tmp_path, store=store, max_waiting=WAITING) as running,
        client_of(running) as client,
        OneShotClient(running.address) as impatient,
    ):
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "node-1", total_blocks=64)
        yield Yard(client, impatient, store)
        store.before_commit.open()


async def test_who_finds_the_queue_full_is_told_when_to_come_back_and_was_not_granted(yard: Yard) -> None:
    yard.store.before_commit.close()
    calls = [operations.acquire(FLEET, blocks=1, holder="job", token=f"intent-{n}") for n in range(25)]
    first = yard.impatient.start(calls[0])
    await yard.store.before_commit.reached()
    others = [asyncio.create_task(yard.impatient.start(call).outcome()) for call in calls[1:]]

    async def all_others_are_refused() -> bool:
        return sum(task.done() for task in others) == 24 - WAITING

    await eventually(all_others_are_refused, "all but those that may wait were answered")
    for failure in [task.result() for task in others if task.done()]:
        assert isinstance(failure, Overloaded)
        assert failure.status == "UNAVAILABLE"
        assert failure.retry_delay is not None
        assert failure.retry_delay.total_seconds() > 0

    yard.store.before_commit.open()
    await first.answer()
    outcomes = await asyncio.gather(*others)
    assert len([outcome for outcome in outcomes if isinstance(outcome, Grant)]) == WAITING
    journal = await check_fleet(yard.client, FLEET)
    assert len(journal.granted) == 1 + WAITING, "who was refused was not granted"

    again = [await yard.impatient.send(call) for call in calls]
    assert [grant.replayed for grant in again].count(True) == 1 + WAITING
    await check_fleet(yard.client, FLEET)


async def test_sdk_clients_get_through_an_overload_by_themselves(yard: Yard) -> None:
    grants = await asyncio.gather(*(yard.client.acquire(FLEET, blocks=1, holder=f"job-{n}") for n in range(64)))
    assert len({grant.allocation.name for grant in grants}) == 64
    await asyncio.gather(*(yard.client.release(grant.allocation) for grant in grants))
    journal = await check_fleet(yard.client, FLEET)
    assert journal.live == set()


async def test_a_batch_that_is_larger_than_the_queue_tells_each_operation_its_own_fate(yard: Yard) -> None:
    batch = [operations.acquire(FLEET, blocks=1, holder="job", token=f"intent-{n}") for n in range(20)]
    outcomes = await yard.client.batch(batch)
    granted = [call.token for call, outcome in zip(batch, outcomes, strict=True) if isinstance(outcome, Grant)]
    assert all(isinstance(outcome, Grant | Overloaded) for outcome in outcomes)
    assert len(granted) >= WAITING
    journal = await check_fleet(yard.client, FLEET)
    assert set(journal.granted) == set(granted)
