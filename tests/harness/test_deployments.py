"""The harness keeps its own word: a test that is marked runs on the deployment that its name says, or fails."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import pytest

from blockyard_server.app import running_server
from tests.conftest import DEPLOYMENTS, PostgresOf
from tests.harness import stopped
from tests.harness.deployments import Deployment, as_present, deployed
from tests.harness.in_process import client_of, serving, settings_for
from tests.harness.postgres import NEWEST, Postgres, Release
from tests.harness.process import ServerProcess

ROOT: Final = Path(__file__).parents[2]
BOUND_S: Final = 100
REFUSED: Final = 2
"""The exit code of a server whose settings are refused."""

SUITE: Final = '''
import os
from pathlib import Path

import pytest

from tests.harness.deployments import present
from tests.harness.in_process import client_of, serving

pytestmark = pytest.mark.every_deployment


async def write(folder, **changes):
    async with serving(folder, **changes) as running, client_of(running) as client:
        await client.create_fleet("gpu")
        return running


async def test_is_told(tmp_path, request):
    running = await write(tmp_path)
    store = type(running.engine._store).__name__
    with Path(os.environ["TOLD"]).open("a") as told:
        told.write(f"{request.node.callspec.id}: {store}, {len(running.address.split(','))}\\n")


def test_serves_nothing():
    pass


async def test_writes_nothing(tmp_path):
    async with serving(tmp_path):
        pass


async def test_writes_elsewhere(tmp_path):
    await write(tmp_path, data=tmp_path / "elsewhere.db", database=None)


@pytest.fixture(scope="module")
def too_early(tmp_path_factory):
    """Made before the test has its deployment."""
    import asyncio
    asyncio.run(write(tmp_path_factory.mktemp("data")))


def test_was_served_too_early(too_early):
    pass
'''


def wrong_in(report: Path) -> dict[str, dict[str, str]]:
    """By test and deployment, all that was wrong."""
    found: dict[str, dict[str, str]] = {}
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - our own pytest has just written it
        name, _, where = case.attrib["name"].partition("[")
        wrong = [element.attrib["message"] for element in case if element.tag in {"failure", "error"}]
        whole = found.setdefault(name, {})
        whole[where.removesuffix("]")] = whole.get(where.removesuffix("]"), "") + "".join(wrong)
    return found


@pytest.mark.slow
def test_a_marked_test_runs_on_what_it_claims_or_is_red(tmp_path: Path) -> None:
    suite, report, told = tmp_path / "test_suite.py", tmp_path / "report.xml", tmp_path / "told.txt"
    suite.write_text(SUITE)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-p", "tests.conftest"),
            *(
                "-m",
                "not soak",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:xdist",
                f"--basetemp={tmp_path / 'its'}",
                f"--junitxml={report}",
            ),
            suite,
        ],
        cwd=ROOT,
        env={**os.environ, "TOLD": str(told)},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )

    assert told.exists(), done.stdout + done.stderr
    assert told.read_text().splitlines() == [
        "sqlite: SqliteStore, 1",
        "postgres: PostgresStore, 1",
        "postgres, three servers: PostgresStore, 3",
    ]
    wrong = wrong_in(report)
    assert wrong.pop("test_is_told") == dict.fromkeys(DEPLOYMENTS, "")
    assert len(wrong) == 4
    for name, by_deployment in wrong.items():
        for deployment, message in by_deployment.items():
            what = "a data file" if deployment == "sqlite" else "PostgreSQL"
            said = f"{what} is claimed, and no server has written anything there"
            assert said in message, f"{name} on {deployment}: {message}"


async def test_one_server_where_three_are_claimed_is_seen(tmp_path: Path, database: str) -> None:
    three = Deployment(3, lambda: database)
    with as_present(three):
        async with running_server(settings_for(tmp_path)) as one, client_of(one) as client:
            await client.create_fleet("gpu")
            three.note_servers(tmp_path)
    three.note_events(tmp_path)

    with pytest.raises(AssertionError, match=r"with 3 servers is claimed; seen were \[1\]"):
        three.expect_taken_place()


async def test_three_servers_where_three_are_claimed_are_what_was_claimed(tmp_path: Path, database: str) -> None:
    with deployed(Deployment(3, lambda: database)):
        async with serving(tmp_path) as running, client_of(running) as client:
            await client.create_fleet("gpu")


def test_a_release_that_is_not_installed_skips_and_says_so(postgres_of: PostgresOf) -> None:
    with pytest.raises(pytest.skip.Exception, match="PostgreSQL 15 is not installed: initdb is not in /nowhere"):
        postgres_of(Release("15", (Path("/nowhere"),)))


def test_a_postgres_of_another_release_than_claimed_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"this is PostgreSQL 18\.\d+, not postgres 15"), postgres_called_15():
        pass


def postgres_called_15() -> Postgres:
    return Postgres(release=replace(NEWEST, major="15"))


def test_a_server_that_ended_by_itself_was_not_killed(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, max_batch=0) as server:
        server.launch()
        assert server.ends_by_itself() == REFUSED
        with pytest.raises(AssertionError, match=f"it was not killed, but ended with exit code {REFUSED}"):
            server.kill()


def test_a_running_process_is_not_taken_for_a_stopped_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopped, "BOUND_S", 0.1)
    with pytest.raises(AssertionError, match="not stopped"):
        stopped.wait_until_stopped([os.getpid()])
