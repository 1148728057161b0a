"""A backup while the server commits all the time: as fast as one of an idle file, whole, private and right."""

import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.stress.scenario import Figure, Scale, Scenario, percentile
from blockyard import Client, operations
from blockyard.types import Grant
from tests.harness.process import ServerProcess

COMMAND: Final = (sys.executable, "-c", "import sys; from blockyard.cli import main; sys.exit(main())", "backup")
FULL_MB: Final = 100
SHORT_MB: Final = 5
PAIRS_A_SECOND: Final = 20
"""Each is an Acquire and a Release, two commits."""


def run(scale: Scale) -> list[Figure]:
    """Backups of an idle file, then the same under load."""
    repeats = scale.of(3, 2)
    with ServerProcess(scale.folder / "server", audit_interval_s=0) as server:
        server.start()
        with Client(server.address) as client:
            _fill(client, server.data, scale.of(FULL_MB, SHORT_MB) * 1_000_000)
            idle = [_backup(server.data, scale.folder / f"idle-{n}.db") for n in range(repeats)]
            with _load(client) as pair_times:
                _wait_for(pair_times, 5)
                before = len(pair_times)
                busy = [_backup(server.data, scale.folder / f"busy-{n}.db") for n in range(repeats)]
                during = pair_times[before:]
            copies = [scale.folder / f"busy-{n}.db" for n in range(repeats)]
            wrong = sum(not _is_whole(copy) for copy in copies)
            open_to_others = sum(bool(stat.S_IMODE(copy.stat().st_mode) & 0o077) for copy in copies)
            revisions = [_revision(copy) for copy in copies]
        log_mb = sum(path.stat().st_size for path in (scale.folder / "server").glob("*-wal")) / 1e6
    return [
        Figure("commits while the backups ran", 2 * len(during), "", at_least=repeats, kind="count"),
        Figure("backups that are not whole", wrong, "", at_most=0, kind="count"),
        Figure("backups that others can read", open_to_others, "", at_most=0, kind="count"),
        Figure("different moments in as many backups", len(set(revisions)), "", at_least=2, kind="count"),
        Figure("backup of an idle file", min(idle), "s"),
        Figure("backup under load", min(busy), "s"),
        Figure("loaded to idle", min(busy) / min(idle), "", at_most=2),
        Figure("Acquire and Release meanwhile, p99", percentile(during, 0.99) * 1000, "ms"),
        Figure("the server's log after the backups", log_mb, "MB", at_most=64, kind="count"),
    ]


def _fill(client: Client, data: Path, size_bytes: int) -> None:
    client.create_fleet("gpu")
    for number in range(20):
        client.create_instance("gpu", f"node-{number}", total_blocks=4096)
    words = {"first": "v" * 1000, "second": "w" * 1000}
    while os.path.getsize(data) < size_bytes:  # noqa: PTH202  # what a person would look at
        asked = [operations.acquire("gpu", blocks=8, holder="x" * 200, annotations=words, ttl=None) for _ in range(400)]
        grants = [answer for answer in client.batch(asked) if isinstance(answer, Grant)]
        assert len(grants) == len(asked)
        client.batch([operations.release(grant.allocation.name) for grant in grants])


def _backup(data: Path, file: Path) -> float:
    """How long the command takes, in seconds."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BLOCKYARD_")}
    began_s = time.monotonic()
    done = subprocess.run(
        [*COMMAND, str(file), "--data", str(data), "--output", "json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    took_s = time.monotonic() - began_s
    assert done.returncode == 0, done.stderr
    answer: Any = json.loads(done.stdout)
    assert answer["size_bytes"] == file.stat().st_size
    return took_s


@contextmanager
def _load(client: Client) -> Iterator[list[float]]:
    """Acquires and releases in a thread; how long each pair took."""
    over = threading.Event()
    times: list[float] = []

    def churn() -> None:
        while not over.is_set():
            began_s = time.monotonic()
            grant = client.acquire("gpu", blocks=1, holder="load")
            client.release(grant.allocation)
            times.append(time.monotonic() - began_s)
            over.wait(max(0.0, 1 / PAIRS_A_SECOND - times[-1]))

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        yield times
    finally:
        over.set()
        thread.join()


def _wait_for(times: list[float], count: int) -> None:
    while len(times) < count:
        time.sleep(0.01)


def _is_whole(copy: Path) -> bool:
    with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as db:
        counts = "SELECT (SELECT count(*) FROM held_blocks), (SELECT sum(busy_blocks) FROM instances)"
        [held, busy] = db.execute(counts).fetchone()
        return db.execute("PRAGMA integrity_check").fetchall() == [("ok",)] and held == busy


def _revision(copy: Path) -> int:
    with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT revision FROM fleets").fetchone()[0])


SCENARIO: Final = Scenario("backup", "`blockyard backup` while the server commits 40 times a second", run)
