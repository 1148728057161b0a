"""A backup is one moment of the file, whole, checked and private; nothing of the original changes."""

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest

from blockyard_server.store.sqlite import backup
from blockyard_server.store.sqlite.backup import Backup, BackupFailed, BackupRefused, make_backup
from blockyard_server.store.sqlite.store import SqliteStore
from tests.harness.other_program import OtherProgram
from tests.store.story import Story
from tests.store.test_outside_connections import Server

HELD = 60


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Where the file of the test is."""
    return tmp_path / "blockyard.db"


@pytest.fixture
def story(data: Path) -> Iterator[Story]:
    """A fleet with a few dozen grants, in a store that is open."""
    store = SqliteStore(data)
    store.open()
    story = Story(store).begin(node_1=4096)
    for number in range(HELD):
        story.grant(("node-1", (number,)), annotations={"why": "x" * 500})
    story.commit()
    yield story
    asyncio.run(store.close())


def copied(data: Path, name: str = "copy.db", *, replace: bool = False) -> Backup:
    return make_backup(data, data.with_name(name), replace=replace, progress=lambda *_: None)


def held_in(file: Path) -> int:
    """How many blocks are held in a backup that is read as from a place where nothing can be written."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM held_blocks").fetchone()[0])


def left_over(data: Path) -> list[str]:
    """The files in the folder that are not the original's."""
    names = (path.name for path in data.parent.iterdir())
    return sorted(name for name in names if not name.startswith((data.name, f".{data.name}")))


def test_commits_during_the_copy_are_not_in_it_and_do_not_make_it_begin_again(
    story: Story, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "PAGES_A_STEP", 1)
    told: list[tuple[int, int]] = []

    def commit(done: int, total: int) -> None:
        told.append((done, total))
        if len(told) <= 20:
            story.grant(("node-1", (HELD + len(told),)))
            story.commit()

    made = make_backup(data, data.with_name("copy.db"), replace=False, progress=commit)

    assert len(told) > 20
    assert [done for done, _ in told] == sorted({done for done, _ in told}), "it began again"
    assert told[-1] == (made.size_bytes, made.size_bytes)
    assert (held_in(made.file), made.fleets) == (HELD, {"gpu": HELD + 2})
    assert copied(data, "later.db").fleets == {"gpu": story.revision}


