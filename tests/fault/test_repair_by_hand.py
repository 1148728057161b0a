"""What the page for operators has people type into the database, on data that only people can mend."""

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import psycopg
import pytest

from blockyard import AllocationState, AsyncClient
from blockyard_server.app import running_server
from blockyard_server.settings import Settings
from tests.fault.test_repair import CONFLICTS, damaged, fill
from tests.harness.in_process import client_of, serving

PAGE: Final = (Path(__file__).parents[2] / "docs" / "how-to" / "operate.md").read_text("utf-8")
BY_HAND: Final = PAGE.partition("### Ending an allocation by hand")[2]
CONFLICT: Final = CONFLICTS["two live ones have one block"]


def typed(database: str) -> str:
    """The page's statements for a kind of database, about the allocation of these tests instead of the page's."""
    found = re.search(r"```sql\n(.*?)```", BY_HAND.partition(f"With {database}")[2], flags=re.DOTALL)
    assert found is not None
    assert "allocation = 17" in found[1]
    return found[1].replace("allocation = 17", "allocation = 4")


async def expect_a_conflict(client: AsyncClient) -> None:
    report = await client.repair("gpu", apply=True)
    assert (bool(report.unrepaired), report.halted) == (True, True)


async def expect_that_a_repair_mends_the_rest(client: AsyncClient) -> None:
    report = await client.repair("gpu", apply=True)
    assert (report.unrepaired, report.halted) == ((), False)
    assert (await client.verify("gpu")).clean
    ended = await client.get_allocation("fleets/gpu/allocations/4")
    assert ended.state == AllocationState.RELEASED
    assert ended.end_time is not None
    assert 0 <= (ended.end_time - ended.grant_time).total_seconds() < 3600
    assert (await client.acquire("gpu", holder="third", blocks=6)).allocation.state == AllocationState.HELD


async def test_what_is_typed_into_a_data_file_lets_a_repair_mend_the_rest(tmp_path: Path) -> None:
    (sound := tmp_path / "sound").mkdir()
    await fill(sound)
    data = damaged(sound / "blockyard.db", tmp_path, CONFLICT)
    async with serving(tmp_path) as server, client_of(server) as client:
        await expect_a_conflict(client)

    with closing(sqlite3.connect(data, isolation_level=None)) as db:
        db.executescript(typed("a data file"))
        with pytest.raises(sqlite3.IntegrityError, match="has ended"):
            db.executescript(typed("a data file"))

    async with serving(tmp_path) as server, client_of(server) as client:
        await expect_that_a_repair_mends_the_rest(client)


async def test_what_is_typed_into_a_postgres_lets_a_repair_mend_the_rest(database: str) -> None:
    settings = Settings(listen="127.0.0.1:0", restart_grace_s=0, database=database)
    async with running_server(settings) as server, client_of(server) as client:
        await client.create_fleet("gpu")
        await client.create_instance("gpu", "n1", total_blocks=8)
        await client.acquire("gpu", holder="first", blocks=2)
        await client.acquire("gpu", holder="second", blocks=1)
        with psycopg.connect(database, autocommit=True) as db:
            db.execute(CONFLICT.encode())
        await expect_a_conflict(client)

    with psycopg.connect(database, autocommit=True) as db:
        db.execute(typed("PostgreSQL").encode())
        with pytest.raises(psycopg.IntegrityError, match="has ended"):
            db.execute(typed("PostgreSQL").encode())

    async with running_server(settings) as server, client_of(server) as client:
        await expect_that_a_repair_mends_the_rest(client)
