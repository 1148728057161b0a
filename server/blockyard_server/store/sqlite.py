"""The store on SQLite: one file, one server.

One connection owns all writes and checkpoints (two can corrupt a WAL in SQLite before 3.51.3); it belongs to the
engine's writer thread. Readers are `query_only` connections, each transaction one snapshot. Why the writer speaks to
the driver itself, with measurements: docs/adr/0004-sqlite-store.md.
"""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from blockyard_server.engine.store_protocol import InvariantBroken, StoreFailed, StoreRefused
from blockyard_server.store import statements
from blockyard_server.store.evidence import SqliteEvidence, reading
from blockyard_server.store.lock import DataLock
from blockyard_server.store.migrate import migrate
from blockyard_server.store.reader import SqlReader
from blockyard_server.store.sqlite_session import SqliteSession
from blockyard_server.store.transaction import SqlTransaction

OLDEST_SQLITE: Final = (3, 37, 0)
"""The first SQLite with STRICT tables."""
BUSY_TIMEOUT_S: Final = 5.0
"""How long to wait for somebody else's lock on the file, such as a backup's."""
READER_WAIT_S: Final = 30.0
"""How long a reader waits for its turn before StoreFailed."""
CACHED_STATEMENTS: Final = 512
WRITER_CACHE_KIB: Final = 64 * 1024
CHECKPOINT_PAGES: Final = 4000
"""How long the log may grow, in pages of 4 KiB, before a commit copies it into the database: a page that many commits
change is copied once."""
LOG_HEADER_BYTES: Final = 32
FRAME_HEADER_BYTES: Final = 24
"""Of the log's format, as SQLite's own page "WAL-mode File Format" has it."""
WAL_KEPT_BYTES: Final = 64 * 1024 * 1024
"""A log that a great transaction has made longer is cut back to this."""


