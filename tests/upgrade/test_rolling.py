"""Three servers of the last release on one PostgreSQL are replaced by this one's, one after the other, and back.

Under load all the while: no call of the SDK fails, and what the clients saw is linearizable.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import psycopg
import pytest

from tests.harness.last_release import program_of, unpacked
from tests.harness.process import ServerProcess, free_port, several_servers
from tests.harness.sessions import servers_on, url_for
from tests.history.black_box import check_black_box
from tests.history.files import read_history
from tests.history.stage import Setup, record
from tests.history.witness import check_with_witness
from tests.race.test_three_servers import Work, check, service

GRANTS_BETWEEN: Final = int(os.environ.get("BLOCKYARD_ROLLING_GRANTS", "60"))
"""How many grants the clients are told in each phase; more with `make upgrade`."""

MOST_ROUNDS: Final = 40


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    return unpacked(tmp_path)


def live_of_this_release(database: str) -> int:
    """Servers that have given a sign of life: those of release 0.1.0 give none."""
    with psycopg.connect(database) as db:
        [(there,)] = db.execute("SELECT to_regclass('servers') IS NOT NULL").fetchall()
        if not there:
            return 0
        [(live,)] = db.execute("SELECT count(*) FROM servers").fetchall()
        return int(live)


def changes_made_by(address: str) -> float:
    """How many requests a server has answered, by its own metrics."""
    with urlopen(f"http://{address}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("blockyard_requests_total{"))


async def replace(server: ServerProcess, program: list[str]) -> None:
    """Drains a server, and starts another program on its address."""
    assert await asyncio.to_thread(server.terminate) == 0
    assert "Traceback" not in server.errors()
    server.program = program
    await asyncio.to_thread(server.start)


async def roll(
    servers: Sequence[ServerProcess], packages: Path, between: Callable[[int], Awaitable[None]]
) -> list[int]:
    """Forward and back; `between` is told how many are of this release. Answers what was told, in order."""
    new, told = ServerProcess(packages).program, []
    programs = [new] * len(servers) + [program_of(packages)] * len(servers)
    for step, (server, program) in enumerate(zip([*servers, *servers], programs, strict=True)):
        await replace(server, program)
        told.append(step + 1 if step < len(servers) else 2 * len(servers) - step - 1)
        await between(told[-1])
    return told


@pytest.fixture
def old_servers(tmp_path: Path, database: str, packages: Path) -> Iterator[list[ServerProcess]]:
    """Three of the last release; each with its metrics, on a port of its own."""
    servers = [
        ServerProcess(
            tmp_path / str(number), database=url_for(database, number), metrics_listen=f"127.0.0.1:{free_port()}"
        )
        for number in range(3)
    ]
    for server in servers:
        server.program = program_of(packages)
    try:
        for server in servers:
            server.start()
        assert servers_on(database) == 3
        assert live_of_this_release(database) == 0
        yield servers
    finally:
        for server in servers:
            server.remove()


@pytest.mark.timeout(300)
async def test_no_call_fails_while_servers_are_upgraded_one_by_one_and_back(
    old_servers: list[ServerProcess], database: str, packages: Path
) -> None:
    async with service(old_servers) as clients:
        work = Work(clients, seed=10)

        async def between(of_this_release: int) -> None:
            await work.until_more(GRANTS_BETWEEN)
            # Clients come back to a server that was away once their channels have found out that it serves again.
            waiting = {
                server.setting("metrics_listen"): changes_made_by(server.setting("metrics_listen"))
                for server in old_servers
            }
            for _ in range(MOST_ROUNDS):
                waiting = {address: before for address, before in waiting.items() if changes_made_by(address) <= before}
                if not waiting:
                    break
                await work.until_more(GRANTS_BETWEEN)
            assert not waiting, "a server had no call"
            assert live_of_this_release(database) == of_this_release
            assert servers_on(database) == 3

        await work.until_more(GRANTS_BETWEEN)
        assert await roll(old_servers, packages, between) == [1, 2, 3, 2, 1, 0]
        await work.end()
        await check(old_servers, work)


@pytest.mark.timeout(300)
def test_what_clients_saw_meanwhile_is_linearizable(tmp_path: Path, packages: Path) -> None:
    told: list[int] = []

    async def meanwhile(servers: Sequence[ServerProcess]) -> None:
        async def between(_of_this_release: int) -> None:
            await asyncio.sleep(1.0)

        told.extend(await roll(servers, packages, between))

    setup = Setup(
        operations=3000,
        fleets=1,
        servers=3,
        database="postgres",
        faults=False,
        program=tuple(program_of(packages)),
        meanwhile=meanwhile,
    )
    recorded = asyncio.run(record(tmp_path / "histories", setup, lambda _line: None))
    history = read_history(recorded.folders[0])
    witness, black_box = check_with_witness(history), check_black_box(history)

    assert told == [1, 2, 3, 2, 1, 0]
    assert recorded.lacks(setup) == []
    assert (witness.violations, black_box.violations) == ([], [])
    assert witness.ops == black_box.ops >= 3000


def test_the_last_release_is_another_one(tmp_path: Path, packages: Path, database: str) -> None:
    """Else the others would prove nothing."""
    with several_servers(tmp_path / "this", database, 1):
        assert live_of_this_release(database) == 1
    assert live_of_this_release(database) == 1, "it was killed, and could not say that it stops"
    server = ServerProcess(tmp_path / "last", database=database)
    server.program = program_of(packages)
    with server:
        server.start()
        assert live_of_this_release(database) == 1
