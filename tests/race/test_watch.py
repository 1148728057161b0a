"""Watches over real servers: every change once and in order, whichever server made it and whichever tells it."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from blockyard import AsyncClient, Client, Compacted, Event, EventKind, RetryPolicy
from blockyard.aio_watch import AsyncWatch
from blockyard_server.app import running_server
from blockyard_server.engine.clock import ManualClock
from tests.harness.in_process import PATIENCE_S, client_of, serving, settings_for
from tests.harness.patience import eventually
from tests.harness.postgres import Postgres
from tests.harness.process import ServerProcess, several_servers

FLEET: Final = "gpu"
QUICK: Final = RetryPolicy(initial_s=0.01, max_s=0.1)
SCHEDULERS: Final = 8
ROUNDS: Final = 12


@asynccontextmanager
async def clients_of(address: str) -> AsyncIterator[list[AsyncClient]]:
    """A client for each server by itself."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(AsyncClient(one, timeout_s=PATIENCE_S, retry=QUICK))
            for one in address.split(",")
        ]


async def make_fleet(client: AsyncClient) -> None:
    await client.create_fleet(FLEET)
    for instance in ("node-1", "node-2"):
        await client.create_instance(FLEET, instance, total_blocks=SCHEDULERS)


async def schedule(client: AsyncClient, holder: str) -> None:
    """Acquires and releases, over and over."""
    for _ in range(ROUNDS):
        grant = await client.acquire(FLEET, blocks=random.randint(1, 2), holder=holder)
        await client.release(grant.allocation)


async def journal(client: AsyncClient) -> list[Event]:
    return [event async for event in client.list_events(FLEET)]


async def upto(watch: AsyncWatch, revision: int) -> list[Event]:
    """All events up to a revision; ends when the server says that these were all."""
    found: list[Event] = []
    async for update in watch.updates():
        found += update.events
        if update.revision >= revision:
            return found
    raise AssertionError("a watch ended by itself")


