"""One tenant floods the server with batches. Another is served as if nobody else were there, and loses no lease."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from blockyard import AsyncClient, operations
from blockyard_server.app import RunningServer
from blockyard_server.engine.writer import MAX_SHARED_BATCH
from blockyard_server.store.transaction import SqlTransaction
from tests.harness.disturbed_store import DisturbedStore
from tests.harness.in_process import PATIENCE_S, serving
from tests.harness.journal import check_fleet
from tests.harness.patience import eventually

SHARED: Final = "shared"
OPERATIONS: Final = 1000
BATCHES: Final = 4
MAX_WAITING: Final = 2000


class RecordingStore(DisturbedStore):
    """Remembers on which fleet each transaction was."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.transactions: list[str] = []

    @contextmanager
    def transaction(self, fleet: str) -> Iterator[SqlTransaction]:
        """As in the protocol."""
        self.transactions.append(fleet)
        with super().transaction(fleet) as transaction:
            yield transaction


@dataclass
class Stage:
    """A server, whose commits can be held up, and two clients."""

    running: RunningServer
    store: RecordingStore
    honest: AsyncClient
    flooder: AsyncClient

    async def flood(self, fleets: Sequence[str]) -> "list[asyncio.Task[int]]":
        """Batches of cancellations under way, as many as there is room for; each task counts what was carried out."""
        self.store.before_commit.close()
        first = asyncio.create_task(self._batch(fleets, 0))
        await self.store.before_commit.reached()
        rest = [asyncio.create_task(self._batch(fleets, number)) for number in range(1, BATCHES)]

        async def refused() -> bool:
            # Half of the queue is theirs, and all four batches have asked for more.
            return self.running.engine.requests_waiting == MAX_WAITING // 2

        await eventually(refused, "the flood has filled its part of the queue")
        return [first, *rest]

    async def waiting(self, more: int) -> None:
        """Returns once so many requests wait besides the flood."""

        async def they_do() -> bool:
            return self.running.engine.requests_waiting == MAX_WAITING // 2 + more

        await eventually(they_do, "the others' requests wait, too")

    async def _batch(self, fleets: Sequence[str], number: int) -> int:
        calls = [operations.release_by_token(fleets[n % len(fleets)], f"flood-{number}-{n}") for n in range(OPERATIONS)]
        outcomes = await self.flooder.batch(calls)
        return sum(not isinstance(outcome, Exception) for outcome in outcomes)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    store = RecordingStore(tmp_path / "blockyard.db")
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(serving(tmp_path, store=store, max_waiting=MAX_WAITING))
        honest, flooder = [
            await stack.enter_async_context(AsyncClient(running.address, timeout_s=PATIENCE_S, caller=caller))
            for caller in ("honest", "flooder")
        ]
        await honest.create_fleet(SHARED)
        await honest.create_instance(SHARED, "node-1", total_blocks=64)
        for number in range(50):
            await flooder.create_fleet(f"flooded-{number}")
        yield Stage(running, store, honest, flooder)
        store.before_commit.open()


async def test_on_the_same_fleet_the_next_batch_has_a_place_for_everybody(stage: Stage) -> None:
    lease = (await stage.honest.acquire(SHARED, blocks=1, holder="lease", ttl=3600)).allocation
    before = (await check_fleet(stage.honest, SHARED)).revision
    flood = await stage.flood([SHARED])
    renew = asyncio.create_task(stage.honest.renew(lease))
    acquire = asyncio.create_task(stage.honest.acquire(SHARED, blocks=1, holder="short"))
    release = asyncio.create_task(stage.honest.release(lease))
    await stage.waiting(3)
    stage.store.before_commit.open()

    renewal, grant, released = await asyncio.gather(renew, acquire, release)

    # One transaction was under way, and the next is theirs, too.
    assert max(renewal.revision, grant.revision, released.revision) <= before + 2 * MAX_SHARED_BATCH
    assert sum(await asyncio.gather(*flood)) > 2 * MAX_SHARED_BATCH
    await check_fleet(stage.honest, SHARED)


@pytest.mark.parametrize("what", ["renew", "acquire"])
async def test_a_flood_on_many_fleets_is_one_tenants_flood(stage: Stage, what: str) -> None:
    lease = (await stage.honest.acquire(SHARED, blocks=1, holder="lease", ttl=3600)).allocation
    flood = await stage.flood([f"flooded-{number}" for number in range(50)])
    under_way = len(stage.store.transactions)
    acquire = partial(stage.honest.acquire, SHARED, blocks=1, holder="short")
    call = asyncio.ensure_future(stage.honest.renew(lease) if what == "renew" else acquire())
    await stage.waiting(1)
    stage.store.before_commit.open()

    await call
    await asyncio.gather(*flood)

    assert SHARED in stage.store.transactions[under_way : under_way + 2]
