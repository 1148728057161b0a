"""Blockyard itself: on SQLite, and on PostgreSQL with one and with two servers."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import grpc

from benchmarks.fill import fill
from benchmarks.load import FLEET, Facts, Pair, pair_of_calls, server_process
from benchmarks.peers.peer import BLOCKS, INSTANCES, Peer
from benchmarks.peers.proof import fills_and_empties
from benchmarks.postgres import pid_of, postgres
from blockyard import AsyncClient
from tests.harness.sessions import servers_on, url_for

ALLOCATOR: Final = "blockyard.v1.Allocator"
NAME_ON_SQLITE: Final = "Blockyard, SQLite"
NAME_ON_POSTGRES: Final = "Blockyard, PostgreSQL"


@asynccontextmanager
async def on_sqlite(folder: Path) -> AsyncIterator[list[Peer]]:
    """One server on a data file."""
    data = folder / "ours.db"
    await fill(data, instances=INSTANCES, blocks=BLOCKS)
    with server_process(data) as facts:
        async with grpc.aio.insecure_channel(facts.address) as channel:
            pair, processes = pair_of_calls(channel, ALLOCATOR), {"server": facts.pid}
            yield [Peer(NAME_ON_SQLITE, pair, processes, lambda: fills_and_empties(channel))]


@asynccontextmanager
async def on_postgres(_folder: Path) -> AsyncIterator[list[Peer]]:
    """One server on a PostgreSQL of its own."""
    async with _on_postgres(NAME_ON_POSTGRES, servers=1) as peers:
        yield peers


@asynccontextmanager
async def on_postgres_with_two_servers(_folder: Path) -> AsyncIterator[list[Peer]]:
    """Two servers on one PostgreSQL; each call goes to the next of them."""
    async with _on_postgres(f"{NAME_ON_POSTGRES}, two servers", servers=2) as peers:
        yield peers


@asynccontextmanager
async def _on_postgres(name: str, *, servers: int) -> AsyncIterator[list[Peer]]:
    with ExitStack() as stack:
        database = stack.enter_context(postgres())
        # One after the other: the first makes the tables.
        facts = [stack.enter_context(server_process(url_for(database.url(), number))) for number in range(servers)]
        assert servers_on(database.url()) == servers, "not every server uses this database"
        await _fill(facts[0])
        async with AsyncExitStack() as open_channels:
            channels = [
                await open_channels.enter_async_context(grpc.aio.insecure_channel(fact.address)) for fact in facts
            ]
            processes = {
                f"server {number}" if servers > 1 else "server": fact.pid for number, fact in enumerate(facts, 1)
            }
            processes["PostgreSQL"] = pid_of(database)
            yield [Peer(name, _in_turns(channels), processes, lambda: fills_and_empties(*channels))]


async def _fill(facts: Facts) -> None:
    """The same fleet as on SQLite, over the API."""
    fleet = FLEET.removeprefix("fleets/")
    async with AsyncClient(facts.address) as client:
        await client.create_fleet(fleet)
        for number in range(INSTANCES):
            labels = {"class": f"c{number % 50}", "hostname": f"node-{number:06d}"}
            await client.create_instance(fleet, f"node-{number:06d}", total_blocks=BLOCKS, labels=labels)


def _in_turns(channels: Sequence[grpc.aio.Channel]) -> Pair:
    """Each pair goes to the next server."""
    pairs = itertools.cycle([pair_of_calls(channel, ALLOCATOR) for channel in channels])

    async def pair(token: str) -> tuple[float, float]:
        return await next(pairs)(token)

    return pair
