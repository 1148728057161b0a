"""Two real logs through `blockyard replay`, gRPC and every store: which instances each request gets is known exactly.

The figures are those of the logs' own README; whoever keeps them made them with another program.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from blockyard import Client
from tests.harness.process import ServerProcess, several_servers

TRACES: Final = Path(__file__).parents[2].parent / "shared" / "traces"
BOUND_S: Final = 300

pytestmark = [
    pytest.mark.skipif(not TRACES.is_dir(), reason=f"the logs are not at {TRACES}: ../shared/traces is not there"),
    pytest.mark.timeout(BOUND_S),
]


class Log(NamedTuple):
    """A log, and what is known of it."""

    folder: str
    requests_csv: str
    options: tuple[str, ...]
    instances: int
    requests: int
    released: bool


class Run(NamedTuple):
    """A log under one strategy."""

    log: Log
    strategy: str
    accepted: int
    digest: str

    @property
    def name(self) -> str:
        return f"{self.log.folder}-{self.strategy}"


NASA: Final = Log("nasa_ipsc", "requests.csv", (), instances=16, requests=18_066, released=True)
OPENB: Final = Log("openb", "requests_default.csv", ("--hold",), instances=1_213, requests=7_064, released=False)
RUNS: Final = (
    Run(NASA, "first_fit", 18_047, "b4d6ba22b8b6dbb6"),
    Run(NASA, "best_fit", 18_063, "0851aaed0f08d4a3"),
    Run(NASA, "worst_fit", 17_913, "b30b8ef14c39e290"),
    Run(OPENB, "first_fit", 5_885, "efc7c0e90b2f6cfa"),
    Run(OPENB, "best_fit", 5_885, "f584b2f5dad14bed"),
    Run(OPENB, "worst_fit", 6_162, "65ebd69c62d8506f"),
)


@pytest.mark.parametrize(
    "run",
    [pytest.param(run, marks=() if run is RUNS[0] else pytest.mark.slow, id=run.name) for run in RUNS],
)
def test_a_real_log_gets_exactly_the_instances_that_are_known_and_verify_is_clean(run: Run, tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        server.start()
        replay_exactly(run, server.address)


@pytest.mark.slow
@pytest.mark.parametrize("servers", [1, 3], ids=["one server", "three servers"])
@pytest.mark.parametrize(
    "run",
    [pytest.param(run, marks=() if run.strategy == "best_fit" else pytest.mark.soak, id=run.name) for run in RUNS],
)
def test_a_real_log_gets_them_on_postgres_too(run: Run, servers: int, database: str, tmp_path: Path) -> None:
    with several_servers(tmp_path, database, servers) as several:
        replay_exactly(run, ",".join(server.address for server in several))


def replay_exactly(run: Run, address: str) -> None:
    """The log goes through the service, and everything is as it is known."""
    report = replay(address, run)
    with Client(address) as client:
        totals = client.describe(report["fleet"]).totals

    assert (report["requests"], report["accepted"], report["digest"]) == (run.log.requests, run.accepted, run.digest)
    assert report["refused"] == run.log.requests - run.accepted
    verdict = report["verify"]
    assert (verdict["clean"], verdict["discrepancies"]) == (True, [])
    assert verdict["instances_checked"] == run.log.instances == totals.instances
    assert verdict["held_blocks_checked"] == totals.busy_blocks
    assert verdict["allocations_checked"] == (0 if run.log.released else run.accepted)
    assert verdict["events_replayed"] == verdict["revision"] >= run.accepted
    assert totals.busy_blocks + totals.idle_blocks == totals.total_blocks
    assert (totals.busy_blocks == 0) == run.log.released


@pytest.mark.slow
def test_the_digest_does_not_depend_on_how_many_operations_share_a_call(tmp_path: Path) -> None:
    run, limit = RUNS[0], 300
    with ServerProcess(tmp_path) as server:
        server.start()
        one_by_one, small, large = (
            replay(server.address, run, "--limit", str(limit), "--batch", size) for size in ("1", "7", "1000")
        )

    assert one_by_one["calls"] > small["calls"] > large["calls"]
    assert one_by_one["requests"] == limit
    outcomes = [
        {key: value for key, value in report.items() if key in FIGURES} for report in (one_by_one, small, large)
    ]
    assert outcomes[0] == outcomes[1] == outcomes[2]


FIGURES: Final = {"requests", "accepted", "refused", "accepted_block_seconds", "refused_although_idle", "digest"}


def replay(address: str, run: Run, *options: str) -> Any:
    """What `blockyard replay` reports; it has ended with exit code 0."""
    folder = TRACES / run.log.folder
    done = subprocess.run(
        [
            *(sys.executable, "-c", "import sys; from blockyard.cli import main; sys.exit(main())", "replay"),
            *(str(folder / "instances.csv"), str(folder / run.log.requests_csv)),
            *("--strategy", run.strategy, "--output", "json", "--address", address, *run.log.options, *options),
        ],
        env={name: value for name, value in os.environ.items() if not name.startswith("BLOCKYARD_")},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
