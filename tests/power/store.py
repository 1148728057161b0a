"""The real store on SQLite, on a disk that is recorded, with limits so small that all that it does happens soon."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from unittest.mock import patch

import apsw

from blockyard_server.store.schema import metadata
from blockyard_server.store.sqlite.store import BUSY_TIMEOUT_S, SqliteStore
from tests.power.connection import ApswConnection
from tests.power.promises import digest_of
from tests.power.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Pragmas:
    """What is set after the store's own settings."""

    checkpoint_pages: int = 40
    """So that the log is copied into the database every few batches."""
    log_kept_bytes: int = 100_000
    """So that the log is cut back after many a copy."""
    synchronous: str | None = None
    """None: the store's own."""


class RecordedStore(SqliteStore):
    """A SqliteStore whose writer is on apsw's SQLite, over the recorder's VFS. Has no readers."""

    def __init__(self, path: Path, recorder: Recorder, pragmas: Pragmas) -> None:
        super().__init__(path)
        self._recorder = recorder
        self._pragmas = pragmas
        self.attempted = ""
        """The digest of what the last COMMIT was to make durable."""

    @property
    def has_stopped(self) -> bool:
        """It takes no transaction until it is opened again."""
        return self._stopped is not None

    def die(self) -> None:
        """Leaves the files as a kill -9 does: nothing is copied, cut or marked on the way out."""
        for evidence in list(self._evidence):
            evidence.close()
        db, self._db = self._db, None
        if db is not None:
            cast("ApswConnection", db).vanish()
        self._close_writer()

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """All that is in the database, as the writer sees it."""
        return all_rows(self._connected())

    def _commit(self, db: sqlite3.Connection) -> None:
        self.attempted = digest_of(all_rows(db))
        super()._commit(db)

    def open(self) -> None:
        """A new database gets the same id each time: the same seed makes the same images."""
        with patch("secrets.token_hex", return_value="0" * 32):
            super().open()

    def _forget_cached_log(self) -> None:
        self._recorder.forget_cached(self._file.log_path)

    def _sync_copied_pages(self) -> None:
        try:
            self._recorder.sync_if_written(self.path)
        except OSError as failure:
            raise self._stop_after_failed_sync(self.path, failure) from failure

    def _open_connection(self, timeout_s: float = BUSY_TIMEOUT_S, mode: str = "rw") -> sqlite3.Connection:  # noqa: ARG002 - see below
        """It does not wait for a lock: there is one thread, and nobody who could give the lock back meanwhile."""
        return cast("sqlite3.Connection", ApswConnection(self.path, self._recorder.name, writes=mode == "rw"))

    def _set_up_writer(self, db: sqlite3.Connection) -> None:
        super()._set_up_writer(db)
        db.execute(f"PRAGMA wal_autocheckpoint = {self._pragmas.checkpoint_pages}")
        db.execute(f"PRAGMA journal_size_limit = {self._pragmas.log_kept_bytes}")
        if self._pragmas.synchronous is not None:
            db.execute(f"PRAGMA synchronous = {self._pragmas.synchronous}")


def all_rows(db: sqlite3.Connection | apsw.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table of ours, sorted; without the id of the database, which a start makes up."""
    columns = {"origin": "epoch, first_revision, restoring"}
    return {
        table: sorted(
            db.execute(f"SELECT {columns.get(table, '*')} FROM {table}").fetchall(),  # noqa: S608 - names of our own
            key=repr,
        )
        for table in sorted(metadata.tables)
    }
