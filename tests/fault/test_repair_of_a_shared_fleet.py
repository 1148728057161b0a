"""Two servers on one PostgreSQL: what one finds halts the fleet on both, and what one mends both serve again."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest

from blockyard import AsyncClient, EventKind, InvariantViolated
from blockyard_server.app import RunningServer, running_server
from tests.harness.deployments import Deployment, deployed, present
from tests.harness.in_process import client_of, settings_for
from tests.harness.patience import eventually
from tests.harness.samples import some_at_first

FALSE_COUNTER: Final = "UPDATE instances SET busy_blocks = 5 WHERE instance = 'n1'"
DAMAGES: Final = {
    "a counter": ((FALSE_COUNTER,), {"COUNTER_SET"}),
    "a lost row": (("DELETE FROM held_blocks WHERE block = 1",), {"BLOCK_HELD"}),
    "a stray row": (
        ("INSERT INTO held_blocks (fleet, instance, block, allocation) VALUES ('gpu', 'n1', 5, 99)",),
        {"BLOCK_FREED"},
    ),
    "a stray row beyond, and a counter": (
        ("INSERT INTO held_blocks (fleet, instance, block, allocation) VALUES ('gpu', 'n1', 20, 99)", FALSE_COUNTER),
        {"BLOCK_FREED", "COUNTER_SET"},
    ),
    "a lost token": (("DELETE FROM tokens WHERE token = 'one'",), {"TOKEN_RECORDED"}),
    "a lost event": (("DELETE FROM journal WHERE revision = 3",), {"JOURNAL_SETTLED", "JOURNAL_RECONCILED"}),
}


@asynccontextmanager
async def two_servers(database: str, folder: Path, *, audit_interval_s: float) -> AsyncIterator[list[RunningServer]]:
    with deployed(Deployment(2, lambda: database)):
        async with AsyncExitStack() as stack:
            settings = [settings_for(folder, server=number, audit_interval_s=audit_interval_s) for number in range(2)]
            servers = [await stack.enter_async_context(running_server(chosen)) for chosen in settings]
            present().note_servers(folder)
            yield servers
        present().note_events(folder)


@asynccontextmanager
async def clients_of(servers: list[RunningServer]) -> AsyncIterator[list[AsyncClient]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(client_of(server)) for server in servers]


async def fill(client: AsyncClient) -> None:
    await client.create_fleet("gpu")
    await client.create_instance("gpu", "n1", total_blocks=8)
    await client.acquire("gpu", holder="first", blocks=2, token="one")


def damage(database: str, statements: tuple[str, ...]) -> None:
    """Behind the servers' backs, with neither triggers nor foreign keys in the way."""
    with psycopg.connect(database, autocommit=True) as db:
        db.execute("SET session_replication_role = replica")
        for statement in statements:
            db.execute(statement.encode())


@pytest.mark.parametrize("what", some_at_first([*DAMAGES], 2))
async def test_both_stop_and_both_serve_again(database: str, tmp_path: Path, what: str) -> None:
    statements, kinds = DAMAGES[what]
    async with (
        two_servers(database, tmp_path, audit_interval_s=0) as servers,
        clients_of(servers) as (one, other),
    ):
        await fill(one)
        assert (await other.acquire("gpu", holder="second", blocks=1)).allocation.placements[0].blocks == (2,)
        damage(database, statements)

        assert not (await one.verify("gpu")).clean
        for client in (one, other):
            assert (await client.get_fleet("gpu")).halted
            with pytest.raises(InvariantViolated):
                await client.acquire("gpu", holder="third", blocks=1)

        plan = await one.repair("gpu")
        done = await other.repair("gpu", apply=True)
        assert {each.kind.value for each in done.corrections} == kinds
        assert done.corrections == plan.corrections
        assert (done.applied, done.unrepaired, done.halted) == (True, (), False)

        for client in (one, other):
            assert not (await client.get_fleet("gpu")).halted
            assert (await client.acquire("gpu", holder="first", blocks=2, token="one")).replayed
            more = await client.acquire("gpu", holder="third", blocks=1)
            assert more.allocation.placements[0].blocks == (3,)
            await client.release(more.allocation)
            assert (await client.verify("gpu")).clean
            events = [event async for event in client.list_events("gpu", kinds=[EventKind.REPAIRED])]
            assert [event.corrections for event in events] == [done.corrections]
            assert (await client.repair("gpu", apply=True)).corrections == ()


async def test_the_background_of_either_halts_the_fleet_on_both(database: str, tmp_path: Path) -> None:
    async with (
        two_servers(database, tmp_path, audit_interval_s=0.05) as servers,
        clients_of(servers) as (one, other),
    ):
        await fill(one)
        damage(database, (FALSE_COUNTER,))

        async def is_halted() -> bool:
            return (await other.get_fleet("gpu")).halted

        await eventually(is_halted, "the fleet is halted")
        for client in (one, other):
            with pytest.raises(InvariantViolated):
                await client.release_by_token("gpu", "one")
