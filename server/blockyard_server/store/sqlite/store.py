"""The store on SQLite: one file, one server.

One connection owns the server's writes and checkpoints (two can corrupt a WAL in SQLite before 3.51.3); it belongs to
the engine's writer thread. Readers are `query_only` connections, each transaction one snapshot. Nothing but SQLite
changes the database's files. Why the writer speaks to the driver itself, with measurements:
docs/adr/0004-sqlite-store.md. What makes the store stop, and what a start does after that:
docs/adr/0014-the-data-file.md.
"""

import asyncio
import logging
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from typing_extensions import override

from blockyard_server.engine.store_protocol import (
    InvariantBroken,
    ServerRow,
    Store,
    StoreFailed,
    StoreRefused,
    StoreStopped,
)
from blockyard_server.store.migrate import migrate
from blockyard_server.store.origin import SqlOrigin
from blockyard_server.store.reader import SqlReader
from blockyard_server.store.sqlite import statements
from blockyard_server.store.sqlite.damage import look_for_damage
from blockyard_server.store.sqlite.data_file import DataFile, forget_cached
from blockyard_server.store.sqlite.engines import migrating_engine, reading_engine
from blockyard_server.store.sqlite.errors import failure_of, is_busy, is_failed_sync, is_full, refusal
from blockyard_server.store.sqlite.evidence import SqliteEvidence
from blockyard_server.store.sqlite.session import SqliteSession
from blockyard_server.store.sqlite.witness import Witness
from blockyard_server.store.transaction import SqlTransaction

OLDEST_SQLITE: Final = (3, 37, 0)
"""The first SQLite with STRICT tables."""
BUSY_TIMEOUT_S: Final = 5.0
"""How long to wait for another program's lock on the file, such as a backup's."""
CACHED_STATEMENTS: Final = 512
WRITER_CACHE_KIB: Final = 64 * 1024
CHECKPOINT_PAGES: Final = 4000
"""How long the log may grow, in pages of 4 KiB, before a commit copies it into the database: a page that many commits
change is copied once."""
WAL_KEPT_BYTES: Final = 64 * 1024 * 1024
"""A log that a great transaction has made longer is cut back to this."""
LEAST_FREE_BYTES: Final = 1024 * 1024
"""A disk that was full has room again once so much is free: a page may find room where a batch does not."""

_log = logging.getLogger(__name__)


