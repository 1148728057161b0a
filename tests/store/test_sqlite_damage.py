"""A damaged file is found at the start or when it is read, stops the store, and is told from one that is away."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from blockyard_server.domain.answers import EventFilter
from blockyard_server.engine.store_protocol import StoreCorrupt, StoreRefused
from blockyard_server.store.sqlite import damage
from blockyard_server.store.sqlite.store import SqliteStore
from tests.store.story import Story

PAGE_BYTES = 4096


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The file of a server that was stopped: its journal and its tables take some dozens of pages."""
    store = SqliteStore(tmp_path / "data.db")
    store.open()
    story = Story(store).begin(node_1=4096)
    for number in range(300):
        story.grant(("node-1", (number,)))
    story.commit()
    asyncio.run(store.close())
    return store.path


def root_page(data: Path, table: str) -> int:
    with closing(sqlite3.connect(data)) as db:
        [page] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        return int(page)


def spoil(data: Path, page: int) -> None:
    """Noise in place of a page; the server's descriptors see it."""
    with data.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(b"\xa5" * PAGE_BYTES)


def spoil_all(data: Path) -> None:
    """Noise in place of every page but the first, which says that this is a database."""
    for page in range(2, data.stat().st_size // PAGE_BYTES + 1):
        spoil(data, page)


@pytest.mark.parametrize("table", ["journal", "allocations", "held_blocks", "tokens", "instances", "fleets"])
def test_a_start_looks_for_damage_and_is_refused(data: Path, table: str) -> None:
    spoil(data, root_page(data, table))
    before = data.read_bytes()
    with pytest.raises(StoreRefused, match=r"data.db is damaged \(.*\). Keep a copy of it, and restore the last good"):
        SqliteStore(data).open()
    assert data.read_bytes() == before


def test_a_file_whose_first_page_is_gone_is_refused(data: Path) -> None:
    spoil(data, 1)
    with pytest.raises(StoreRefused, match=r"is not a SQLite database.*restore a backup"):
        SqliteStore(data).open()


def test_a_file_that_was_cut_off_is_refused(data: Path) -> None:
    with data.open("r+b") as file:
        file.truncate(data.stat().st_size // 2)
    with pytest.raises(StoreRefused, match="is damaged"):
        SqliteStore(data).open()


def test_a_file_that_takes_too_long_is_served_all_the_same(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(damage, "CHECK_BOUND_S", -1)
    monkeypatch.setattr(damage, "CHECK_STEPS", 1)
    store = SqliteStore(data)
    store.open()
    assert "too large to be looked through for damage" in caplog.text
    assert list(store.fleet_sizes()) == ["gpu"]
    asyncio.run(store.close())


async def test_damage_that_a_reader_meets_stops_all(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = SqliteStore(data)
    store.open()
    spoil(data, root_page(data, "journal"))
    with pytest.raises(StoreCorrupt, match="malformed"):
        async with store.reader() as reader:
            await reader.events("gpu", EventFilter(), after=0, limit=1000)
    await expect_stopped(store)
    assert "malformed" in caplog.text
    assert "CRITICAL" in caplog.text
    await store.close()


async def test_damage_that_verify_meets_stops_all(data: Path) -> None:
    store = SqliteStore(data)
    store.open()
    evidence = store.open_evidence("gpu")
    spoil_all(data)
    with pytest.raises(StoreCorrupt, match="malformed"):
        list(evidence.held_blocks())
    await expect_stopped(store)
    await store.close()


async def test_damage_that_the_writer_meets_stops_all(data: Path) -> None:
    store = SqliteStore(data)
    store.open()
    spoil_all(data)
    with pytest.raises(StoreCorrupt, match="malformed"), store.transaction("gpu") as transaction:
        transaction.tokens([("default", "token-3")])
    await expect_stopped(store)
    await store.close()


async def expect_stopped(store: SqliteStore) -> None:
    """No write, no read, no sign of life: each says why."""
    with pytest.raises(StoreCorrupt, match="malformed"), store.transaction("gpu"):
        pass
    with pytest.raises(StoreCorrupt, match="malformed"):
        async with store.reader() as reader:
            await reader.revision("gpu")
    with pytest.raises(StoreCorrupt, match="malformed"):
        await store.probe()
