"""The examples of the SDK over a server that is killed and comes back, and a second time with the same names."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockyard import Client, EventKind
from tests.harness.process import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "examples"
BOUND_S = 90
OUTAGE_S = 12
"""Longer than a client waits for an answer: 10 s."""
WORK = "import os; os.write(1, b'working\\n')"
"""In one write, so that jobs that end together do not share a line."""

pytestmark = pytest.mark.timeout(2 * BOUND_S)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server with a fleet of two instances, on which two jobs of four blocks fit."""
    with ServerProcess(tmp_path / "server") as server:
        server.start()
        with Client(server.address) as client:
            client.create_fleet("gpu")
            for number, gpu in enumerate(("h100", "a100"), start=1):
                client.create_instance("gpu", f"node-{number}", total_blocks=4, labels={"gpu": gpu, "zone": "a"})
            client.create_instance("gpu", "cpu-1", total_blocks=1)
        yield server


def launch(server: ServerProcess, name: str, *arguments: str, work: str = WORK) -> "subprocess.Popen[str]":
    environment = {**os.environ, "BLOCKYARD_ADDRESS": server.address, "JOB_COMMAND": work}
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def end_of(example: "subprocess.Popen[str]") -> tuple[int, list[str]]:
    """The exit code, and what it printed, in any order."""
    try:
        printed, _ = example.communicate(timeout=BOUND_S)
    finally:
        example.kill()
    return example.returncode, sorted(printed.splitlines())


def wait_for_grants(server: ServerProcess, count: int) -> None:
    with Client(server.address) as client, client.watch("gpu", from_revision=1, kinds=[EventKind.GRANTED]) as events:
        for _ in range(count):
            next(events)


@pytest.mark.slow
def test_the_schedulers_jobs_go_on_over_a_killed_server_and_those_that_wait_are_granted_afterwards(
    server: ServerProcess, tmp_path: Path
) -> None:
    # A job that is killed leaves no second line, and one that is run again leaves a second first one.
    log = tmp_path / "log"
    work = f"import time; f = open({str(log)!r}, 'a', 1); f.write('begun\\n'); time.sleep(6); f.write('ended\\n')"
    scheduler = launch(server, "scheduler_loop.py", "gpu", "one", "two", "three", work=work)
    wait_for_grants(server, 2)
    server.kill()
    time.sleep(OUTAGE_S)
    server.start()

    assert end_of(scheduler) == (0, ["one ended with 0", "three ended with 0", "two ended with 0"])
    assert sorted(log.read_text().split()) == ["begun"] * 3 + ["ended"] * 3
    with Client(server.address) as client:
        assert client.describe("gpu").totals.busy_blocks == 0, "what nobody could release is released by hand or TTL"


@pytest.mark.slow
def test_the_scheduler_can_be_run_again_with_the_same_names(server: ServerProcess) -> None:
    for _ in range(5):
        ended = end_of(launch(server, "scheduler_loop.py", "gpu", "tick", "tock"))
        assert ended == (0, ["tick ended with 0", "tock ended with 0", "working", "working"])


def test_one_job_that_can_never_be_granted_ends_no_other(server: ServerProcess) -> None:
    with Client(server.address) as client:
        taken = client.acquire("gpu", blocks=1, holder="other", token="bad-try-1")
        client.release(taken.allocation)
        client.acquire("gpu", blocks=1, holder="other", token="bad-try-2")  # a token that somebody else uses
    code, printed = end_of(launch(server, "scheduler_loop.py", "gpu", "good", "bad"))

    assert code == 1
    assert printed[0].startswith("bad ended with ")
    assert printed[1:] == ["good ended with 0", "working"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gang.py", "generated_client.py"])
def test_the_others_wait_for_a_server_that_is_away_and_can_be_run_again(server: ServerProcess, name: str) -> None:
    server.kill()
    example = launch(server, name, "gpu")
    time.sleep(4)
    server.start()
    code, printed = end_of(example)
    assert code == 0

    assert end_of(launch(server, name, "gpu")) == (0, printed)
