"""Servers that answer what they have not committed: the proofs that kill servers and databases are red."""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from blockyard import CallFailed
from tests.fault.test_crash import CrashRun
from tests.fault.test_failover import FailoverRun
from tests.fault.test_kill_points import PointRun
from tests.harness.cluster import Cluster
from tests.harness.postgres import Postgres
from tests.harness.process import ServerProcess

ROUNDS: Final = 10
"""The proofs have more of them; nearly always the first one is red."""
RED: Final = (AssertionError, CallFailed)
"""A client was told what is not true, or the server has found out by itself that it is not."""


class Unseen(Exception):
    """Every round was green."""


def make_lossy(server: ServerProcess, folder: Path) -> None:
    """From its next launch on. An order to die at a point is as it was, if there was one."""
    order = str(folder / "order")
    server.program = [sys.executable, "-m", "tests.saboteurs.lossy_server", order]


async def expect_red(a_round: Callable[[], Awaitable[None]]) -> None:
    """Raises Unseen."""
    for _ in range(ROUNDS):
        try:
            await a_round()
        except RED:
            return
    raise Unseen


@pytest.fixture
async def crash_run(tmp_path: Path) -> AsyncIterator[CrashRun]:
    run = CrashRun(tmp_path, "saboteur")
    make_lossy(run.server, tmp_path)
    with run.server:
        await run.begin()
        yield run


@pytest.mark.timeout(300)
async def test_the_crashes_see_it(crash_run: CrashRun) -> None:
    await expect_red(crash_run.round)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
async def point_run(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[PointRun]:
    url = None
    if request.param == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.fresh_database()
    run = PointRun(tmp_path, "saboteur", url)
    make_lossy(run.server, tmp_path)
    with run.server:
        await run.begin()
        yield run


@pytest.mark.timeout(300)
async def test_the_named_points_see_it(point_run: PointRun) -> None:
    await expect_red(lambda: point_run.die_at("after commit"))


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_fail_overs_see_it(tmp_path: Path) -> None:
    with Cluster() as cluster:
        run = FailoverRun(tmp_path, cluster, "saboteur")
        async with AsyncExitStack() as stack:
            for server in run.servers:
                make_lossy(server, tmp_path)
                stack.enter_context(server)
            await run.begin()
            await expect_red(run.fail_over)
