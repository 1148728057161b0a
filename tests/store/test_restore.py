"""A backup takes the place of a data file above its lost future, whole or not at all."""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from blockyard_server.engine.restore import Report, restored
from blockyard_server.engine.store_protocol import StoreRefused
from blockyard_server.store.sqlite.backup import make_backup
from blockyard_server.store.sqlite.restore_file import RestoredFile, restore_file
from blockyard_server.store.sqlite.store import SqliteStore
from tests.store.story import Story

NOW_US: Final = 1_800_000_000_000_000
STEPS: Final = ("copy", "take above", "second name", "move -wal", "move -shm", "rename", "end")
QUICK: Final = ("move -shm", "end")
RESTORE: Final = """
import os, signal, sys
from pathlib import Path
from blockyard_server.engine.restore import restored
from blockyard_server.store.sqlite.restore_file import restore_file
backup, data, fatal, now = sys.argv[1:]
def step(name):
    if name == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
restore_file(Path(backup), Path(data), "test", lambda store: restored(store, int(now), None), step)
"""


def data_of(folder: Path) -> Path:
    return folder / "blockyard.db"


def leave_log(store: SqliteStore) -> None:
    """Leaves the file as a server that was killed does: with a log that is not empty."""
    files = {suffix: Path(f"{store.path}{suffix}").read_bytes() for suffix in ("", "-wal", "-shm")}
    asyncio.run(store.close())
    for suffix, content in files.items():
        Path(f"{store.path}{suffix}").write_bytes(content)
    assert files["-wal"], "the log was to be left"


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """A backup at revision 3, beside a killed server's file that has come to revision 5, two of it in the log."""
    store = SqliteStore(data_of(tmp_path))
    store.open()
    story = Story(store).begin(node_1=8)
    before = story.revision
    made = make_backup(store.path, tmp_path / "backup.db", replace=False, progress=lambda *_: None)
    story.grant(("node-1", (0,)))
    story.grant(("node-1", (1,)))
    story.commit()
    assert made.fleets == {"gpu": before}
    asyncio.run(store.probe())
    leave_log(store)
    return made.file


def restore(backup: Path, data: Path) -> RestoredFile[Report]:
    return restore_file(backup, data, "test", lambda store: restored(store, NOW_US, None))


def why_refused(data: Path) -> str | None:
    """Why a server does not start on the file; None if it does."""
    store = SqliteStore(data)
    try:
        store.open()
    except StoreRefused as refused:
        return str(refused)
    try:
        return store.why_restored()
    finally:
        asyncio.run(store.close())


def revision_of(data: Path) -> int:
    with closing(sqlite3.connect(data)) as db:
        return int(db.execute("SELECT revision FROM fleets WHERE fleet = 'gpu'").fetchone()[0])


def test_a_restored_file_is_above_its_lost_future_and_the_old_one_is_kept(backup: Path, tmp_path: Path) -> None:
    data = data_of(tmp_path)

    done = restore(backup, data)

    assert why_refused(data) is None
    assert (revision_of(data), done.had_manifest) == (done.done.fleets["gpu"].revision, True)
    assert revision_of(data) > 1_000_000_000
    assert done.kept == tmp_path / "blockyard.db.replaced-test"
    assert revision_of(done.kept) == done.done.fleets["gpu"].backup_revision + 2, "the old file has lost its log"
    with closing(sqlite3.connect(data)) as db:
        rows = db.execute("SELECT revision, kind, body FROM journal").fetchall()
        assert db.execute("SELECT count(*) FROM held_blocks").fetchone() == (0,), "the stale log was replayed"
        assert db.execute("SELECT compacted_revision, format FROM fleets").fetchone() == (rows[0][0] - 1, 2)
    assert [(rows[0][1], json.loads(rows[0][2]))] == [("RESTORED", {"backup_revision": 2, "epoch": 1})]


@pytest.mark.parametrize(
    "fatal", [step if step in QUICK else pytest.param(step, marks=pytest.mark.slow) for step in STEPS]
)
def test_a_kill_at_any_step_leaves_nothing_that_a_server_starts_on_without_the_bump(
    backup: Path, tmp_path: Path, fatal: str
) -> None:
    data = data_of(tmp_path)
    killed = subprocess.run(
        [sys.executable, "-c", RESTORE, str(backup), str(data), fatal, str(NOW_US)], env=os.environ, check=False
    )
    assert killed.returncode == -signal.SIGKILL, f"there is no step {fatal}"

    image = tmp_path / "image"
    shutil.copytree(tmp_path, image, symlinks=True, ignore=shutil.ignore_patterns("image"))
    if (tmp_path / "blockyard.db.replaced-test").exists() and data.samefile(tmp_path / "blockyard.db.replaced-test"):
        (image / "blockyard.db.replaced-test").unlink()
        os.link(data_of(image), image / "blockyard.db.replaced-test")
    refused = why_refused(data_of(image))
    if refused is None:
        revision = revision_of(data_of(image))
        assert revision == 4 or revision > 1_000_000_000, "neither the old file with its log nor the restored one"
    else:
        assert "2 names" in refused
    assert fatal not in {"copy", "take above", "second name"} or refused is None

    done = restore_file(backup, data, "again", lambda store: restored(store, NOW_US, None))
    assert why_refused(data) is None
    assert revision_of(data) == done.done.fleets["gpu"].revision > 1_000_000_000


def test_a_file_that_was_put_back_by_hand_is_behind_its_witness_until_it_is_taken_above(
    backup: Path, tmp_path: Path
) -> None:
    data = data_of(tmp_path)
    for file in tmp_path.glob("blockyard.db*"):
        file.unlink()
    shutil.copy(backup, data)

    for _ in range(2):  # the refused start leaves the witness as it is
        assert "fleet gpu was at revision 4 or later, and is at revision 2 now" in (why_refused(data) or "")

    store = SqliteStore(data)
    store.open()
    restored(store, NOW_US, None)
    asyncio.run(store.close())
    assert why_refused(data) is None
