"""A server that is frozen while it has a fleet locked loses the lock: PostgreSQL ends its transaction.

And a PostgreSQL that is frozen, wherever it is, is not waited for: opening, reading, and putting away what was read.
"""

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import TracebackType
from typing import Final, Self

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection

from blockyard_server.engine.store_protocol import StoreFailed, StoreRefused
from blockyard_server.store.migrate import Migrated, migrate
from blockyard_server.store.postgres import evidence as postgres_evidence
from blockyard_server.store.postgres import store as postgres
from blockyard_server.store.postgres import writer_pool
from blockyard_server.store.postgres.notifications import WatchedConnection
from blockyard_server.store.postgres.pipe import Answer
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.postgres.target import Target
from blockyard_server.store.postgres.watchdog import Watchdog
from blockyard_server.store.postgres.writer_pool import Request, WriterConnection
from blockyard_server.store.reader import SqlReader
from tests.harness.patience import eventually
from tests.harness.stopped import wait_until_stopped
from tests.store.story import Story

BOUND_S: Final = 30.0
BEGIN: Final[Request] = ("BEGIN", ())
LOCK: Final[Request] = ("SELECT pg_advisory_xact_lock(1)", ())
AT_ONCE: Final[Request] = ("SET idle_in_transaction_session_timeout = 100", ())


class Frost:
    """Freezes single processes of PostgreSQL. A context manager: leaving it thaws them."""

    def __init__(self) -> None:
        self._frozen: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        for process in self._frozen:
            os.kill(process, signal.SIGCONT)

    def freeze(self, process: int) -> None:
        """From now on it neither answers nor ends."""
        os.kill(process, signal.SIGSTOP)
        self._frozen.append(process)
        wait_until_stopped([process])


@pytest.fixture
def line(database: str) -> Iterator[WriterConnection]:
    with closing(WriterConnection(Target(database, Watchdog()))) as line:
        yield line


@pytest.mark.parametrize("requests", [[BEGIN, LOCK], [BEGIN, LOCK, ("SELECT 1", ())]], ids=["two", "three"])
def test_the_lock_of_a_transaction_that_nobody_goes_on_with_is_had_by_the_next_one(
    database: str, line: WriterConnection, requests: list[Request]
) -> None:
    """PostgreSQL counts the idle time from its answer to a Sync, and stops at the next message, whatever it is.

    psycopg's own pipelines end with a Flush after the Sync: the lock was held for as long as the server was frozen.
    """
    line.send([AT_ONCE])
    line.send([BEGIN, ("SELECT 1", ())])
    line.send([("COMMIT", ())])
    line.send(requests)
    with closing(psycopg.connect(database, autocommit=True)) as other:
        deadline = time.monotonic() + BOUND_S
        while other.execute("SELECT pg_try_advisory_lock(1)").fetchone() != (True,):
            assert time.monotonic() < deadline, "it is locked for ever"
            time.sleep(0.02)
    with pytest.raises(psycopg.OperationalError):
        line.send([("COMMIT", ())])
    assert line.lost


@pytest.fixture
async def narrow(database: str) -> AsyncIterator[PostgresStore]:
    """An open store with a single place for readers."""
    made = PostgresStore(database, readers=1)
    made.open()
    yield made
    await made.close()


async def connection_of(reader: SqlReader) -> WatchedConnection:
    """The driver's connection below a reader."""
    raw = (await reader._connection.get_raw_connection()).driver_connection
    assert isinstance(raw, WatchedConnection)
    return raw


async def ended(task: asyncio.Task[None]) -> BaseException | None:
    """What a task failed with. One that takes too long is not cancelled: it might wait for that, too."""
    await asyncio.wait([task], timeout=BOUND_S)
    assert task.done(), "it waits for ever"
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def read_and_freeze(store: PostgresStore, frost: Frost, left: list[WatchedConnection]) -> None:
    """Reads, and freezes the other end before the reader is left."""
    async with store.reader() as reader:
        assert await reader.revision("gpu") is None
        left.append(await connection_of(reader))
        frost.freeze(left[0].info.backend_pid)


