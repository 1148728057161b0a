"""Deadlines that pass and clients that go away while a commit is under way, and commits that fail or say so.

The commit is really held up or disturbed: between the engine and SQLite, in the writer's own thread.
"""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import pytest

from blockyard import (
    AsyncClient,
    CallFailed,
    DeadlineExceeded,
    Grant,
    NoCapacity,
    Operation,
    ReleaseOutcome,
    ReleaseResult,
    StoreUnavailable,
    operations,
)
from tests.harness.disturbed_store import Disturbance, DisturbedStore, Gate
from tests.harness.in_process import client_of, serving
from tests.harness.journal import check_fleet
from tests.harness.one_shot import OneShotClient

FLEET = "gpu"
SHORT_S = 2.0
"""A deadline that passes while the test holds the commit up, and is long enough to reach the server before."""

Where = Literal["before COMMIT", "after COMMIT"]
BOTH: list[Where] = ["before COMMIT", "after COMMIT"]


@dataclass
class Yard:
    """A fleet of 8 blocks on a store that can be disturbed."""

    client: AsyncClient
    impatient: OneShotClient
    store: DisturbedStore

    def gate(self, where: Where) -> Gate:
        return self.store.before_commit if where == "before COMMIT" else self.store.after_commit


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    store = DisturbedStore(tmp_path / "blockyard.db")
    async with (
        serving(tmp_path, store=store) as running,
        client_of(running) as client,
        OneShotClient(running.address) as impatient,
    ):
        await client.create_fleet(FLEET)
        await client.create_instance(FLEET, "node-1", total_blocks=8)
        yield Yard(client, impatient, store)
        store.before_commit.open()
        store.after_commit.open()


def one_block(token: str) -> Operation[Grant]:
    return operations.acquire(FLEET, blocks=1, holder="job", token=token)


def granted_in_the_file(yard: Yard) -> list[str]:
    """The granted tokens as another program sees them."""
    with closing(sqlite3.connect(yard.store.path)) as db:
        return [row[0] for row in db.execute("SELECT token FROM tokens WHERE allocation IS NOT NULL ORDER BY token")]


async def test_nobody_is_answered_before_the_commit(yard: Yard) -> None:
    yard.store.before_commit.close()
    waiting = yard.impatient.start(one_block("intent"))
    answer = asyncio.create_task(waiting.answer())
    await yard.store.before_commit.reached()
    # Other calls come and go meanwhile; none of them sees the grant, and its own answer does not come.
    assert (await yard.client.describe(FLEET)).totals.busy_blocks == 0
    assert granted_in_the_file(yard) == []
    assert not answer.done()
    yard.store.before_commit.open()
    await answer
    assert granted_in_the_file(yard) == ["intent"]
    await check_fleet(yard.client, FLEET)


async def test_what_is_answered_is_in_the_file_at_that_moment(yard: Yard) -> None:
    for number in range(8):
        await yard.client.acquire(FLEET, blocks=1, holder="job", token=f"intent-{number}")
        assert granted_in_the_file(yard) == [f"intent-{n}" for n in range(number + 1)]


@pytest.mark.parametrize("where", BOTH)
async def test_a_deadline_that_passes_mid_commit_and_the_token_again_is_the_grant_once(
    yard: Yard, where: Where
) -> None:
    gate = yard.gate(where)
    gate.close()
    lost = yard.impatient.start(one_block("intent"), timeout_s=SHORT_S)
    await gate.reached()
    with pytest.raises(DeadlineExceeded):
        await lost.answer()

    again = [yard.impatient.start(one_block("intent")) for _ in range(5)]
    gate.open()
    grants = [await each.answer() for each in again]
    assert all(grant.replayed for grant in grants), "the grant was made by the call whose answer was lost"
    assert len({grant.allocation.name for grant in grants}) == 1
    journal = await check_fleet(yard.client, FLEET)
    assert journal.granted == {"intent": grants[0].allocation.name}


