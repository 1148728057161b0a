"""The data file: one server's whatever its names, its owner's alone, and missed at once when it goes."""

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blockyard_server.engine.store_protocol import StoreFailed, StoreRefused, StoreStopped
from blockyard_server.store.sqlite.data_file import DataFile
from blockyard_server.store.sqlite.store import SqliteStore
from tests.harness.other_program import OtherProgram, refusal_elsewhere
from tests.store.story import Story

SUFFIXES = ("", "-wal", "-shm")
IN_USE = "in use by another Blockyard server"


@contextmanager
def mounted(file: Path, at: Path) -> Iterator[None]:
    """The single file is mounted at another place, as `docker run -v file:file` does."""
    at.touch()
    done = subprocess.run(["mount", "--bind", str(file), str(at)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a file cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(at)], check=True)


def test_a_hard_link_of_a_file_in_use_lets_no_second_server_in(sqlite: SqliteStore, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    os.link(sqlite.path, other)
    assert IN_USE in refusal_elsewhere(other)
    with pytest.raises(StoreRefused, match=IN_USE):
        SqliteStore(other).open()


def test_a_mount_of_a_file_in_use_lets_no_second_server_in(sqlite: SqliteStore, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    other = tmp_path / "m" / "data.db"
    with mounted(sqlite.path, other):
        assert IN_USE in refusal_elsewhere(other)


def test_a_removed_lock_file_lets_no_second_server_in(sqlite: SqliteStore) -> None:
    sqlite.path.with_name(sqlite.path.name + ".lock").unlink()
    assert IN_USE in refusal_elsewhere(sqlite.path)


def test_a_renamed_file_lets_no_second_server_in(sqlite: SqliteStore, tmp_path: Path) -> None:
    other = tmp_path / "renamed.db"
    sqlite.path.rename(other)
    assert IN_USE in refusal_elsewhere(other)


async def test_a_file_with_a_second_name_is_refused_and_says_why(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data.db")
    store.open()
    await store.close()
    os.link(store.path, tmp_path / "other.db")
    for name in ("data.db", "other.db"):
        with pytest.raises(StoreRefused, match=r"has 2 names \(hard links\).*Remove the other names"):
            SqliteStore(tmp_path / name).open()
    (tmp_path / "other.db").unlink()
    store.open()
    await store.close()


async def test_a_file_that_is_a_mount_of_its_own_is_refused(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data.db")
    store.open()
    await store.close()
    (tmp_path / "with a space").mkdir()
    other = tmp_path / "with a space" / "data.db"
    with mounted(store.path, other):
        with pytest.raises(StoreRefused, match=r"is a mount of its own.*Mount the folder"):
            SqliteStore(other).open()
        # Under its own name it has no second log: the mount alone harms nothing.
        store.open()
        await store.close()


@pytest.mark.parametrize("name", ["data.db", "link.db"])
def test_a_refused_store_leaves_sqlites_locks_in_place(sqlite: SqliteStore, tmp_path: Path, name: str) -> None:
    """Closing any descriptor of the file would drop them, in the process that has it open."""
    Story(sqlite).begin()
    if name != sqlite.path.name:
        os.link(sqlite.path, tmp_path / name)
    with pytest.raises(StoreRefused, match=IN_USE):
        SqliteStore(tmp_path / name).open()
    with OtherProgram(sqlite.path) as other:
        other.ask("PRAGMA locking_mode = EXCLUSIVE")
        assert other.ask("BEGIN IMMEDIATE") == "database is locked"


async def test_what_holds_data_is_its_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SqliteStore(tmp_path / "folder" / "data.db")
        store.open()
        Story(store).begin()
        async with store.reader() as reader:
            assert await reader.revision("gpu")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in store.path.parent.iterdir()}
        assert modes == dict.fromkeys(("data.db", "data.db-wal", "data.db-shm", "data.db.lock"), 0o600)
        assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)
        await store.close()


async def test_files_of_an_earlier_release_are_taken_from_others(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data.db")
    store.open()
    await store.close()
    for name in ("data.db", "data.db.lock"):
        (tmp_path / name).chmod(0o644)
    store.open()
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("data.db", "data.db.lock")} == {0o600}
    await store.close()


def test_a_file_that_is_not_ours_keeps_its_mode(tmp_path: Path) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("remember the milk\n" * 100)
    notes.chmod(0o664)
    with pytest.raises(StoreRefused, match="not a SQLite database"):
        SqliteStore(notes).open()
    assert stat.S_IMODE(notes.stat().st_mode) == 0o664


async def test_a_new_database_is_told_from_one_that_was_there(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data.db")
    made_new = []
    for _ in range(2):
        store.open()
        made_new.append(store.made_new)
        await store.close()
    assert made_new == [True, False]


async def test_a_log_without_its_file_is_no_new_database(tmp_path: Path) -> None:
    (tmp_path / "data.db-wal").write_bytes(b"what was acknowledged")
    with pytest.raises(StoreRefused, match=r"data.db is not there, but its log is.*Put the file back"):
        SqliteStore(tmp_path / "data.db").open()
    assert not (tmp_path / "data.db").exists()


def remove(path: Path) -> None:
    path.unlink()


def rename(path: Path) -> None:
    path.rename(path.with_name(path.name + ".old"))


def replace(path: Path) -> None:
    """By a copy, as a restore from a backup does."""
    copy = path.with_name(path.name + ".copy")
    shutil.copy(path, copy)
    copy.replace(path)


def empty(path: Path) -> None:
    """By an empty file."""
    path.with_name("empty").touch()
    path.with_name("empty").replace(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("act", [remove, rename, replace, empty])
async def test_a_file_that_goes_stops_the_store_at_once(
    sqlite: SqliteStore, act: Callable[[Path], None], suffix: str
) -> None:
    story = Story(sqlite).begin(node_1=8)
    path = sqlite.path.with_name(sqlite.path.name + suffix)
    act(path)
    gone = rf"{path.name} was (removed or renamed|replaced by another file) while the server had it open"
    story.grant(("node-1", (0,)))
    with pytest.raises(StoreStopped, match=gone):
        story.commit()
    with pytest.raises(StoreStopped, match=gone):
        await sqlite.probe()
    with pytest.raises(StoreStopped, match=gone):
        sqlite.open_evidence("gpu")
    with pytest.raises(StoreStopped, match=gone):
        async with sqlite.reader() as reader:
            await reader.revision("gpu")


async def test_a_file_that_is_cut_short_or_written_over_stops_the_store(sqlite: SqliteStore) -> None:
    """As `> data.db` does, or `cp older.db data.db`: the inode is the same."""
    story = Story(sqlite).begin(node_1=4096)
    for number in range(500):
        story.grant(("node-1", (number,)))
        story.commit()
    sqlite._connected().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    await sqlite.probe()
    older = sqlite.path.read_bytes()[:-4096]
    sqlite.path.write_bytes(older)
    story.grant(("node-1", (500,)))
    with pytest.raises(StoreStopped, match=r"blockyard.db was cut short while the server had it open"):
        story.commit()


def test_a_commit_under_way_while_the_file_goes_is_not_acknowledged(sqlite: SqliteStore) -> None:
    story = Story(sqlite).begin(node_1=8)
    story.grant(("node-1", (0,)))

    def commit() -> None:
        with sqlite.transaction("gpu") as transaction:
            transaction.write(story.pending, story.records.touched)
            rename(sqlite.path)

    with pytest.raises(StoreStopped, match="was removed or renamed"):
        commit()


async def test_what_is_found_again_is_not_used_before_a_new_start(sqlite: SqliteStore) -> None:
    Story(sqlite).begin()
    away = sqlite.path.with_name("away.db")
    sqlite.path.rename(away)
    with pytest.raises(StoreStopped):
        await sqlite.probe()
    away.rename(sqlite.path)
    with pytest.raises(StoreStopped), sqlite.transaction("gpu"):
        pass
    await sqlite.close()
    sqlite.open()
    assert list(sqlite.fleet_sizes()) == ["gpu"]


async def test_no_reader_makes_a_file(sqlite: SqliteStore) -> None:
    Story(sqlite).begin()
    for suffix in SUFFIXES:
        remove(sqlite.path.with_name(sqlite.path.name + suffix))
    # Below what looks at the files first: the connections themselves.
    sqlite._file.change = lambda: None  # type: ignore[method-assign]  # as if it saw nothing
    with pytest.raises(StoreFailed, match="unable to open database file"):
        async with sqlite.reader() as reader:
            await reader.revision("gpu")
    with pytest.raises(StoreFailed, match="unable to open database file"):
        sqlite.open_evidence("gpu")
    assert [path.name for path in sqlite.path.parent.iterdir()] == ["blockyard.db.lock"]


async def test_closing_a_store_whose_file_went_leaves_the_new_one_alone(sqlite: SqliteStore) -> None:
    Story(sqlite).begin()
    for suffix in SUFFIXES:
        rename(sqlite.path.with_name(sqlite.path.name + suffix))
    for suffix in SUFFIXES:
        sqlite.path.with_name(sqlite.path.name + suffix).write_text("another program's")
    await sqlite.close()
    texts = [sqlite.path.with_name(sqlite.path.name + suffix).read_text() for suffix in SUFFIXES]
    assert texts == ["another program's"] * 3


async def test_the_mark_of_a_failed_sync_survives_a_full_disk(tmp_path: Path) -> None:
    """The lock file is written in place: what a shorter file gave up, a full disk would not give back."""
    (tmp_path / "data.db.lock").write_bytes(b"1\nsync failed\n")
    file = DataFile(tmp_path / "data.db")
    pieces: list[str] = []
    file.open()
    assert file.sync_failed
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "ftruncate", lambda *_: pieces.append("shortened"))
        patched.setattr(os, "pwrite", lambda *_: pieces.append("written"))
        file.mark_sync(failed=False)
    file.close()
    assert pieces == ["written", "shortened"]


async def test_a_writer_that_connects_again_takes_the_log_that_there_is_then(sqlite: SqliteStore) -> None:
    story = Story(sqlite).begin(node_1=8)
    sqlite._disconnect()
    assert not sqlite.path.with_name(sqlite.path.name + "-wal").exists()
    await sqlite.probe()
    story.grant(("node-1", (0,)))
    story.commit()
    with sqlite.transaction("gpu") as transaction:
        assert transaction.load_instances()[0].record.busy_blocks == 1


def cut_to_nothing(log: Path) -> None:
    """As `> data.db-wal` does."""
    os.truncate(log, 0)


def cut_in_half(log: Path) -> None:
    os.truncate(log, log.stat().st_size // 8)


def write_zeros(log: Path) -> None:
    log.write_bytes(bytes(log.stat().st_size))


@pytest.mark.parametrize("act", [cut_to_nothing, cut_in_half, write_zeros])
def test_a_log_that_is_cut_short_or_written_over_stops_the_store(
    sqlite: SqliteStore, act: Callable[[Path], None]
) -> None:
    story = Story(sqlite).begin(node_1=64)
    for number in range(20):
        story.grant(("node-1", (number,)))
        story.commit()
    log = sqlite.path.with_name(sqlite.path.name + "-wal")
    before = log.stat().st_size
    act(log)
    story.grant(("node-1", (20,)))
    if act is cut_in_half:
        assert log.stat().st_size < before
    with pytest.raises(StoreFailed):
        story.commit()
    with pytest.raises(StoreStopped), sqlite.transaction("gpu"):
        pass


@pytest.mark.parametrize("mode", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
def test_another_programs_checkpoint_is_no_harm_to_the_log(sqlite: SqliteStore, mode: str) -> None:
    story = Story(sqlite).begin(node_1=64)
    with OtherProgram(sqlite.path) as other:
        for number in range(20):
            story.grant(("node-1", (number,)))
            story.commit()
            assert other.ask(f"PRAGMA wal_checkpoint({mode})")[0][0] == 0
    with sqlite.transaction("gpu") as transaction:
        assert transaction.load_instances()[0].record.busy_blocks == 20


def test_an_empty_file_beside_a_log_is_no_new_database(tmp_path: Path) -> None:
    (tmp_path / "data.db").touch()
    (tmp_path / "data.db-wal").write_bytes(b"what was acknowledged")
    with pytest.raises(StoreRefused, match=r"data.db is empty, but its log .* is not"):
        SqliteStore(tmp_path / "data.db").open()
    assert (tmp_path / "data.db-wal").read_bytes() == b"what was acknowledged"


async def test_copied_pages_that_the_disk_fails_to_sync_stop_the_store_and_the_next_start_copies_them_again(
    sqlite: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite says nothing of a sync that failed in the checkpoint of a COMMIT; the system tells every descriptor."""
    story = Story(sqlite).begin(node_1=64)
    sqlite._connected().execute("PRAGMA wal_autocheckpoint = 1")
    ours, real = sqlite._file._descriptor, os.fsync

    def fail(descriptor: int) -> None:
        if descriptor == ours:
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    story.grant(("node-1", (0,)))
    with pytest.raises(StoreStopped, match=r"failed to sync .*blockyard.db: .*Input/output error"):
        story.commit()
    log, lock = (sqlite.path.with_name(sqlite.path.name + suffix) for suffix in ("-wal", ".lock"))
    written = log.read_bytes()
    await sqlite.close()
    assert log.read_bytes() == written, "the last connection copied the log, or took it away"
    assert b"sync failed" in lock.read_bytes()
    monkeypatch.setattr(os, "fsync", real)
    sqlite.open()
    assert b"sync failed" not in lock.read_bytes()
    with sqlite.transaction("gpu") as transaction:
        assert transaction.load_instances()[0].record.busy_blocks == 1


def test_a_log_that_a_commit_itself_makes_shorter_is_no_harm(sqlite: SqliteStore) -> None:
    """A large transaction begins the log again before its COMMIT, which then cuts it back to `journal_size_limit`."""
    story = Story(sqlite).begin(node_1=4096, node_2=4096)
    db = sqlite._connected()
    for pragma in ("cache_size = 10", "journal_size_limit = 20000", "wal_autocheckpoint = 0"):
        db.execute(f"PRAGMA {pragma}")
    story.grant(("node-1", tuple(range(4096))))
    story.commit()
    log = sqlite.path.with_name(sqlite.path.name + "-wal")
    long = log.stat().st_size
    assert db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0] == 0
    story.grant(("node-2", tuple(range(1500))))
    story.commit()
    assert log.stat().st_size < long, "the COMMIT has made the log shorter"
    with sqlite.transaction("gpu") as transaction:
        assert [row.record.busy_blocks for row in transaction.load_instances()] == [4096, 1500]


async def test_a_log_that_a_power_cut_has_left_as_noise_is_written_over(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data.db")
    store.open()
    Story(store).begin(node_1=8)
    await store.close()
    with OtherProgram(store.path) as other:
        (tmp_path / "data.db-wal").write_bytes(b"\xa5" * 9000)
        assert other.ask("SELECT count(*) FROM instances") == [[1]]
        store.open()  # beside the other program, so that the log stays
        assert (tmp_path / "data.db-wal").read_bytes() == b"\xa5" * 9000
        story = Story(store)
        story.revision, story.order = 2, 1
        story.grant(("node-1", (0,)))
        story.commit()
        assert other.ask("SELECT count(*) FROM allocations") == [[1]]
        await store.close()
