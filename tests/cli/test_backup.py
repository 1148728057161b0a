"""`blockyard backup` as its user has it."""

import os
import pty
import shutil
import stat
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from blockyard import Client
from tests.cli.conftest import COMMAND, CommandLine, serving

NOBODY = CommandLine("127.0.0.1:1")
"""A backup asks no service."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data file that a stopped server has left: one fleet at revision 3, and two blocks held."""
    data = tmp_path / "blockyard.db"
    with serving(data) as address, Client(address) as client:
        client.create_fleet("gpu")
        client.create_instance("gpu", "node-1", total_blocks=8)
        client.acquire("gpu", blocks=2, holder="job")
    return data


def test_a_backup_says_what_it_is_and_a_server_goes_on_from_it(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "copy.db"

    done = NOBODY("backup", str(file), "--data", str(data))

    size = file.stat().st_size / 1024 / 1024
    assert (done.code, done.err) == (0, "")
    assert done.out == f"{file} is a backup of {data}: {size:.1f} MiB, 1 fleet, checked.\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    restored = tmp_path / "restored.db"
    shutil.move(file, restored)
    with serving(restored) as address, Client(address) as client:
        assert client.describe("gpu").totals.busy_blocks == 2
        assert client.verify("gpu").clean


@pytest.mark.slow
def test_the_file_is_found_by_the_servers_own_variable_also_while_it_serves(tmp_path: Path) -> None:
    data, file = tmp_path / "blockyard.db", tmp_path / "copy.db"
    with serving(data) as address, Client(address) as client:
        client.create_fleet("gpu")
        variables = {"BLOCKYARD_DATA": str(data)}

        done = NOBODY("backup", str(file), "--output", "json", environment=variables)
        again = NOBODY("backup", str(file), environment=variables)
        forced = NOBODY("backup", str(file), "--force", environment=variables)

    assert done.document == {
        "file": str(file),
        "data": str(data),
        "size_bytes": file.stat().st_size,
        "fleets": {"gpu": 1},
    }
    assert again.code == 2
    assert again.err == f"Error: {file} is there already. Name another file, or replace it with --force.\n"
    assert forced.code == 0


@pytest.mark.slow
def test_data_in_a_postgresql_is_left_to_its_own_programs(data: Path, tmp_path: Path) -> None:
    variables = {"BLOCKYARD_DATABASE": "postgresql://me:s3cret@127.0.0.1:1/x"}

    for more in ({}, {"BLOCKYARD_DATA": str(data)}):
        refused = NOBODY("backup", str(tmp_path / "copy.db"), environment={**variables, **more})
        assert refused.code == 2
        assert refused.err.startswith("Error: The data is in a PostgreSQL (BLOCKYARD_DATABASE), ")
        assert "pg_dump" in refused.err
        assert "pg_basebackup" in refused.err
        assert "s3cret" not in refused.err
    assert not (tmp_path / "copy.db").exists()
    assert NOBODY("backup", str(tmp_path / "copy.db"), "--data", str(data), environment=variables).code == 0


@pytest.mark.slow
def test_wrong_data_is_no_backup_and_the_exit_code_says_so(data: Path, tmp_path: Path) -> None:
    data.write_bytes(b"Nothing that SQLite has written. " * 200)

    failed = NOBODY("backup", str(tmp_path / "copy.db"), "--data", str(data))
    nowhere = NOBODY("backup", str(tmp_path / "copy.db"), "--data", str(tmp_path / "other.db"))

    assert (failed.code, nowhere.code) == (1, 2)
    assert "is damaged" in failed.err
    assert nowhere.err.startswith("Error: There is no data file ")
    assert sorted(path.name for path in tmp_path.glob("copy*")) == []


def test_a_disk_that_takes_no_more_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    # A file may have at most 32 KiB here, as on a disk that is full by then.
    limited = f"ulimit -f 32; trap '' XFSZ; exec {' '.join(map(repr, COMMAND))} backup {tmp_path}/copy.db --data {data}"

    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, check=False)

    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.glob("copy*")) == []


@pytest.mark.slow
def test_a_terminal_sees_how_far_it_is(data: Path, tmp_path: Path) -> None:
    pid, screen = pty.fork()
    if pid == 0:
        os.execv(COMMAND[0], [*COMMAND, "backup", str(tmp_path / "copy.db"), "--data", str(data)])  # noqa: S606  # no shell is wanted
    shown = b""
    with suppress(OSError):  # how Linux says that nobody writes to the terminal any more
        while piece := os.read(screen, 4096):
            shown += piece
    os.close(screen)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"Checking the copy" in shown
    assert b"is a backup of" in shown.replace(b"\r\n", b"")


@pytest.mark.slow
def test_without_the_servers_parts_it_says_what_to_install(data: Path, tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['sqlalchemy'] = None; from blockyard.cli import main; sys.exit(main())"

    refused = subprocess.run(
        [COMMAND[0], "-c", hidden, "backup", str(tmp_path / "copy.db"), "--data", str(data)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: A backup needs a part of the service that is not installed: sqlalchemy")
    assert refused.stderr.endswith("Next: Install it: pip install 'blockyard[server]'.\n")


INTERRUPTED = """
import os, signal, sys, threading
from blockyard.cli import main
from blockyard_server.store.sqlite import backup
def endless(copy):
    # As the check of a large file, in which Ctrl-C is pressed.
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    copy.execute("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n").fetchone()
backup.differences = endless
sys.exit(main())
"""


@pytest.mark.slow
def test_ctrl_c_during_the_check_ends_it_and_leaves_nothing_behind(data: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND[0], "-c", INTERRUPTED, "backup", str(tmp_path / "copy.db"), "--data", str(data)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")
    assert sorted(path.name for path in tmp_path.glob("copy*")) == []