class SqliteStore(SqlOrigin, Store):
    """Fleets in the SQLite file `path`, made with its folder if it is not there; at most `readers` read at a time.

    Once it has stopped (StoreStopped), it takes no transaction until it is closed and opened again.
    """

    writer_shards = 1

    def __init__(self, path: Path, *, readers: int = 4, witnessed: Path | None = None) -> None:
        self.path = path.expanduser().resolve()
        self.made_new = False
        self.write_failed = False
        self._readers = readers
        self._file = DataFile(self.path)
        self._is_open = False
        self._witness = Witness(witnessed or self.path, read_only=witnessed is not None)
        self._disk_full = False
        """That is why the last write failed."""
        self._stopped: StoreStopped | None = None
        self._db: sqlite3.Connection | None = None
        self._reading: AsyncEngine | None = None
        self._evidence: set[SqliteEvidence] = set()

    @override
    def open(self) -> None:
        if sqlite3.sqlite_version_info < OLDEST_SQLITE:
            raise StoreRefused(f"SQLite {sqlite3.sqlite_version} is too old: Blockyard needs 3.37 or newer.")
        self._file.open()
        self._is_open, self._stopped, self.write_failed = True, None, False
        try:
            self._empty_log()
            with migrating_engine(self._open_connection).begin() as connection:
                self.made_new = migrate(connection, str(self.path)).was_empty
            self._file.make_private()
            self._connect_writer()
            look_for_damage(self._open_connection(), self.path)
            self._witness.begin(self.origin(), self.all_revisions())
        except (SQLAlchemyError, sqlite3.Error, OSError) as failure:
            if is_failed_sync(failure):
                self._file.mark_sync(failed=True)
            self._close_writer()
            raise StoreRefused(refusal(self.path, failure)) from failure
        except BaseException:
            self._close_writer()
            raise
        self._reading = reading_engine(self.path, self._readers, BUSY_TIMEOUT_S, self._expect_in_place)

    @override
    async def close(self) -> None:
        if self._reading is not None:
            await self._reading.dispose()
            self._reading = None
        for evidence in list(self._evidence):
            evidence.close()
        self._close_writer()

    @override
    @contextmanager
    def transaction(self, fleet: str) -> Iterator[SqlTransaction]:
        db = self._connected()
        try:
            db.execute("BEGIN IMMEDIATE")
            session = SqliteSession(db)
            transaction = SqlTransaction(session, statements, fleet, session.head(fleet))
            yield transaction
            if transaction.wrote:
                self._commit(db)
                self._witness.note(fleet, transaction)
        except sqlite3.IntegrityError as refused:
            raise InvariantBroken(f"fleet {fleet}: the database refused a change: {refused}") from refused
        except sqlite3.Error as failure:
            self.write_failed, self._disk_full = True, is_full(failure)
            raise self._failed(failure, f"fleet {fleet}: the database failed") from failure
        finally:
            self._end(db)

    @override
    def seen_revisions(self) -> Mapping[str, int]:
        return self._witness.seen

    @override
    def why_restored(self) -> str | None:
        return super().why_restored() or self._witness.behind

    @override
    def _found(self, statement: str) -> list[Any]:
        try:
            return self._connected().execute(statement).fetchall()
        except sqlite3.Error as failure:
            raise self._unreadable(failure) from failure

    @override
    def open_evidence(self, fleet: str) -> SqliteEvidence:
        self._connected()
        try:
            db = self._open_connection()
            try:
                self._expect_in_place()
                db.execute("PRAGMA query_only = ON")
                evidence = SqliteEvidence(db, fleet, self._evidence.discard, self._unreadable)
            except (sqlite3.Error, StoreFailed):
                db.close()
                raise
        except sqlite3.Error as failure:
            raise self._unreadable(failure) from failure
        self._evidence.add(evidence)
        return evidence

    @override
    @asynccontextmanager
    async def reader(self) -> AsyncIterator[SqlReader]:
        if self._reading is None:
            raise StoreFailed("the store is closed")
        self._expect_in_place()
        try:
            async with self._reading.connect() as connection:
                yield SqlReader(connection)
        except SQLAlchemyError as failure:
            raise self._unreadable(failure) from failure

    @override
    async def listen(self, on_change: Callable[[str], None]) -> None:
        await asyncio.Event().wait()

    @override
    async def notify(self, fleets: Collection[str]) -> None:
        """There is no other server."""

    @override
    async def heartbeat(self, own: ServerRow) -> list[ServerRow]:
        """There is no other server, so nothing is written."""
        return [own]

    @override
    async def deregister(self, server: str) -> None:
        """Nothing was written."""

    @override
    async def probe(self) -> None:
        """Looks whether the files are where they were."""
        self._expect_in_place()
        await asyncio.to_thread(self._sync_copied_pages)
        await asyncio.to_thread(self._witness.write)

    @override
    def try_write(self) -> None:
        """Writes the database's first page as it is."""
        db = self._connected()
        if self._disk_full and shutil.disk_usage(self.path.parent).free < LEAST_FREE_BYTES:
            raise StoreFailed(f"the disk of {self.path} is full")
        try:
            db.execute("BEGIN IMMEDIATE")
            [version] = db.execute("PRAGMA user_version").fetchone()
            db.execute(f"PRAGMA user_version = {version}")
            self._commit(db)
        except sqlite3.Error as failure:
            raise self._failed(failure, "the database cannot be written") from failure
        finally:
            self._end(db)

    def _open_connection(self, timeout_s: float = BUSY_TIMEOUT_S, mode: str = "rw") -> sqlite3.Connection:
        """A connection to the file that is there; SQLite does not make one."""
        return sqlite3.connect(
            f"file:{quote(str(self.path))}?mode={mode}",
            uri=True,
            timeout=timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=CACHED_STATEMENTS,
        )

    def _connect_writer(self) -> None:
        db = self._open_connection()
        try:
            self._set_up_writer(db)
            self._file.remember()
        except BaseException:
            db.close()
            raise
        self._db = db

    def _set_up_writer(self, db: sqlite3.Connection) -> None:
        """Makes a connection the writer: durable, checked, in WAL mode. Only once the file is known to be ours."""
        mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StoreRefused(
                f"{self.path} is on a file system where SQLite cannot keep a write-ahead log ({mode} instead)."
            )
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        db.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
        db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES}")
        db.execute(statements.FLEET_NAMES).fetchone()  # the first read makes the log and its index

    def _connected(self) -> sqlite3.Connection:
        """The writer's connection. Raises StoreFailed."""
        if not self._is_open:
            raise StoreFailed("the store is closed")
        self._expect_in_place()
        if self._db is None:
            try:
                self._connect_writer()
            except (sqlite3.Error, OSError, StoreRefused) as failure:
                raise self._failed(failure, "the database cannot be opened again") from failure
        assert self._db is not None
        return self._db

    def _commit(self, db: sqlite3.Connection) -> None:
        """Makes the transaction durable: with synchronous=FULL, COMMIT returns after the log is on the disk.

        Raises sqlite3.Error, and StoreStopped if the files are not where they were, since then nobody will find the
        commit, or if what a checkpoint has copied is not on the disk.
        """
        self._expect_log(after_commit=False)
        try:
            db.execute("COMMIT")
        except sqlite3.Error as failure:
            if is_failed_sync(failure):
                self._stop_after_failed_sync(self._file.log_path, failure)
            raise
        self._expect_in_place()
        self._expect_log(after_commit=True)
        self._sync_copied_pages()
        self.write_failed = False

    def _sync_copied_pages(self) -> None:
        """Syncs what a checkpoint has copied: one of a COMMIT, or of another program. Raises StoreStopped.

        SQLite does not sync a checkpoint that a reader kept from copying everything, and tells nobody of a sync that
        failed in the checkpoint of a COMMIT. After such a failure the pages may be lost, and SQLite would not copy them
        again in this process. The system reports a failed sync to every descriptor of the file.
        """
        try:
            self._file.sync_if_written()
        except OSError as failure:
            raise self._stop_after_failed_sync(self.path, failure) from failure

    def _stop_after_failed_sync(self, path: Path, failure: BaseException) -> StoreStopped:
        """Copies nothing of the log any more, and appends nothing to it.

        After a sync that failed, the system may have dropped what it could not write, though it still shows it, and say
        of the next sync that all is well.
        """
        self._file.mark_sync(failed=True)
        return self._stop(StoreStopped(f"the disk failed to sync {path}: {failure}"))

    def _empty_log(self) -> None:
        """Copies a log that an earlier server has left into the database, unless another program has the file open.

        That server may have died of a sync that failed. So the log is read from the disk, all of it is copied, and
        nothing is appended to it. Raises sqlite3.Error, OSError, StoreRefused.
        """
        if not self._file.log_path.exists():
            self._file.mark_sync(failed=False)
            return
        self._forget_cached_log()
        db = self._open_connection(timeout_s=0)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("BEGIN IMMEDIATE")  # refused while any other connection has read the file and is open
            db.execute("ROLLBACK")
            [blocked, _frames, _copied] = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert not blocked, "nobody else has the file open"
        except sqlite3.Error as failure:
            if self._file.sync_failed or not (is_busy(failure) or is_full(failure)):
                raise
            why = "another program has the file open" if is_busy(failure) else "there is no room on the disk"
            _log.warning("the log of the last server is not emptied, but goes on: %s", why)
        else:
            self._file.mark_sync(failed=False)
        finally:
            db.close()

    def _forget_cached_log(self) -> None:
        forget_cached(self._file.log_path)

    def _expect_in_place(self) -> None:
        """Raises StoreStopped if the store has stopped, or stops it because a file is not where it was."""
        if self._stopped is not None:
            raise self._stopped
        if (changed := self._file.change()) is not None:
            raise self._stop(StoreStopped(f"{changed} while the server had it open"))

    def _expect_log(self, *, after_commit: bool) -> None:
        """Stops the store, and raises StoreStopped, if another program has cut the log short or written over it."""
        if (changed := self._file.log_change(after_commit=after_commit)) is not None:
            raise self._stop(StoreStopped(f"{changed} while the server had it open"))

    def _unreadable(self, failure: BaseException) -> StoreFailed:
        """What a failed read means for the engine."""
        return self._failed(failure, "the database cannot be read")

    def _failed(self, failure: BaseException, doing: str) -> StoreFailed:
        """What a failure means for the engine. A damaged file stops the store."""
        if self._stopped is not None:
            return self._stopped
        failed = failure_of(failure, doing)
        return self._stop(failed) if isinstance(failed, StoreStopped) else failed

    def _stop(self, stopped: StoreStopped) -> StoreStopped:
        """No transaction from now on. The first reason stays."""
        if self._stopped is None:
            self._stopped = stopped
            _log.critical("%s: the server does no more work until it is stopped, and started again", stopped)
        return self._stopped

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
            with suppress(sqlite3.Error), self._keeping_the_log():
                db.close()
            self._file.forget()

    @contextmanager
    def _keeping_the_log(self) -> Iterator[None]:
        """After a failed sync, keeps the last connection that closes from copying the log: it cannot write."""
        if not self._file.sync_failed:
            yield
            return
        with closing(self._open_connection(mode="ro")) as last:
            last.execute(statements.FLEET_NAMES).fetchone()
            yield

    def _close_writer(self) -> None:
        self._disconnect()
        self._witness.write()
        self._is_open = False
        self._file.close()
