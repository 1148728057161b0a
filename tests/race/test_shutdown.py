"""SIGTERM drains: NOT_SERVING at once, what was accepted is answered, and the next start needs nothing by hand."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from blockyard import (
    AsyncClient,
    CallFailed,
    Grant,
    NoCapacity,
    ReleaseOutcome,
    ReleaseResult,
    RetryPolicy,
    Unavailable,
    operations,
)
from blockyard._fleet_admin import get_fleet
from tests.fault.load import FLEET, persist
from tests.harness.disturbed_store import DisturbedStore
from tests.harness.in_process import PATIENCE_S, client_of, serving
from tests.harness.journal import check_fleet
from tests.harness.one_shot import OneShotClient
from tests.harness.process import ServerProcess

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Told:
    """What schedulers were told until the server went away."""

    granted: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    """Tokens whose Acquire was answered UNAVAILABLE."""
    odd: list[CallFailed] = field(default_factory=list)
    """Failures that a drain must not show."""


async def schedule(client: OneShotClient, name: str, told: Told) -> None:
    """Acquires and releases, over and over, until the server has gone."""
    for turn in range(10_000):
        token = f"{name}-{turn}"
        match await client.start(operations.acquire(FLEET, blocks=1, holder=name, token=token)).outcome():
            case Grant():
                told.granted.add(token)
            case NoCapacity():
                continue
            case Unavailable():
                told.refused.add(token)
                return
            case failure:
                told.odd.append(failure)
                return
        match await client.start(operations.release_by_token(FLEET, token)).outcome():
            case ReleaseResult(outcome=ReleaseOutcome.RELEASED):
                told.released.add(token)
            case Unavailable():
                return
            case ReleaseResult() as result:
                told.odd.append(CallFailed(f"a release was {result.outcome}"))
            case failure:
                told.odd.append(failure)
                return


def tokens_in(data: Path, *, live: int) -> set[str]:
    """The tokens of the allocations in a data file, held (1) or ended (0)."""
    with closing(sqlite3.connect(data)) as db:
        return {row[0] for row in db.execute("SELECT token FROM allocations WHERE live = ?", (live,))}


async def test_sigterm_under_load_answers_what_it_accepted_and_the_next_start_needs_nothing(tmp_path: Path) -> None:
    told = Told()
    with ServerProcess(tmp_path) as server:
        await asyncio.to_thread(server.start)
        async with AsyncClient(server.address) as client:
            await client.create_fleet(FLEET)
            await client.create_instance(FLEET, "node-1", total_blocks=24)
        async with AsyncExitStack() as stack:
            several = [await stack.enter_async_context(OneShotClient(server.address)) for _ in range(4)]
            load = [asyncio.create_task(schedule(several[n % 4], f"scheduler-{n}", told)) for n in range(32)]
            while len(told.granted) < 200:
                await asyncio.wait(load, timeout=0.01)
                assert not any(task.done() for task in load), told.odd
            code = await asyncio.to_thread(server.terminate)
            await asyncio.gather(*load)
        assert code == 0
        assert "Traceback" not in server.errors()
        assert told.odd == []

        ended = tokens_in(server.data, live=0)
        assert told.released == ended, "each release that was carried out was answered, and the reverse"
        assert told.granted == ended | tokens_in(server.data, live=1), "so was each acquire"

        await asyncio.to_thread(server.start)
        async with AsyncClient(server.address) as client:
            journal = await check_fleet(client, FLEET)
            assert set(journal.granted) == told.granted
            for token in told.refused:
                assert (await client.release_by_token(FLEET, token)).outcome is ReleaseOutcome.CANCELLED_BEFORE_GRANT
            await check_fleet(client, FLEET, journal)


def watch_health(channel: grpc.aio.Channel) -> AsyncIterator[health_pb2.HealthCheckResponse]:
    """The stream of the whole server's states."""
    method = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    return aiter(method(health_pb2.HealthCheckRequest()))


async def test_sdk_clients_ride_through_restarts_without_an_error(tmp_path: Path) -> None:
    """Their calls meet the drain at every stage: accepted, refused, in the transport, without a server."""
    over = asyncio.Event()
    quick = RetryPolicy(initial_s=0.02, max_s=0.2)
    with ServerProcess(tmp_path) as server:
        await asyncio.to_thread(server.start)
        async with AsyncExitStack() as stack:
            several = [
                await stack.enter_async_context(AsyncClient(server.address, retry=quick, timeout_s=PATIENCE_S))
                for _ in range(4)
            ]
            await several[0].create_fleet(FLEET)
            await several[0].create_instance(FLEET, "node-1", total_blocks=24)
            load = [asyncio.create_task(persist(f"scheduler-{n}", several[n % 4], over.is_set)) for n in range(32)]
            for _ in range(3):
                await asyncio.wait(load, timeout=0.5)
                assert await asyncio.to_thread(server.terminate) == 0
                await asyncio.to_thread(server.start)
            over.set()
            had = await asyncio.gather(*load)
            assert sum(had) > 0
            journal = await check_fleet(several[0], FLEET)
            assert len(journal.granted) == sum(had), "each allocation was had once"
            assert journal.live == set()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DisturbedStore]:
    store = DisturbedStore(tmp_path / "blockyard.db")
    yield store
    store.before_commit.open()


async def test_a_call_under_way_is_answered_though_the_server_stops(tmp_path: Path, store: DisturbedStore) -> None:
    async with AsyncExitStack() as server:
        # If the drain waited for the health watch, it would take an hour, and this test would run into its bound.
        running = await server.enter_async_context(serving(tmp_path, store=store, drain_grace_s=3600))
        async with (
            client_of(running) as client,
            OneShotClient(running.address) as impatient,
            grpc.aio.insecure_channel(running.address) as channel,
        ):
            await client.create_fleet(FLEET)
            await client.create_instance(FLEET, "node-1", total_blocks=8)
            states = watch_health(channel)
            assert (await anext(states)).status == SERVING

            store.before_commit.close()
            calls = [operations.acquire(FLEET, blocks=1, holder="job", token=f"intent-{n}") for n in range(6)]
            accepted = [impatient.start(call) for call in calls]
            await store.before_commit.reached()
            # Answered on the same connection, and sent after them: by now they have all arrived.
            await impatient.send(get_fleet(FLEET))
            stopping = asyncio.create_task(server.aclose())
            assert (await anext(states)).status == NOT_SERVING
            assert not stopping.done()
            store.before_commit.open()
            grants = [await each.answer() for each in accepted]
            await stopping
            late = await impatient.start(calls[0]).outcome()
    assert isinstance(late, Unavailable)
    async with serving(tmp_path) as running, client_of(running) as client:
        journal = await check_fleet(client, FLEET)
        assert journal.granted == {g.allocation.idempotency_token: g.allocation.name for g in grants}
        assert len(journal.granted) == 6
