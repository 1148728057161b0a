"""Backups while servers start, stop and die: neither breaks the other, and nothing acknowledged is lost."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blockyard_server.store.sqlite.backup import make_backup
from blockyard_server.store.sqlite.store import SqliteStore
from tests.harness.samples import some_at_first
from tests.store.test_backup import held_in
from tests.store.test_outside_connections import ENDS, Server

BACKUP = """
import pathlib, sys
from blockyard_server.store.sqlite import backup
backup.PAGES_A_STEP = 10
data, file, pause_at = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
seen = set()
def tell(done, total):
    where = "checking" if done == total else "copying"
    if where == pause_at and where not in seen:
        seen.add(where)
        print(where, flush=True)
        sys.stdin.readline()
print(backup.make_backup(data, file, replace=False, progress=tell).fleets["gpu"], flush=True)
"""
"""A backup in a process of its own, which waits for a word at a moment of the test's choice."""

FIRST, SECOND = 60, 40


class BackupProcess:
    """A backup that has reached this point, `copying` or `checking`, and waits there."""

    def __init__(self, data: Path, file: Path, pause_at: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", BACKUP, str(data), str(file), pause_at],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{pause_at}\n"

    def finish(self) -> None:
        """Lets it end, well."""
        out, _ = self._process.communicate("on\n")
        assert (self._process.returncode, out) == (0, f"{FIRST + 2}\n")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.communicate()


BACKUP_ENDS = {"finished": BackupProcess.finish, "killed": BackupProcess.kill}


@pytest.mark.parametrize("backup_end", some_at_first([*BACKUP_ENDS], 1))
@pytest.mark.parametrize("first_end", [pytest.param("stopped", marks=pytest.mark.slow), "killed"])
@pytest.mark.parametrize("second_end", ENDS)
@pytest.mark.parametrize("pause_at", ["copying", pytest.param("checking", marks=pytest.mark.soak)])
def test_a_server_ends_and_another_starts_while_a_backup_is_made(
    tmp_path: Path, pause_at: str, first_end: str, second_end: str, backup_end: str
) -> None:
    data, file = tmp_path / "data.db", tmp_path / "copy.db"
    first = Server(data, 0, FIRST)
    backup = BackupProcess(data, file, pause_at)
    ENDS[first_end](first)
    second = Server(data, FIRST, SECOND)
    BACKUP_ENDS[backup_end](backup)
    ENDS[second_end](second)

    assert file.exists() == (backup_end == "finished")
    if file.exists():
        assert held_in(file) == FIRST
        file.unlink()
    expect_all(data, FIRST + SECOND)


@pytest.mark.slow
@pytest.mark.parametrize("act", [BackupProcess.finish, BackupProcess.kill])
def test_a_backup_that_was_begun_without_a_server_does_not_keep_one_from_starting(
    tmp_path: Path, act: Callable[[BackupProcess], None]
) -> None:
    data = tmp_path / "data.db"
    Server(data, 0, FIRST).kill()
    backup = BackupProcess(data, tmp_path / "copy.db", "copying")
    server = Server(data, FIRST, SECOND)
    act(backup)
    server.stop()
    (tmp_path / "copy.db").unlink(missing_ok=True)
    expect_all(data, FIRST + SECOND)


@pytest.mark.slow
def test_backups_one_after_the_other_meet_servers_that_start_and_die(tmp_path: Path) -> None:
    data = tmp_path / "data.db"
    Server(data, 0, 1).stop()
    program = (
        "import pathlib, sys\n"
        "from blockyard_server.store.sqlite.backup import make_backup\n"
        "data, file, made = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), 0\n"
        "print('begun', flush=True)\n"
        "while not file.with_name('stop').exists():\n"
        "    make_backup(data, file, replace=True, progress=lambda *_: None)\n"
        "    made += 1\n"
        "print(made)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(data), str(tmp_path / "copy.db")], stdout=subprocess.PIPE, text=True
    ) as backups:
        assert backups.stdout is not None
        assert backups.stdout.readline() == "begun\n"
        for number in range(6):
            server = Server(data, 1 + number, 1)
            (server.kill if number % 2 else server.stop)()
        (tmp_path / "stop").touch()
        made = int(backups.communicate()[0])

    assert backups.returncode == 0
    assert made >= 2
    expect_all(data, 7)


def expect_all(data: Path, held: int) -> None:
    """All that was acknowledged is in a further backup, and in the store that starts next; nothing is left over."""
    made = make_backup(data, data.with_name("copy.db"), replace=True, progress=lambda *_: None)
    assert (held_in(made.file), made.fleets) == (held, {"gpu": held + 2})
    store = SqliteStore(data)
    store.open()
    with store.transaction("gpu") as transaction:
        assert transaction.load_instances()[0].record.busy_blocks == held
    asyncio.run(store.close())
    assert sorted(path.name for path in data.parent.iterdir() if path.name.endswith(".partial")) == []