@pytest.mark.parametrize("where", BOTH)
async def test_many_deadlines_that_pass_mid_commit_are_as_many_grants_once_each(yard: Yard, where: Where) -> None:
    """Of sixteen calls some share the commit that is held up, the others wait behind it."""
    gate = yard.gate(where)
    gate.close()
    calls = [one_block(f"intent-{n}") for n in range(16)]
    lost = [yard.impatient.start(call, timeout_s=SHORT_S) for call in calls]
    await gate.reached()
    failures = [await each.outcome() for each in lost]
    assert all(isinstance(failure, DeadlineExceeded) for failure in failures)
    gate.open()

    outcomes = await yard.impatient.send_all(calls)
    granted = {c.token: o.allocation.name for c, o in zip(calls, outcomes, strict=True) if isinstance(o, Grant)}
    assert len(granted) == 8
    assert all(isinstance(outcome, Grant | NoCapacity) for outcome in outcomes)
    journal = await check_fleet(yard.client, FLEET)
    assert journal.granted == granted


@pytest.mark.parametrize("where", BOTH)
async def test_a_deadline_that_passes_mid_commit_and_the_door_closed_leaves_nothing(yard: Yard, where: Where) -> None:
    gate = yard.gate(where)
    gate.close()
    lost = yard.impatient.start(one_block("intent"), timeout_s=SHORT_S)
    await gate.reached()
    with pytest.raises(DeadlineExceeded):
        await lost.answer()
    closing_the_door = yard.impatient.start(operations.release_by_token(FLEET, "intent"))
    gate.open()
    assert (await closing_the_door.answer()).outcome is ReleaseOutcome.RELEASED
    journal = await check_fleet(yard.client, FLEET)
    assert journal.live == set()


@pytest.mark.parametrize("where", BOTH)
async def test_a_release_whose_deadline_passes_mid_commit_is_done_once(yard: Yard, where: Where) -> None:
    grant = await yard.client.acquire(FLEET, blocks=8, holder="job")
    gate = yard.gate(where)
    gate.close()
    lost = yard.impatient.start(operations.release(grant.allocation), timeout_s=SHORT_S)
    await gate.reached()
    with pytest.raises(DeadlineExceeded):
        await lost.answer()
    again = yard.impatient.start(operations.release(grant.allocation))
    next_one = yard.impatient.start(operations.acquire(FLEET, blocks=8, holder="next"))
    gate.open()
    assert (await again.answer()).outcome is ReleaseOutcome.ALREADY_RELEASED
    assert (await next_one.answer()).allocation.holder == "next"
    await check_fleet(yard.client, FLEET)


@pytest.mark.parametrize("where", BOTH)
async def test_a_client_that_cancels_mid_commit_cancels_its_waiting_and_not_the_grant(yard: Yard, where: Where) -> None:
    gate = yard.gate(where)
    gate.close()
    gone = yard.impatient.start(one_block("intent"))
    await gate.reached()
    gone.cancel()
    failure = await gone.outcome()
    assert isinstance(failure, CallFailed)
    assert failure.status == "CANCELLED"
    again = yard.impatient.start(one_block("intent"))
    gate.open()
    assert (await again.answer()).replayed
    await check_fleet(yard.client, FLEET)


async def test_clients_that_cancel_at_any_moment_and_close_the_door_leave_nothing(yard: Yard) -> None:
    dice = Random(7)

    async def hesitate(number: int) -> Grant | CallFailed:
        call = yard.impatient.start(one_block(f"intent-{number}"))
        await asyncio.sleep(dice.uniform(0, 0.03))
        call.cancel()
        outcome = await call.outcome()
        released = await yard.impatient.send(operations.release_by_token(FLEET, f"intent-{number}"))
        if isinstance(outcome, Grant):
            assert released.outcome is ReleaseOutcome.RELEASED
        return outcome

    outcomes = await asyncio.gather(*(hesitate(number) for number in range(150)))
    assert all(isinstance(o, Grant | NoCapacity) or o.status == "CANCELLED" for o in outcomes)
    journal = await check_fleet(yard.client, FLEET)
    assert journal.live == set()
    assert all(f"intent-{n}" in journal.granted or f"intent-{n}" in journal.cancelled for n in range(150))


