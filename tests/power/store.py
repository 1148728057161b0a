"""The real store on SQLite, on a disk that is recorded, with limits so small that all that it does happens soon."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from unittest import mock

from sqlalchemy import Engine, event

from blockyard_server.store import sqlite
from blockyard_server.store.schema import metadata
from blockyard_server.store.sqlite import SqliteStore, _set_up_writer, _writing_engine
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

    def open(self) -> None:
        with mock.patch.object(sqlite, "_writing_engine", self._recorded_engine):
            super().open()

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """All that is in the database, as the writer sees it."""
        return all_rows(self._connected())

    def _commit(self, db: sqlite3.Connection) -> None:
        self.attempted = digest_of(all_rows(db))
        super()._commit(db)

    def _cut_log(self, size: int) -> None:
        self._recorder.cut(self._log_path, size)

    def _renew_log(self) -> None:
        """A life's log is gone when its server stops in order."""

    def _recorded_engine(self, path: Path) -> Engine:
        engine = _writing_engine(path)
        event.listen(engine, "do_connect", lambda *_: ApswConnection(path, self._recorder.name))
        return engine

    def _connect_writer(self) -> None:
        db = cast("sqlite3.Connection", ApswConnection(self.path, self._recorder.name))
        _set_up_writer(db, self.path)
        db.execute(f"PRAGMA wal_autocheckpoint = {self._pragmas.checkpoint_pages}")
        db.execute(f"PRAGMA journal_size_limit = {self._pragmas.log_kept_bytes}")
        if self._pragmas.synchronous is not None:
            db.execute(f"PRAGMA synchronous = {self._pragmas.synchronous}")
        self._db = db


def all_rows(db: sqlite3.Connection) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table of ours, sorted."""
    return {
        table: sorted(db.execute(f"SELECT * FROM {table}").fetchall(), key=repr)  # noqa: S608 - names of our own
        for table in sorted(metadata.tables)
    }