class SqliteStore:
    """Fleets in the SQLite file `path`, made with its folder if it is not there; at most `readers` read at a time."""

    lanes = 1

    def __init__(self, path: Path, *, readers: int = 4) -> None:
        self.path = path.expanduser().resolve()
        self._log_path = self.path.with_name(self.path.name + "-wal")
        self._readers = readers
        self._lock = DataLock(self.path)
        self._writing: Engine | None = None
        self._db: sqlite3.Connection | None = None
        self._stuck: sqlite3.Connection | None = None
        """The connection whose COMMIT failed, until its log is known to be on the disk."""
        self._reading: AsyncEngine | None = None
        self._evidence: set[SqliteEvidence] = set()

    def open(self) -> None:
        """See the protocol."""
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreRefused(f"SQLite {sqlite3.sqlite_version} is too old: Blockyard needs 3.37 or newer.")
        self._lock_file()
        try:
            self._renew_log()
            self._writing = _writing_engine(self.path)
            with self._writing.begin() as connection:
                migrate(connection, str(self.path))
            self._connect_writer()
        except (SQLAlchemyError, sqlite3.Error, OSError) as failure:
            self._close_writer()
            raise StoreRefused(_refusal(self.path, failure)) from failure
        except BaseException:
            self._close_writer()
            raise
        self._reading = _reading_engine(self.path, self._readers)

    async def close(self) -> None:
        """See the protocol."""
        if self._reading is not None:
            await self._reading.dispose()
            self._reading = None
        for evidence in list(self._evidence):
            evidence.close()
        self._close_writer()

    @contextmanager
    def transaction(self, fleet: str) -> Iterator[SqlTransaction]:
        """See the protocol."""
        db = self._connected()
        try:
            db.execute("BEGIN IMMEDIATE")
            session = SqliteSession(db)
            transaction = SqlTransaction(session, statements, fleet, session.head(fleet))
            yield transaction
            if transaction.wrote:
                self._commit(db)
        except sqlite3.IntegrityError as refusal:
            raise InvariantBroken(f"fleet {fleet}: the database refused a change: {refusal}") from refusal
        except sqlite3.Error as failure:
            raise StoreFailed(f"fleet {fleet}: the database failed: {failure}") from failure
        finally:
            self._end(db)

    def pin_evidence(self, fleet: str) -> SqliteEvidence:
        """See the protocol."""
        self._connected()
        with reading():
            db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            try:
                db.execute("PRAGMA query_only = ON")
                evidence = SqliteEvidence(db, fleet, self._evidence.discard)
            except sqlite3.Error:
                db.close()
                raise
        self._evidence.add(evidence)
        return evidence

    def fleet_names(self) -> list[str]:
        """See the protocol."""
        with reading():
            return [row[0] for row in self._connected().execute(statements.FLEET_NAMES)]

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[SqlReader]:
        """See the protocol. The snapshot is taken by the first read."""
        if self._reading is None:
            raise StoreFailed("the store is closed")
        try:
            async with self._reading.connect() as connection:
                yield SqlReader(connection)
        except SQLAlchemyError as failure:
            raise StoreFailed(f"the database cannot be read: {_cause(failure)}") from failure

    async def follow(self, heard: Callable[[str], None]) -> None:  # noqa: ARG002 - there is no other server
        """See the protocol."""
        await asyncio.Event().wait()

    async def tell(self, fleets: Collection[str]) -> None:
        """See the protocol."""

    async def probe(self) -> None:
        """See the protocol. A file has no absence that a commit would not tell of."""

    def _lock_file(self) -> None:
        try:
            if not self.path.parent.is_dir():
                self.path.parent.mkdir(parents=True)
                _sync_folder(self.path.parent.parent)
        except OSError as failure:
            raise StoreRefused(
                f"the folder {self.path.parent} cannot be made: {failure.strerror}. "
                "Make it, or name another data file with --data."
            ) from failure
        self._lock.acquire()

    def _connect_writer(self) -> None:
        assert self._writing is not None
        pooled = self._writing.raw_connection()
        db = pooled.driver_connection
        assert isinstance(db, sqlite3.Connection)
        pooled.detach()  # from now on it is ours to close
        try:
            _set_up_writer(db, self.path)
        except BaseException:
            db.close()
            raise
        self._db = db

    def _connected(self) -> sqlite3.Connection:
        if self._writing is None:
            raise StoreFailed("the store is closed")
        if self._db is None:
            try:
                self._free_stuck()
                self._connect_writer()
            except (SQLAlchemyError, sqlite3.Error, OSError, StoreRefused) as failure:
                raise StoreFailed(f"the database cannot be opened again: {failure}") from failure
        assert self._db is not None
        return self._db

    def _commit(self, db: sqlite3.Connection) -> None:
        """Makes the transaction durable: with synchronous=FULL, COMMIT returns after the log is on the disk."""
        try:
            db.execute("COMMIT")
        except sqlite3.Error:
            # What of the log has reached the disk is unknown here; a new connection finds out, as after a crash. The
            # old one is not closed before the log is safe: closing it copies the log into the database.
            self._stuck, self._db = db, None
            with suppress(OSError, sqlite3.Error):
                self._free_stuck()
            raise

    def _free_stuck(self) -> None:
        """Gives up the connection whose COMMIT failed. Raises sqlite3.Error, OSError if the log cannot be made safe.

        After a sync that failed, the system may have dropped what it could not write, though it still shows it, and say
        of the next sync that all is well. A log with such a gap must neither be appended to, since it is read up to the
        gap, nor be copied into the database, since a copy that the power interrupts could not be made again. So what
        the failed COMMIT left in the log is cut off; what is before it has been synced.
        """
        db = self._stuck
        if db is None:
            return
        if db.in_transaction:
            db.execute("ROLLBACK")
        [page_bytes] = db.execute("PRAGMA page_size").fetchone()
        _busy, frames, _copied = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._cut_log(LOG_HEADER_BYTES + frames * (FRAME_HEADER_BYTES + page_bytes))
        self._stuck = None
        with suppress(sqlite3.Error):
            db.close()

    def _cut_log(self, size: int) -> None:
        """Takes what is beyond so many bytes from the log, durably. Raises OSError."""
        with self._log_path.open("r+b", buffering=0) as log:
            log.truncate(size)
            os.fsync(log.fileno())

    def _renew_log(self) -> None:
        """Puts a durable copy in the log's place, before anybody has opened it. Raises OSError.

        Whoever had the file before may have died of a sync that failed.
        """
        if not self._log_path.exists():
            return
        copy = self._log_path.with_name(self._log_path.name + "-copy")
        with self._log_path.open("rb") as log, copy.open("wb") as fresh:
            shutil.copyfileobj(log, fresh)
            fresh.flush()
            os.fsync(fresh.fileno())
        copy.replace(self._log_path)
        _sync_folder(self.path.parent)

    def _end(self, db: sqlite3.Connection) -> None:
        """Leaves no transaction behind, whatever happened in it."""
        if db is not self._db:
            return
        try:
            if db.in_transaction:
                db.execute("ROLLBACK")
        except sqlite3.Error:
            self._disconnect()

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def _close_writer(self) -> None:
        self._disconnect()
        with suppress(OSError, sqlite3.Error):
            self._free_stuck()
        self._writing = None
        self._lock.release()


def _writing_engine(path: Path) -> Engine:
    engine = create_engine(
        URL.create("sqlite+pysqlite", database=str(path)),
        poolclass=NullPool,
        connect_args={
            "isolation_level": None,
            "check_same_thread": False,
            "cached_statements": CACHED_STATEMENTS,
            "timeout": BUSY_TIMEOUT_S,
        },
    )

    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _set_up_writer(db: sqlite3.Connection, path: Path) -> None:
    """Makes a connection the writer: durable, checked, in WAL mode. A file is changed to WAL only once it is ours."""
    mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreRefused(f"{path} is on a file system where SQLite cannot keep a write-ahead log ({mode} instead).")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    db.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
    db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    db.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, where the system can (not on Windows)."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reading_engine(path: Path, readers: int) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        pool_size=readers,
        max_overflow=0,
        pool_timeout=READER_WAIT_S,
        connect_args={"timeout": BUSY_TIMEOUT_S},
    )

    def set_up(db: Any, _record: object) -> None:
        db.isolation_level = None
        cursor = db.cursor()
        cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    event.listen(engine.sync_engine, "connect", set_up)
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


def _cause(failure: Exception) -> object:
    """What the driver said, without the statement that SQLAlchemy quotes."""
    return getattr(failure, "orig", None) or failure


def _refusal(path: Path, failure: Exception) -> str:
    cause = str(_cause(failure))
    if "not a database" in cause:
        return f"{path} is not a SQLite database. Name another data file with --data."
    if "malformed" in cause:
        return f"{path} is damaged ({cause}). Keep a copy of it, and restore the last good one."
    return f"{path} cannot be opened: {cause}. Check that the file and its folder can be written by this user."