async def test_a_cancelled_call_that_still_waits_for_its_turn_takes_no_other_call_with_it(yard: Yard) -> None:
    yard.store.before_commit.close()
    first = yard.impatient.start(one_block("first"))
    await yard.store.before_commit.reached()
    behind = [yard.impatient.start(one_block(f"behind-{n}")) for n in range(6)]
    for each in behind[::2]:
        each.cancel()
        await each.outcome()
    yard.store.before_commit.open()
    await first.answer()
    for each in behind[1::2]:
        assert not (await each.answer()).replayed
    journal = await check_fleet(yard.client, FLEET)
    assert {"first", "behind-1", "behind-3", "behind-5"} <= set(journal.granted)


async def test_a_commit_that_fails_is_answered_unavailable_and_leaves_no_trace(yard: Yard) -> None:
    yard.store.disturbances.append(Disturbance.FAILS)
    with pytest.raises(StoreUnavailable) as failure:
        await yard.impatient.send(operations.acquire(FLEET, blocks=8, holder="job", token="intent"))
    assert failure.value.retry_delay is not None
    assert "disk" not in str(failure.value), "what the database says is not for clients"
    assert (await yard.client.describe(FLEET)).totals.busy_blocks == 0
    other = await yard.client.acquire(FLEET, blocks=8, holder="other")
    await yard.client.release(other.allocation)
    again = await yard.client.acquire(FLEET, blocks=8, holder="job", token="intent")
    assert not again.replayed
    await check_fleet(yard.client, FLEET)


async def test_a_commit_whose_answer_is_lost_is_found_again_by_its_token(yard: Yard) -> None:
    yard.store.disturbances.append(Disturbance.ANSWER_IS_LOST)
    with pytest.raises(StoreUnavailable):
        await yard.impatient.send(one_block("intent"))
    again = await yard.impatient.send(one_block("intent"))
    assert again.replayed
    journal = await check_fleet(yard.client, FLEET)
    assert journal.granted == {"intent": again.allocation.name}


async def test_the_sdk_asks_again_by_itself_when_the_answer_of_a_commit_is_lost(yard: Yard) -> None:
    yard.store.disturbances += [Disturbance.ANSWER_IS_LOST, Disturbance.FAILS, Disturbance.ANSWER_IS_LOST]
    grant = await yard.client.acquire(FLEET, blocks=8, holder="job")
    assert grant.replayed
    result = await yard.client.release(grant.allocation)
    assert isinstance(result, ReleaseResult)
    journal = await check_fleet(yard.client, FLEET)
    assert len(journal.granted) == 1
    assert journal.live == set()


async def test_disturbed_commits_under_load_lose_and_double_nothing(yard: Yard) -> None:
    dice = Random(11)
    yard.store.disturbances += dice.choices([Disturbance.FAILS, Disturbance.ANSWER_IS_LOST], k=12)

    async def schedule(number: int) -> None:
        # How many calls share a commit is the writer's affair: they go on until all disturbances have come to pass.
        turn = 0
        while turn < 3 or yard.store.disturbances:
            token = f"intent-{number}-{turn}"
            turn += 1
            assert turn < 100, "nothing is disturbed any more"
            outcome: Grant | CallFailed = StoreUnavailable("not yet asked")
            while isinstance(outcome, StoreUnavailable):
                outcome = (await yard.impatient.send_all([one_block(token)]))[0]
            assert isinstance(outcome, Grant | NoCapacity)
            released: ReleaseResult | CallFailed = StoreUnavailable("not yet asked")
            while isinstance(released, StoreUnavailable):
                released = (await yard.impatient.send_all([operations.release_by_token(FLEET, token)]))[0]
            assert isinstance(released, ReleaseResult)

    await asyncio.gather(*(schedule(number) for number in range(16)))
    assert not yard.store.disturbances
    journal = await check_fleet(yard.client, FLEET)
    assert journal.live == set()
