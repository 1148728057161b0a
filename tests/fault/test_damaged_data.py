"""Damaged data: the server starts with what is sound, stops the writes of what is not, and Verify says what it is."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from blockyard import Client, InvariantViolated
from tests.harness.process import ServerProcess, StartFailed


@pytest.fixture(scope="module")
def sound_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a server that was stopped: two fleets, each with held blocks."""
    folder = tmp_path_factory.mktemp("sound")
    with ServerProcess(folder) as server:
        server.start()
        with Client(server.address) as client:
            for fleet in ("damaged", "sound"):
                client.create_fleet(fleet)
                client.create_instance(fleet, "n1", total_blocks=8)
                client.acquire(fleet, holder="job", blocks=2)
        assert server.terminate() == 0
    return folder / "blockyard.db"


@contextmanager
def damaged(sound_data: Path, folder: Path, *statements: str) -> Iterator[ServerProcess]:
    """A server on a copy of the data, after these statements; not started."""
    with ServerProcess(folder) as server:
        shutil.copy(sound_data, server.data)
        with closing(sqlite3.connect(server.data, isolation_level=None)) as db:
            for statement in statements:
                db.execute(statement)
        yield server


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE instances SET labels = '{' WHERE fleet = 'damaged'", "the row of instance n1 cannot be read"),
        ("UPDATE fleets SET labels = '[]' WHERE fleet = 'damaged'", "the row of fleet damaged cannot be read"),
        ("UPDATE instances SET busy_blocks = 1 WHERE fleet = 'damaged'", "the counter of instance n1"),
    ],
)
def test_a_fleet_that_cannot_be_loaded_is_halted_at_the_start_and_verify_says_why(
    sound_data: Path, tmp_path: Path, statement: str, found: str
) -> None:
    with damaged(sound_data, tmp_path, statement) as server:
        server.start()
        with Client(server.address) as client:
            with pytest.raises(InvariantViolated):
                client.acquire("damaged", holder="other", blocks=1)
            report = client.verify("damaged")
            assert not report.clean
            assert found in " ".join(each.actual for each in report.discrepancies)
            assert client.acquire("sound", holder="other", blocks=1).allocation.placements
            assert client.verify("sound").clean


@pytest.mark.parametrize(
    ("statements", "found"),
    [
        (("DROP TRIGGER journal_unchanging", "UPDATE journal SET body = '{' WHERE revision = 3"), "event 3"),
        (("DROP TRIGGER journal_unchanging", "UPDATE journal SET kind = 'LATER' WHERE revision = 3"), "event 3"),
        (("UPDATE allocations SET granted = '[' WHERE fleet = 'damaged'",), "allocation 3"),
    ],
)
def test_verify_reports_a_row_that_cannot_be_read_and_compares_the_others(
    sound_data: Path, tmp_path: Path, statements: tuple[str, ...], found: str
) -> None:
    with damaged(sound_data, tmp_path, *statements) as server:
        server.start()
        with Client(server.address) as client:
            report = client.verify("damaged")
            unreadable = [each for each in report.discrepancies if each.expected == "a row that can be read"]
            assert [found in each.actual for each in unreadable] == [True]
            assert report.held_blocks_checked == 2


def reads(client: Client) -> dict[str, Any]:
    return {
        "fleet": lambda: client.get_fleet("damaged"),
        "allocations": lambda: list(client.list_allocations("damaged")),
        "events": lambda: list(client.list_events("damaged")),
    }


@pytest.mark.parametrize(
    ("statements", "read"),
    [
        (("UPDATE fleets SET labels = '[]' WHERE fleet = 'damaged'",), "fleet"),
        (("UPDATE allocations SET granted = '[' WHERE fleet = 'damaged'",), "allocations"),
        (("DROP TRIGGER journal_unchanging", "UPDATE journal SET body = '{' WHERE revision = 3"), "events"),
    ],
)
def test_who_reads_a_row_that_cannot_be_read_is_told_of_the_invariant(
    sound_data: Path, tmp_path: Path, statements: tuple[str, ...], read: str
) -> None:
    with damaged(sound_data, tmp_path, *statements) as server:
        server.start()
        with Client(server.address) as client, pytest.raises(InvariantViolated, match="cannot be read") as refused:
            reads(client)[read]()
    assert refused.value.metadata == {"fleet": "fleets/damaged"}


def test_a_server_whose_database_is_malformed_does_not_start_and_says_so_in_a_sentence(
    sound_data: Path, tmp_path: Path
) -> None:
    with damaged(sound_data, tmp_path) as server:
        with closing(sqlite3.connect(server.data)) as db:
            [page] = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'instances'").fetchone()
            [size] = db.execute("PRAGMA page_size").fetchone()
        with server.data.open("r+b") as file:
            file.seek((page - 1) * size)
            file.write(b"\xff" * 300)

        with pytest.raises(StartFailed) as refused:
            server.start()

        assert refused.value.code == 1
        assert "does not start" in refused.value.errors
        assert f"{server.data} is damaged (" in refused.value.errors
        assert "restore the last good backup" in refused.value.errors
        assert "fault of this program" not in refused.value.errors
