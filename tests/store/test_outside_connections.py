"""Other programs have the data file open while the server stops, dies and starts: nothing acknowledged is lost."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from blockyard_server.engine.store_protocol import StoreRefused
from blockyard_server.store.sqlite.store import SqliteStore
from tests.harness.other_program import OtherProgram
from tests.harness.samples import some_at_first
from tests.store.story import Story

BEFORE, AFTER = 300, 300
"""So many grants before and after the second start, so that both write a few hundred pages of the log."""

GRANTS = """
import asyncio, pathlib, sys, os
from blockyard_server.store.sqlite.store import SqliteStore
from tests.store.story import Story
path, begin, count, end = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
store = SqliteStore(path)
store.open()
story = Story(store)
if begin == 0:
    story.begin(node_1=4096)
else:
    story.revision, story.order = begin + 2, 1
for number in range(begin, begin + count):
    story.grant(("node-1", (number,)))
    story.commit()
print("acknowledged", flush=True)
sys.stdin.readline()
asyncio.run(store.close())
"""
"""A server's work, in a process that can be killed: one grant a commit, then it waits for the word to stop."""


class Server:
    """A process that makes grants."""

    def __init__(self, data: Path, begin: int, count: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", GRANTS, str(data), str(begin), str(count), ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "acknowledged\n"

    def stop(self) -> None:
        """Closes the store and ends."""
        self._process.communicate("stop\n")
        assert self._process.returncode == 0

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.communicate()
        assert self._process.returncode == -signal.SIGKILL


def read_once(other: OtherProgram) -> None:
    assert other.ask("SELECT count(*) FROM allocations") == [[BEFORE]]


def read_on(other: OtherProgram) -> None:
    assert other.ask("BEGIN") == []
    read_once(other)


def copy_the_log(other: OtherProgram) -> None:
    read_once(other)
    assert other.ask("PRAGMA wal_checkpoint(PASSIVE)")[0][0] == 0


ENDS = {"stopped": Server.stop, "killed": Server.kill}


@pytest.mark.parametrize("first_end", ENDS)
@pytest.mark.parametrize("second_end", some_at_first([*ENDS], 1))
@pytest.mark.parametrize(
    "act", [read_on, *(pytest.param(act, marks=pytest.mark.slow) for act in (read_once, copy_the_log))]
)
def test_an_outside_connection_over_a_restart_destroys_nothing(
    tmp_path: Path, act: Callable[[OtherProgram], None], first_end: str, second_end: str
) -> None:
    data = tmp_path / "data.db"
    first = Server(data, 0, BEFORE)
    with OtherProgram(data) as other:
        act(other)
        ENDS[first_end](first)
        log = (tmp_path / "data.db-wal").stat().st_ino
        second = Server(data, BEFORE, AFTER)
        assert (tmp_path / "data.db-wal").stat().st_ino == log, "the log that the other program has open was replaced"
        assert other.ask("PRAGMA wal_checkpoint(PASSIVE)")[0][0] == 0 or act is read_on
        ENDS[second_end](second)
    with closing(sqlite3.connect(data)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("SELECT count(*) FROM allocations").fetchone() == (BEFORE + AFTER,)
    store = SqliteStore(data)
    store.open()
    with store.transaction("gpu") as transaction:
        assert transaction.load_instances()[0].record.busy_blocks == BEFORE + AFTER
    asyncio.run(store.close())


def test_a_killed_servers_log_is_emptied_by_the_next_start_when_nobody_has_the_file_open(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    Server(data, 0, 10).kill()
    log = tmp_path / "data.db-wal"
    assert log.stat().st_size > 0
    with closing(sqlite3.connect(f"file:{data}?immutable=1", uri=True)) as file_alone:
        assert file_alone.execute("SELECT count(*) FROM allocations").fetchone() == (0,), "all of them are in the log"
    store = SqliteStore(data)
    store.open()
    assert log.stat().st_size == 0
    asyncio.run(store.close())


def test_a_log_that_a_failed_sync_may_have_spoilt_is_not_used_beside_other_programs(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    server = Server(data, 0, BEFORE)
    with OtherProgram(data) as other:
        read_once(other)
        server.kill()
        (tmp_path / "data.db.lock").write_bytes(b"1\nsync failed\n")
        store = SqliteStore(data)
        for _ in range(2):
            with pytest.raises(StoreRefused, match=r"is locked by another program.*stop it"):
                store.open()
    store.open()
    assert (tmp_path / "data.db.lock").read_bytes() == f"{os.getpid()}\n".encode()
    story = Story(store)
    story.revision, story.order = BEFORE + 2, 1
    story.grant(("node-1", (BEFORE,)))
    story.commit()
    asyncio.run(store.close())