@pytest.mark.every_deployment
async def test_every_watch_of_every_server_tells_every_change_once_and_in_order(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, clients_of(server.address) as clients:
        await make_fleet(clients[0])
        watches = [client.watch(FLEET, from_revision=1, progress_interval=0.1) for client in clients * 4]
        last = 3 + 2 * SCHEDULERS * ROUNDS
        following = [asyncio.ensure_future(upto(watch, last)) for watch in watches]
        await asyncio.gather(*(schedule(clients[n % len(clients)], f"job-{n}") for n in range(SCHEDULERS)))
        told = await asyncio.gather(*following)
        for watch in watches:
            await watch.close()

        written = await journal(clients[0])
        assert [event.revision for event in written] == list(range(1, last + 1))
        assert all(events == written for events in told)


@pytest.mark.every_deployment
async def test_a_watch_is_taken_up_again_at_any_server_without_a_gap_or_a_repeat(tmp_path: Path) -> None:
    dice = random.Random(7)
    async with serving(tmp_path) as server, clients_of(server.address) as clients:
        await make_fleet(clients[0])
        work = asyncio.gather(*(schedule(clients[n % len(clients)], f"job-{n}") for n in range(SCHEDULERS)))
        last = 3 + 2 * SCHEDULERS * ROUNDS
        told: list[Event] = []
        while not told or told[-1].revision < last:
            begin = told[-1].revision + 1 if told else 1
            async with dice.choice(clients).watch(FLEET, from_revision=begin) as watch:
                for _ in range(dice.randint(1, 20)):
                    told.append(await anext(watch))
                    if told[-1].revision == last:
                        break
        await work

        assert told == await journal(clients[0])


@pytest.mark.every_deployment
async def test_a_filter_tells_what_a_list_with_it_shows(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, clients_of(server.address) as clients:
        await make_fleet(clients[0])
        filters = [
            {"kinds": [EventKind.RELEASED]},
            {"holder": "job-3"},
            {"instance": "node-2"},
            {"kinds": [EventKind.GRANTED, EventKind.INSTANCE_CREATED], "instance": "node-1"},
            {"holder": "nobody"},
        ]
        watches = [
            clients[-1].watch(FLEET, from_revision=1, progress_interval=0.1, **chosen)  # type: ignore[arg-type]  # mixed
            for chosen in filters
        ]
        last = 3 + 2 * SCHEDULERS * ROUNDS
        following = [asyncio.ensure_future(upto(watch, last)) for watch in watches]
        await asyncio.gather(*(schedule(clients[n % len(clients)], f"job-{n}") for n in range(SCHEDULERS)))

        for chosen, told in zip(filters, await asyncio.gather(*following), strict=True):
            listed = [event async for event in clients[0].list_events(FLEET, **chosen)]  # type: ignore[arg-type]  # mixed
            assert told == listed
            assert bool(told) == (chosen != {"holder": "nobody"})
        for watch in watches:
            await watch.close()


@pytest.mark.every_deployment
async def test_a_lease_that_ends_is_told_although_nobody_asks(tmp_path: Path) -> None:
    async with serving(tmp_path, sweep_interval_s=0.05) as server, clients_of(server.address) as clients:
        await make_fleet(clients[0])
        async with clients[-1].watch(FLEET, kinds=[EventKind.EXPIRED]) as watch:
            first = await anext(aiter(watch.updates()))
            grant = await clients[0].acquire(FLEET, blocks=1, holder="train", ttl=0.1)
            event = await anext(watch)

    assert (first.revision, event.allocation) == (3, grant.allocation.name)


@pytest.mark.every_deployment
async def test_a_watch_from_now_tells_nothing_of_before_and_all_of_after(tmp_path: Path) -> None:
    """Also at a server that has not heard yet of what another one has just answered."""
    async with serving(tmp_path) as server, clients_of(server.address) as clients:
        await make_fleet(clients[0])
        for number in range(20):
            before = await clients[number % len(clients)].acquire(FLEET, blocks=1, holder="before")
            async with clients[(number + 1) % len(clients)].watch(FLEET) as watch:
                assert (await anext(aiter(watch.updates()))).revision == before.revision
                await clients[0].release(before.allocation)
                assert (await anext(watch)).revision == before.revision + 1


async def test_servers_that_drain_hand_their_watches_over(tmp_path: Path) -> None:
    """A server that stops ends its watches at once, and the next one on its address goes on with them."""
    told: list[int] = []
    for number in range(3):
        async with serving(tmp_path, drain_grace_s=30) as server, client_of(server) as client:
            if number == 0:
                await make_fleet(client)
            watch = client.watch(FLEET, from_revision=told[-1] + 1 if told else 1)
            for _ in range(4):
                await client.release((await client.acquire(FLEET, blocks=1, holder="job")).allocation)
            told += [event.revision for event in await upto(watch, 3 + 8 * (number + 1))]

    assert told == list(range(1, 28))


def test_a_watch_rides_over_kills_and_restarts_of_its_server(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        server.start()
        with Client(server.address, timeout_s=PATIENCE_S, retry=QUICK) as client:
            client.create_fleet(FLEET)
            client.create_instance(FLEET, "node-1", total_blocks=8)
            with client.watch(FLEET, from_revision=1) as watch:
                told = [next(watch).revision for _ in range(2)]
                for end in (server.kill, server.terminate, server.kill):
                    for _ in range(3):
                        client.release(client.acquire(FLEET, blocks=1, holder="job").allocation)
                    told.append(next(watch).revision)
                    end()
                    server.start()
                told += [next(watch).revision for _ in range(15)]
                assert watch.revision == 20
            written = [event.revision for event in client.list_events(FLEET)]

    assert told == written == list(range(1, 21))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_watch_of_three_servers_rides_over_the_end_of_each_of_them(tmp_path: Path, database: str) -> None:
    dice = random.Random(11)
    with several_servers(tmp_path, database, 3) as servers:
        async with AsyncClient(",".join(s.address for s in servers), timeout_s=PATIENCE_S, retry=QUICK) as client:
            await make_fleet(client)
            over = asyncio.Event()
            watches = [client.watch(FLEET, from_revision=1, progress_interval=0.1) for _ in range(9)]
            following = [asyncio.ensure_future(followed(watch, over)) for watch in watches]
            for number, server in enumerate(dice.sample(servers, k=3)):
                work = asyncio.gather(*(schedule(client, f"job-{n}") for n in range(4)))
                await asyncio.sleep(0.05)
                await asyncio.to_thread(server.terminate if number == 1 else server.kill)
                await work
                await asyncio.to_thread(server.start)
            last = (await client.describe(FLEET)).revision
            over.set()
            await client.release_by_token(FLEET, "wakes every watch once more")
            told = await asyncio.gather(*following)
            written = [event.revision for event in await journal(client)]

        assert written == list(range(1, last + 2))
        for revisions in told:
            assert revisions == written[: len(revisions)]
            assert len(revisions) >= last


async def followed(watch: AsyncWatch, over: asyncio.Event) -> list[int]:
    """The revisions that a watch tells until it is over, and what was on its way then."""
    told: list[int] = []
    async for event in watch:
        told.append(event.revision)
        if over.is_set() and told[-1] == watch.revision:
            break
    await watch.close()
    return told


@pytest.mark.timeout(300)
async def test_a_watch_rides_over_a_database_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    with Postgres() as postgres:
        settings = settings_for(tmp_path, database=postgres.fresh_database())
        async with running_server(settings) as server, client_of(server) as client:
            await make_fleet(client)
            async with client.watch(FLEET, from_revision=1) as watch:
                told = [(await anext(watch)).revision for _ in range(3)]
                for _ in range(2):
                    postgres.kill()
                    # Its next step waits for as long as the database is away.
                    step = asyncio.ensure_future(anext(watch))
                    await asyncio.sleep(2)
                    assert not step.done()
                    postgres.start()
                    grant = await client.acquire(FLEET, blocks=1, holder="job")
                    told.append((await step).revision)
                    await client.release(grant.allocation)
                    told.append((await anext(watch)).revision)
            written = [event.revision for event in await journal(client)]

    assert told == written == list(range(1, 8))


async def test_what_is_older_than_the_retention_can_be_neither_watched_nor_listed(tmp_path: Path) -> None:
    clock = ManualClock()
    settings = {"clock": clock, "journal_retention_s": 60, "sweep_interval_s": 0.02}
    async with serving(tmp_path, **settings) as server, client_of(server) as client:  # type: ignore[arg-type]  # mixed
        await make_fleet(client)
        held = await client.acquire(FLEET, blocks=1, holder="train")
        for _ in range(70):
            clock.advance(1_000_000)
            await server.engine._sweeper.round()
        await client.release((await client.acquire(FLEET, blocks=1, holder="other")).allocation)
        clock.advance(2_000_000)
        await server.engine._sweeper.round()
        refusals: list[Compacted] = []

        async def compacted() -> bool:
            async with client.watch(FLEET, from_revision=1) as watch:
                try:
                    await anext(watch)
                except Compacted as refused:
                    refusals.append(refused)
            return bool(refusals)

        await eventually(compacted, "what is old is forgotten")
        kept = await journal(client)
        report = await client.verify(FLEET)

    assert refusals[0].metadata == {"fleet": "fleets/gpu", "from_revision": "1", "oldest_revision": "5"}
    assert [event.revision for event in kept] == [5, 6]
    assert (report.clean, report.held_blocks_checked, report.events_replayed) == (True, 1, 2)
    assert held.revision == 4