async def read(store: PostgresStore) -> None:
    async with store.reader() as reader:
        assert await reader.revision("gpu") is None


@pytest.mark.parametrize("how", ["left", "cancelled"])
async def test_a_reader_that_is_left_while_the_database_is_frozen_gives_its_place_back(
    narrow: PostgresStore, how: str
) -> None:
    left: list[WatchedConnection] = []

    async def leaves() -> bool:
        return bool(left) and left[0].pgconn.transaction_status == TransactionStatus.ACTIVE

    with Frost() as frost:
        reading = asyncio.create_task(read_and_freeze(narrow, frost, left))
        if how == "cancelled":
            await eventually(leaves, "ROLLBACK is sent")
            reading.cancel()
        assert await ended(reading) is not None
        assert await ended(asyncio.create_task(read(narrow))) is None


async def test_a_reader_whose_first_connection_freezes_as_it_is_made_is_not_waited_for(
    narrow: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    frost = Frost()
    reach = WatchedConnection.reach

    async def reach_and_freeze(target: Target) -> WatchedConnection:
        made = await reach(target)
        frost.freeze(made.info.backend_pid)
        return made

    with frost, monkeypatch.context() as patched:
        patched.setattr(WatchedConnection, "reach", reach_and_freeze)
        patched.setattr("blockyard_server.store.postgres.store.READ_TIMEOUT_S", 0.5)
        assert isinstance(await ended(asyncio.create_task(read(narrow))), StoreFailed)
        patched.undo()
        assert await ended(asyncio.create_task(read(narrow))) is None


@pytest.mark.parametrize("how", ["closed", "forgotten"])
def test_rows_that_are_half_read_when_the_database_freezes_are_put_away(
    postgres_store: PostgresStore, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(postgres_evidence, "ROWS_AT_ONCE", 1)
    Story(postgres_store).begin(node_1=8, node_2=8)
    evidence = postgres_store.open_evidence("gpu")

    def put_away(half_read: list[Iterator[tuple[str, int, int]]]) -> None:
        if how == "closed":
            rows = half_read[0]
            assert isinstance(rows, Generator)
            rows.close()
        half_read.clear()

    with ThreadPoolExecutor(1) as threads, closing(evidence), Frost() as frost:
        half_read = [evidence.instances()]
        assert next(half_read[0])[0] == "node-1"
        frost.freeze(evidence._db.info.backend_pid)
        monkeypatch.setattr(postgres_evidence, "FETCH_TIMEOUT_S", 0.5)
        threads.submit(put_away, half_read).result(BOUND_S)
        with pytest.raises(StoreFailed):
            next(evidence.instances())


@pytest.mark.parametrize("where", ["the first question", "the migrations"])
def test_a_store_whose_database_freezes_while_it_opens_is_refused(
    database: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    frost = Frost()
    send = WriterConnection.send

    def freeze_and_send(line: WriterConnection, requests: Sequence[Request]) -> list[Answer]:
        frost.freeze(line.process)
        return send(line, requests)

    def freeze_and_migrate(connection: Connection, shown: str, **options: bool) -> Migrated:
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        frost.freeze(raw.info.backend_pid)
        return migrate(connection, shown, **options)

    if where == "the migrations":
        monkeypatch.setattr(postgres, "migrate", freeze_and_migrate)
        monkeypatch.setattr(postgres, "MIGRATION_TIMEOUT_S", 0.5)
    else:
        monkeypatch.setattr(WriterConnection, "send", freeze_and_send)
        monkeypatch.setattr(writer_pool, "STATEMENT_TIMEOUT_S", 0.5)
    before = set(threading.enumerate())
    with ThreadPoolExecutor(1) as threads, frost:
        opening = threads.submit(PostgresStore(database).open)
        assert isinstance(opening.exception(BOUND_S), StoreRefused)
    assert set(threading.enumerate()) <= before, "the watchdog still looks"
