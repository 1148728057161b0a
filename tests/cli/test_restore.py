"""`blockyard restore` and `blockyard admin restored` as their user has them, and what a forgotten one meets."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from blockyard import AllocationNotFound, Client
from tests.cli.conftest import CommandLine, serving
from tests.harness.process import ServerProcess, StartFailed

pytestmark = pytest.mark.slow
NOBODY: Final = CommandLine("127.0.0.1:1")
"""A restore asks no service."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where the file of the test is."""
    return tmp_path / "blockyard.db"


def lose_the_future(data: Path) -> str:
    """A backup beside the file, and the name of what was granted after it: A's."""
    with serving(data) as address, Client(address) as client:
        client.create_fleet("gpu")
        client.create_instance("gpu", "node-1", total_blocks=2)
        assert NOBODY("backup", str(data.with_name("monday.db")), "--data", str(data)).code == 0
        return client.acquire("gpu", blocks=2, holder="A", ttl=3600).allocation.name


def expect_no_ghost(data: Path, ghost: str) -> None:
    """B holds what A held in the lost future; A can do nothing."""
    with serving(data) as address, Client(address) as client:
        held = client.acquire("gpu", blocks=2, holder="B", ttl=3600).allocation
        assert held.name != ghost
        number = int(ghost.rpartition("/")[2])
        assert held.fencing_token > number
        with pytest.raises(AllocationNotFound):
            client.renew(ghost, fencing_token=number)
        with pytest.raises(AllocationNotFound):
            client.release(ghost)
        assert client.get_allocation(held.name).state == "HELD"
        assert client.verify("gpu").clean


def test_a_restored_backup_knows_no_name_of_the_lost_future(data: Path) -> None:
    ghost = lose_the_future(data)

    done = NOBODY("restore", str(data.with_name("monday.db")), "--data", str(data))

    assert (done.code, done.err) == (0, "")
    first, kept, epoch, fleet, *_ = done.out.splitlines()
    assert first == f"{data.with_name('monday.db')} is restored as {data}."
    assert Path(kept.removeprefix("The old file is kept: ")).exists()
    assert epoch.startswith("Epoch 1.")
    assert fleet.startswith("  gpu: revision 2 -> ")
    expect_no_ghost(data, ghost)
    with serving(data) as address:
        events = CommandLine(address)("events", "gpu", "--kind", "restored").out
    assert "RESTORED  from a backup at revision 2, epoch 1" in events


def test_a_forgotten_bump_is_found_and_the_command_helps(data: Path, tmp_path: Path) -> None:
    ghost = lose_the_future(data)
    for file in tmp_path.glob("blockyard.db*"):
        file.unlink()
    shutil.copy(data.with_name("monday.db"), data)
    with ServerProcess(tmp_path, data=data) as server, pytest.raises(StartFailed, match="admin restored") as refused:
        server.start()
    assert "fleet gpu was at revision 3 or later, and is at revision 2 now" in str(refused.value)

    done = NOBODY("admin", "restored", "--data", str(data))

    assert (done.code, done.err) == (0, "")
    expect_no_ghost(data, ghost)


def test_it_is_refused_while_a_server_has_the_file(data: Path) -> None:
    lose_the_future(data)
    backup = data.with_name("monday.db")
    with serving(data):
        for command in (("restore", str(backup)), ("admin", "restored")):
            done = NOBODY(*command, "--data", str(data))
            assert (done.code, "in use by another Blockyard server" in done.err) == (2, True)


def test_a_backup_that_is_not_what_its_manifest_says_is_refused(data: Path) -> None:
    lose_the_future(data)
    backup, before = data.with_name("monday.db"), data.read_bytes()
    with backup.open("ab") as file:
        file.write(b"x")

    done = NOBODY("restore", str(backup), "--data", str(data))

    assert (done.code, "is not what its manifest" in done.err) == (2, True)
    assert data.read_bytes() == before
    assert not list(data.parent.glob("*.restoring*"))


def test_a_bump_that_is_too_small_changes_nothing(data: Path) -> None:
    lose_the_future(data)
    backup, before = data.with_name("monday.db"), data.read_bytes()

    for command in (("restore", str(backup)), ("admin", "restored")):
        done = NOBODY(*command, "--data", str(data), "--bump", "1")
        assert (done.code, "A bump of 1 is too small" in done.err) == (2, True)

    assert data.read_bytes() == before


def test_it_needs_to_be_told_where_the_data_is(data: Path) -> None:
    assert "either --data or --database" in NOBODY("admin", "restored").err
    assert "There is no data file" in NOBODY("admin", "restored", "--data", str(data)).err
    assert not data.exists()


def drill(folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs it as cron does."""
    script = Path(__file__).parents[2] / "scripts" / "restore_drill.py"
    return subprocess.run([sys.executable, str(script), str(folder)], capture_output=True, text=True, check=False)


def test_the_drill_says_whether_the_newest_backup_can_be_restored(data: Path, tmp_path: Path) -> None:
    assert drill(tmp_path).returncode == 2
    lose_the_future(data)
    backup, manifest = tmp_path / "monday.db", tmp_path / "monday.db.manifest"
    files = {path.name: path.read_bytes() for path in (data, backup)}

    good = drill(tmp_path)
    text = manifest.read_text()
    manifest.write_text(text.replace('"gpu": 2', '"gpu": 3'))
    wrong = drill(tmp_path)
    manifest.write_text(text)
    with backup.open("r+b") as file:
        file.seek(5000)
        file.write(b"damage")
    damaged = drill(tmp_path)

    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout == f"{backup}: restored, 1 fleets as its manifest says, 1 verified and clean.\n"
    assert (wrong.returncode, "the manifest has the revisions" in wrong.stderr) == (1, True)
    assert (damaged.returncode, "is not what its manifest" in damaged.stderr) == (1, True)
    assert data.read_bytes() == files[data.name]
