"""How a data file is opened, refused, closed and opened again."""

import asyncio
import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from blockyard_server.engine.store_protocol import InvariantBroken, StoreFailed, StoreRefused
from blockyard_server.store.sqlite.store import SqliteStore
from tests.store.story import Story


async def test_what_was_committed_is_there_after_closing_and_opening(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there" / "yet" / "a b?c#d.db"
    first = SqliteStore(path)
    first.open()
    story = Story(first).begin(node_1=8)
    number = story.grant(("node-1", (0, 1)))
    story.commit()
    await first.close()
    assert path.exists()
    second = SqliteStore(path)
    second.open()
    with second.transaction("gpu") as transaction:
        assert transaction.allocations([number]) == {number: story.allocation(number)}
    await second.close()


def test_the_writer_is_durable_and_checked(sqlite: SqliteStore) -> None:
    db = sqlite._connected()
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "ignore_check_constraints")
    assert [db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas] == ["wal", 2, 1, 0]


async def test_readers_and_evidence_cannot_write(sqlite: SqliteStore) -> None:
    Story(sqlite).begin()
    evidence = sqlite.open_evidence("gpu")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        evidence._db.execute("UPDATE fleets SET deleted = 1")
    evidence.close()
    with pytest.raises(StoreFailed, match="readonly"):
        async with sqlite.reader() as reader:
            await reader._connection.exec_driver_sql("UPDATE fleets SET deleted = 1")


async def test_a_second_store_on_the_same_file_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path / "data.db")
    first.open()
    (tmp_path / "link.db").symlink_to(tmp_path / "data.db")
    for name in ("data.db", "link.db"):
        with pytest.raises(
            StoreRefused, match=rf"in use by another Blockyard server \(process {os.getpid()}\).*--data"
        ):
            SqliteStore(tmp_path / name).open()
    await first.close()
    second = SqliteStore(tmp_path / "data.db")
    second.open()
    await second.close()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    program = (
        "import sys, pathlib, time\n"
        "from blockyard_server.store.sqlite.store import SqliteStore\n"
        "store = SqliteStore(pathlib.Path(sys.argv[1]))\n"
        "store.open()\n"
        "print('open', flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        store = SqliteStore(path)
        with pytest.raises(StoreRefused, match=rf"process {holder.pid}\)"):
            store.open()
        holder.kill()
        holder.wait()
        store.open()
        assert list(store.fleet_sizes()) == []
        asyncio.run(store.close())


async def test_a_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    store = SqliteStore(path)
    store.open()
    await store.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        [ours] = db.execute("SELECT version_num FROM alembic_version").fetchone()
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match=r"newer version of Blockyard: its schema needs.*'9999'.*Start that version"):
        store.open()
    assert path.read_bytes() == before
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("UPDATE alembic_version SET version_num = ?", (ours,))
    store.open()
    await store.close()


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("remember the milk\n" * 100)
    with pytest.raises(StoreRefused, match="is not a SQLite database"):
        SqliteStore(path).open()
    assert path.read_text().startswith("remember")


def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreRefused, match="tables of another program"):
        SqliteStore(path).open()
    assert path.read_bytes() == before


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="cannot be opened"):
        SqliteStore(tmp_path).open()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreRefused, match=r"cannot be made: .*--data"):
        SqliteStore(tmp_path / "file" / "data.db").open()


async def test_a_refused_store_may_be_opened_once_the_reason_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "data.db"
    path.write_text("not a database" * 100)
    store = SqliteStore(path)
    with pytest.raises(StoreRefused):
        store.open()
    path.unlink()
    store.open()
    assert list(store.fleet_sizes()) == []
    await store.close()


async def test_a_closed_store_fails_and_says_so(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data.db")
    store.open()
    await store.close()
    with pytest.raises(StoreFailed, match="closed"), store.transaction("gpu"):
        pass
    with pytest.raises(StoreFailed, match="closed"):
        store.open_evidence("gpu")
    with pytest.raises(StoreFailed, match="closed"):
        async with store.reader():
            pass


async def test_closing_ends_evidence_that_nobody_closed(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "data.db")
    store.open()
    evidence = store.open_evidence("gpu")
    assert not evidence.exists
    await store.close()
    with pytest.raises(StoreFailed):
        list(evidence.instances())
    evidence.close()
    assert not (tmp_path / "data.db-wal").exists()


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow, so that the log cannot be written. Only COMMIT writes it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_commit_that_fails_is_a_failed_store_and_the_next_transaction_starts_clean(sqlite: SqliteStore) -> None:
    story = Story(sqlite).begin(node_1=8)
    story.grant(("node-1", (0,)))
    with pytest.raises(StoreFailed, match="disk I/O error"), full_disk():
        story.commit()
    failed = [sqlite.write_failed]
    again = Story(sqlite)
    again.revision, again.order = 2, 1
    again.grant(("node-1", (0, 1)), token="another")
    again.commit()
    with sqlite.transaction("gpu") as transaction:
        assert transaction.head is not None
        assert transaction.head.revision == 3
        assert [row.busy for row in transaction.load_instances()] == [0b11]
        assert transaction.tokens([("default", "token-3")]) == {}
    failed.append(sqlite.write_failed)
    assert failed == [True, False]
    with closing(sqlite3.connect(sqlite.path)) as another:
        assert another.execute("SELECT count(*) FROM allocations").fetchone() == (1,), "nothing of the failed commit"


async def test_a_trial_tells_when_writes_work_again_and_changes_nothing(sqlite: SqliteStore) -> None:
    story = Story(sqlite).begin(node_1=8)
    story.grant(("node-1", (0,)))
    before = list(sqlite._connected().iterdump())
    with full_disk():
        with pytest.raises(StoreFailed, match="disk I/O error"):
            story.commit()
        with pytest.raises(StoreFailed, match="disk I/O error"):
            sqlite.try_write()
        await sqlite.probe()
    failed = [sqlite.write_failed]
    sqlite.try_write()
    failed.append(sqlite.write_failed)
    assert failed == [True, False]
    assert list(sqlite._connected().iterdump()) == before


def test_a_fleet_that_somebody_else_moved_on_is_not_written(sqlite: SqliteStore) -> None:
    story = Story(sqlite).begin(node_1=8)
    story.cancel("late")

    def overtaken() -> None:
        with sqlite.transaction("gpu") as ours:
            sqlite._connected().execute("UPDATE fleets SET revision = revision + 1")
            ours.write(story.pending, {})

    with pytest.raises(InvariantBroken, match="not at the revision that was read"):
        overtaken()
    with sqlite.transaction("gpu") as transaction:
        assert transaction.head is not None
        assert transaction.head.revision == 2


def test_a_transaction_that_another_program_keeps_out_is_a_failed_store(sqlite: SqliteStore) -> None:
    sqlite._connected().execute("PRAGMA busy_timeout = 50")
    with closing(sqlite3.connect(sqlite.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreFailed, match="locked"), sqlite.transaction("gpu"):
            pass
        other.execute("ROLLBACK")
    with sqlite.transaction("gpu") as transaction:
        assert transaction.head is None
