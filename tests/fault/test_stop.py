"""A server process that is told to stop ends, whatever hangs: while it starts, and when its grace is over."""

import asyncio
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import psycopg
import pytest

from blockyard import CallFailed, operations
from blockyard._fleet_admin import create_fleet, create_instance, get_fleet
from blockyard_server.app import EXIT_OF_HANGING
from blockyard_server.store.postgres.store import MIGRATION_LOCK
from tests.fault.hanging_server import HANGS
from tests.harness.one_shot import OneShotClient
from tests.harness.patience import eventually
from tests.harness.postgres import Postgres
from tests.harness.process import ServerProcess

SIGNALS: Final = [signal.SIGTERM, signal.SIGINT]

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_start_that_waits_for_anothers_migration_ends_at_a_signal(
    tmp_path: Path, database: str, number: signal.Signals
) -> None:
    with (
        psycopg.connect(database, autocommit=True) as other,
        ServerProcess(tmp_path, database=database) as server,
    ):
        other.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        server.launch()

        async def it_waits() -> bool:
            row = other.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted").fetchone()
            return row == (1,)

        await eventually(it_waits, "the server waited for the lock")
        server.send(number)
        assert server.wait() == -number
        other.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_LOCK,))
        server.start()
        assert server.terminate() == 0


@pytest.mark.parametrize("number", SIGNALS)
async def test_a_start_that_waits_for_the_data_file_ends_at_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with ServerProcess(tmp_path) as server:
        server.start()
        assert server.terminate() == 0
        with closing(sqlite3.connect(server.data, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            lock = server.data.with_name("blockyard.db.lock")
            owner = lock.read_text()
            server.launch()

            async def it_has_the_file() -> bool:
                return lock.read_text() != owner

            await eventually(it_has_the_file, "the server took the data file")
            server.send(number)
            # By itself it would give up after SQLite's five seconds, with exit code 1.
            assert server.wait() == -number
            other.execute("ROLLBACK")
        server.start()
        assert server.terminate() == 0


@pytest.fixture
def frozen() -> Iterator[Postgres]:
    """A PostgreSQL of the test's own, to be frozen."""
    with Postgres() as postgres:
        yield postgres
        postgres.thaw()


@pytest.mark.slow
async def test_a_database_that_hangs_keeps_no_server_from_its_end_and_callers_from_their_answer(
    tmp_path: Path, frozen: Postgres
) -> None:
    with ServerProcess(tmp_path, database=frozen.fresh_database(), drain_grace_s=1) as server:
        await asyncio.to_thread(server.start)
        async with OneShotClient(server.address) as client:
            await client.send(create_fleet("gpu"))
            await client.send(create_instance("gpu", "n1", total_blocks=8))
            frozen.freeze()
            calls = [operations.acquire("gpu", holder="job", blocks=1, token=f"t-{n}") for n in range(3)]
            asked = [asyncio.create_task(client.start(call).outcome()) for call in calls]
            reading = asyncio.create_task(client.start(get_fleet("gpu")).outcome())
            await asyncio.sleep(0.1)  # most of them are there; those that come later are refused
            server.ask_to_stop()
            outcomes = await asyncio.gather(*asked, reading)
        code = await asyncio.to_thread(server.wait)
        assert {isinstance(outcome, CallFailed) and outcome.status for outcome in outcomes} == {"UNAVAILABLE"}
        assert all(isinstance(outcome, CallFailed) and outcome.reason for outcome in outcomes)
        assert code in {0, EXIT_OF_HANGING}
        frozen.thaw()
        await asyncio.to_thread(server.start)
        async with OneShotClient(server.address) as client:
            grants = [await client.send(call) for call in calls]
            assert len({grant.allocation.name for grant in grants}) == 3
        assert await asyncio.to_thread(server.terminate) == 0


async def test_a_thread_that_hangs_ends_the_process_after_its_grace_with_a_line_in_the_log(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, drain_grace_s=0.2) as server:
        server.program = [sys.executable, "-m", "tests.fault.hanging_server"]
        await asyncio.to_thread(server.start)
        async with OneShotClient(server.address) as client:
            asked = asyncio.create_task(client.start(create_fleet("gpu")).outcome())

            async def it_hangs() -> bool:
                return HANGS in server.errors()

            await eventually(it_hangs, "a commit hung")
            server.ask_to_stop()
            outcome = await asked
        assert isinstance(outcome, CallFailed)
        assert outcome.reason == "STORE_UNAVAILABLE"
        assert await asyncio.to_thread(server.wait) == EXIT_OF_HANGING
        assert "something hangs" in server.errors()