def test_nobody_else_can_read_the_copy_at_any_moment(story: Story, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert story.revision
    monkeypatch.setattr(backup, "PAGES_A_STEP", 1)
    partial, modes = data.with_name("copy.db.partial"), set[int]()

    def look(*_: int) -> None:
        modes.update(stat.S_IMODE(path.stat().st_mode) for path in data.parent.glob("copy.db*"))
        assert partial.exists()

    mask = os.umask(0)
    try:
        made = make_backup(data, data.with_name("copy.db"), replace=False, progress=look)
    finally:
        os.umask(mask)

    assert modes == {0o600}
    assert stat.S_IMODE(made.file.stat().st_mode) == 0o600
    assert left_over(data) == ["copy.db", "copy.db.manifest"]


def test_a_killed_servers_file_is_copied_with_its_log_and_stays_as_it_is(data: Path) -> None:
    Server(data, 0, 50).kill()
    files = (data, data.with_name("blockyard.db-wal"))
    before = [sha256(file.read_bytes()).digest() for file in files]

    made = copied(data)

    assert held_in(made.file) == 50
    assert [sha256(file.read_bytes()).digest() for file in files] == before


def test_a_stopped_servers_file_and_a_backup_itself_are_copied(data: Path) -> None:
    Server(data, 0, 50).stop()
    before = sha256(data.read_bytes()).digest()

    first = copied(data)
    second = copied(first.file, "second.db")

    assert (held_in(first.file), held_in(second.file)) == (50, 50)
    assert sha256(data.read_bytes()).digest() == before


def test_a_server_starts_from_a_backup_and_goes_on(story: Story, data: Path, tmp_path: Path) -> None:
    assert story.revision
    restored = tmp_path / "restored"
    restored.mkdir()
    shutil.copy(copied(data).file, restored / "blockyard.db")
    store = SqliteStore(restored / "blockyard.db")

    store.open()
    again = Story(store)
    again.revision, again.order = HELD + 2, 1
    again.grant(("node-1", (HELD,)))
    again.commit()
    asyncio.run(store.close())

    assert copied(restored / "blockyard.db").fleets == {"gpu": HELD + 3}


class Fault(Exception):
    """What goes wrong in a test."""


def test_a_copy_that_breaks_off_leaves_nothing_behind(story: Story, data: Path) -> None:
    assert story.revision

    def fail(*_: int) -> None:
        raise Fault

    with pytest.raises(Fault):
        make_backup(data, data.with_name("copy.db"), replace=False, progress=fail)

    assert left_over(data) == []


@pytest.mark.slow
def test_what_a_killed_backup_has_left_is_replaced_and_not_written_into(story: Story, data: Path) -> None:
    assert story.revision
    partial = data.with_name("copy.db.partial")
    partial.write_text("of another time")
    partial.chmod(0o666)
    data.with_name("copy.db.partial-journal").write_text("of another time")
    with partial.open() as other:
        made = copied(data)
        assert other.read() == "of another time"

    assert held_in(made.file) == HELD
    assert left_over(data) == ["copy.db", "copy.db.manifest"]


@pytest.mark.slow
def test_two_backups_to_the_same_file_do_not_meet(story: Story, data: Path) -> None:
    assert story.revision
    refused: list[str] = []

    def meanwhile(done: int, total: int) -> None:
        with pytest.raises(BackupRefused, match=r"Another backup is writing .*copy\.db\.partial") as refusal:
            copied(data)
        refused.append(f"{refusal.value} {done} {total}")

    make_backup(data, data.with_name("copy.db"), replace=False, progress=meanwhile)

    assert refused
    assert left_over(data) == ["copy.db", "copy.db.manifest"]


def test_a_file_that_is_there_is_replaced_only_if_it_is_asked_for(story: Story, data: Path) -> None:
    file = data.with_name("copy.db")
    file.write_text("precious")

    with pytest.raises(BackupRefused, match=r"copy\.db is there already.*--force"):
        copied(data)
    assert file.read_text() == "precious"
    story.grant(("node-1", (HELD,)))
    story.commit()

    assert held_in(copied(data, replace=True).file) == HELD + 1


@pytest.mark.parametrize(
    "name",
    ["blockyard.db", "blockyard.db-wal", "blockyard.db-shm", "blockyard.db-journal", "blockyard.db.lock", "soft.db"],
)
@pytest.mark.parametrize("replace", [False, True])
def test_no_file_of_the_original_is_ever_overwritten(story: Story, data: Path, name: str, *, replace: bool) -> None:
    data.with_name("soft.db").symlink_to(data)
    before = data.stat().st_ino

    with pytest.raises(BackupRefused, match="is the data file itself, or belongs to it"):
        copied(data, name, replace=replace)

    assert data.stat().st_ino == before
    story.grant(("node-1", (HELD,)))
    story.commit()


def test_a_data_file_whose_name_is_that_of_an_unfinished_copy_is_not_overwritten(data: Path) -> None:
    odd = data.with_name("x.partial")
    Server(odd, 0, 1).stop()

    with pytest.raises(BackupRefused, match="is the data file itself, or belongs to it"):
        copied(odd, "x", replace=True)


def test_a_file_with_a_second_name_is_refused_as_source_and_as_place(story: Story, data: Path) -> None:
    assert story.revision
    hard = data.with_name("hard.db")
    hard.hardlink_to(data)

    for source, place in ((hard, "copy.db"), (data, "copy.db"), (data, "hard.db")):
        with pytest.raises(BackupRefused, match=r"has 2 names \(hard links\)"):
            copied(source, place, replace=True)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal", ".lock"])
def test_a_place_that_has_the_log_or_lock_of_a_database_beside_it_is_refused(
    story: Story, data: Path, suffix: str
) -> None:
    assert story.revision
    data.with_name(f"copy.db{suffix}").touch()

    with pytest.raises(BackupRefused, match="a server's data file"):
        copied(data, replace=True)


def test_what_is_no_file_is_never_replaced(story: Story, data: Path) -> None:
    assert story.revision
    data.with_name("folder").mkdir()
    data.with_name("dangling").symlink_to(data.with_name("nowhere"))

    for name in ("folder", "dangling"):
        with pytest.raises(BackupRefused, match="is there, and is not a file"):
            copied(data, name, replace=True)
    with pytest.raises(BackupRefused, match="There is no folder"):
        make_backup(data, data.parent / "missing" / "copy.db", replace=True, progress=lambda *_: None)


def test_what_is_no_data_file_is_refused(data: Path) -> None:
    with pytest.raises(BackupRefused, match="There is no data file"):
        copied(data)
    data.touch()
    with pytest.raises(BackupRefused, match=r"holds no data of Blockyard"):
        copied(data)
    data.write_bytes(b"A text, and not a database at all. " * 100)
    with pytest.raises(BackupFailed, match="is damaged"):
        copied(data)
    assert left_over(data) == []


def test_after_a_failed_sync_no_backup_is_made_until_a_start_has_dealt_with_it(story: Story, data: Path) -> None:
    assert story.revision
    data.with_name("blockyard.db.lock").write_bytes(b"1\nsync failed\n")

    with pytest.raises(BackupRefused, match="The disk failed to sync"):
        copied(data)


class Usage(NamedTuple):
    """What the system says of a disk."""

    free: int


def test_a_disk_without_room_is_noticed_before_anything_is_written(
    story: Story, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert story.revision
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=1_000_000))

    with pytest.raises(BackupRefused, match=r"The backup needs about 2 MiB, and 0 MiB are free in"):
        copied(data)
    assert left_over(data) == []


