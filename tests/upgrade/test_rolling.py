"""Three servers of the last release on one PostgreSQL are replaced by this one's, one after the other, and back.

Under load all the while: no call of the SDK fails, and what the clients saw is linearizable.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import psycopg
import pytest

from blockyard import Client
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
CALLS_OF_AN_OLD_CLIENT: Final = """
import sys
import blockyard

address, packages, fleet = sys.argv[1:]
assert blockyard.__file__.startswith(packages), "another release"
with blockyard.Client(address) as client:
    client.create_fleet(fleet, labels={"team": "old"})
    client.create_instance(fleet, "n0", total_blocks=4, labels={"zone": "a"}, resources={"gpu": 8})
    client.update_instance(fleet, "n0", resources={"gpu": 4})
    held = client.acquire(fleet, blocks=2, holder="old", ttl=60, annotations={"by": "old"}).allocation
    client.release(client.renew(held, ttl=90).allocation)
    assert client.describe(fleet).totals.idle_blocks == 4
    assert client.verify(fleet).clean
"""
"""What a scheduler does that still has the SDK of the last release."""


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


def administer(servers: Sequence[ServerProcess], phase: str, packages: Path) -> None:
    """A fleet for each server, made there, changed at another, and checked at all; the old SDK does so, too."""
    for number, (here, there) in enumerate(zip(servers, [*servers[1:], servers[0]], strict=True)):
        fleet = f"{phase}-{number}"
        with Client(here.address) as client, Client(there.address) as other:
            client.create_fleet(fleet, labels={"team": "nlp"})
            client.create_instance(fleet, "n0", total_blocks=8, labels={"zone": "a"}, resources={"gpu": 2**62})
            other.update_instance(fleet, "n0", resources={"gpu": 1})
            other.update_fleet(fleet, labels={"team": "vision"})
            held = other.acquire(fleet, blocks=8, holder="job", exclusive=True, ttl=60).allocation
            client.release(client.renew(held, ttl=90).allocation)
            other.cordon_instance(fleet, "n0")
        seen = []
        for server in servers:
            with Client(server.address) as client:
                assert client.verify(fleet).clean
                seen.append([(event.revision, event.kind) for event in client.list_events(fleet)])
        assert seen == [seen[0]] * len(servers)
        arguments = [here.address, str(packages), f"old-{fleet}"]
        environment = os.environ | {"PYTHONPATH": str(packages)}
        subprocess.run([sys.executable, "-c", CALLS_OF_AN_OLD_CLIENT, *arguments], env=environment, check=True)


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


@pytest.mark.slow
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
            phase = f"phase-{next(phases)}"
            await asyncio.to_thread(administer, old_servers, phase, packages)

        phases = count()
        await work.until_more(GRANTS_BETWEEN)
        assert await roll(old_servers, packages, between) == [1, 2, 3, 2, 1, 0]
        await work.end()
        await check(old_servers, work)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_clients_saw_meanwhile_is_linearizable(tmp_path: Path, packages: Path) -> None:
    told: list[int] = []
    phases: list[tuple[int, int]] = []
    """Between two replacements: begin and end, by the clock of the history."""

    async def meanwhile(servers: Sequence[ServerProcess]) -> None:
        async def between(_of_this_release: int) -> None:
            begin_ns = time.monotonic_ns()
            await asyncio.sleep(1.0)
            phases.append((begin_ns, time.monotonic_ns()))

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
    answered = [sum(begin <= op.start_ns and (op.end_ns or end) < end for op in history.ops) for begin, end in phases]
    assert len(answered) == len(told)
    assert min(answered) > 0, f"the load ended before the servers were replaced: {answered}"
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