def test_a_file_that_another_program_has_for_itself_is_waited_for_and_then_given_up(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Server(data, 0, 1).stop()
    monkeypatch.setattr(backup, "BUSY_TIMEOUT_S", 0.01)
    with OtherProgram(data) as other:
        assert other.ask("PRAGMA locking_mode = EXCLUSIVE") == [["exclusive"]]
        assert other.ask("BEGIN IMMEDIATE") == []
        with pytest.raises(BackupFailed, match="is locked by another program"):
            copied(data)
    assert left_over(data) == []


WRONG: dict[str, tuple[str, str]] = {
    "a counter": (
        "UPDATE instances SET busy_blocks = busy_blocks - 1",
        f"instance node-1 of fleet gpu counts {HELD - 1} busy blocks, and {HELD} are held",
    ),
    "a place": (
        "PRAGMA ignore_check_constraints = ON; UPDATE instances SET total_blocks = 10, busy_blocks = 60",
        "allocation 13 of fleet gpu holds block 10 of instance node-1, which has 10 (and 49 more)",
    ),
    "an allocation": ("DELETE FROM allocations WHERE allocation = 5", "a row of held_blocks refers to one of alloc"),
    "an event": (
        "DELETE FROM journal WHERE revision = 7",
        f"fleet gpu is at revision {HELD + 2}, and its journal has {HELD + 1} events above revision 0,",
    ),
    "a revision": (
        "UPDATE fleets SET revision = revision + 1",
        f"fleet gpu is at revision {HELD + 3}, and its journal has {HELD + 2} events above revision 0,",
    ),
}
"""Statements that go around the guards, and what the check says of them."""


@pytest.mark.parametrize("what", WRONG)
def test_a_copy_that_is_wrong_is_kept_as_evidence_and_not_as_a_backup(story: Story, data: Path, what: str) -> None:
    statement, words = WRONG[what]
    asyncio.run(story.store.close())
    with closing(sqlite3.connect(data)) as db:
        for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        db.executescript(statement)
        db.commit()

    with pytest.raises(BackupFailed, match=r"^The data is wrong: ") as failure:
        copied(data)

    assert words in str(failure.value)
    assert left_over(data) == ["copy.db.damaged"]
    with pytest.raises(BackupRefused, match=r"copy\.db\.damaged is there already"):
        copied(data)
    with pytest.raises(BackupFailed):
        copied(data, replace=True)


def test_damaged_pages_are_found_in_the_copy(story: Story, data: Path) -> None:
    asyncio.run(story.store.close())
    with closing(sqlite3.connect(data)) as db:
        [page] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'held_blocks'").fetchone()
    with data.open("r+b") as file:
        file.seek((page - 1) * 4096 + 8)
        file.write(os.urandom(2000))

    with pytest.raises(BackupFailed, match=r"^The data is wrong: "):
        copied(data)
    assert left_over(data) == ["copy.db.damaged"]


OLDER = """
CREATE TABLE alembic_version (version_num TEXT);
CREATE TABLE fleets (fleet TEXT PRIMARY KEY, revision INTEGER);
CREATE TABLE instances (fleet TEXT, instance TEXT, total_blocks INTEGER, busy_blocks INTEGER);
CREATE TABLE held_blocks (fleet TEXT, instance TEXT, block INTEGER, allocation INTEGER);
CREATE TABLE journal (fleet TEXT, revision INTEGER);
INSERT INTO fleets VALUES ('gpu', 1);
INSERT INTO journal VALUES ('gpu', 1);
"""
"""What the checks need of the first release's tables."""


def test_an_older_releases_file_is_copied_too(data: Path) -> None:
    with closing(sqlite3.connect(data)) as db:
        db.executescript(OLDER)

    assert copied(data).fleets == {"gpu": 1}


def test_a_copy_that_somebody_has_replaced_is_not_given_the_name(story: Story, data: Path) -> None:
    assert story.revision
    partial = data.with_name("copy.db.partial")

    def replace(done: int, total: int) -> None:
        if done == total:
            partial.rename(data.with_name("elsewhere"))
            shutil.copy(data.with_name("elsewhere"), partial)

    with pytest.raises(BackupFailed, match="was replaced while it was written"):
        make_backup(data, data.with_name("copy.db"), replace=False, progress=replace)

    assert left_over(data) == ["copy.db.partial", "elsewhere"]


def test_what_a_killed_backup_has_left_does_not_count_as_room_that_is_missing(
    story: Story, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert story.revision
    partial = data.with_name("copy.db.partial")
    partial.write_bytes(b"left over")

    def free(_: Path) -> Usage:
        return Usage(free=10**9 if partial.stat().st_size == 0 else 0)

    monkeypatch.setattr(shutil, "disk_usage", free)

    assert held_in(copied(data).file) == HELD
