"""As much of sqlite3.Connection as the store and SQLAlchemy use, over apsw: only its SQLite can have our VFS."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw

from blockyard_server.store.sqlite.store import CACHED_STATEMENTS


class ApswConnection:
    """A connection that never begins a transaction by itself, as sqlite3's with `isolation_level=None`."""

    isolation_level = None

    def __init__(self, path: Path, vfs: str, *, writes: bool = True) -> None:
        with _as_sqlite3():
            # As `mode=rw` and `mode=ro`: SQLite does not make the file.
            flags = apsw.SQLITE_OPEN_READWRITE if writes else apsw.SQLITE_OPEN_READONLY
            self._db = apsw.Connection(str(path), flags=flags, vfs=vfs, statementcachesize=CACHED_STATEMENTS)

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._db.in_transaction

    def cursor(self) -> "ApswCursor":
        """A new cursor."""
        return ApswCursor(self._db)

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> "ApswCursor":
        """Runs a statement on a new cursor."""
        return self.cursor().execute(statement, parameters)

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> "ApswCursor":
        """Runs a statement for each row on a new cursor."""
        return self.cursor().executemany(statement, rows)

    def commit(self) -> None:
        """Commits if there is anything to commit."""
        if self.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        """Rolls back if there is anything to roll back."""
        if self.in_transaction:
            self.execute("ROLLBACK")

    def create_function(self, *_: object, **__: object) -> None:
        """SQLAlchemy offers SQLite a REGEXP; nothing of ours uses it."""

    def set_progress_handler(self, handler: Callable[[], bool] | None, steps: int) -> None:
        """As sqlite3's."""
        self._db.set_progress_handler(handler, steps)

    def vanish(self) -> None:
        """Ends as a process that is killed does: the locks go, and no file is touched."""
        self._db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self.close()

    def close(self) -> None:
        """Closes the connection; twice is the same as once."""
        with _as_sqlite3():
            self._db.close()


class ApswCursor:
    """A cursor with the attributes of PEP 249."""

    arraysize = 1

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self._cursor = db.cursor()
        # A list, because a cursor that knew this object would outlive it, and a statement that is not read to its end
        # would go on in the middle of the COMMIT.
        self._described: list[Sequence[Any]] = []
        self._cursor.exec_trace = _describe_into(self._described)
        self.rowcount = -1

    @property
    def description(self) -> Sequence[Any] | None:
        """The columns of the last statement; None if it has none."""
        return self._described[-1] or None if self._described else None

    @property
    def lastrowid(self) -> int:
        """The last row's number."""
        return self._db.last_insert_rowid()

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> "ApswCursor":
        """Runs a statement up to its first row."""
        with _as_sqlite3():
            self._cursor.execute(statement, tuple(parameters))
        self.rowcount = -1 if self.description else self._db.changes()
        return self

    def executemany(self, statement: str, rows: Sequence[Sequence[Any]]) -> "ApswCursor":
        """Runs a statement for each row; `rowcount` is the sum."""
        changed = 0
        for row in rows:
            changed += self.execute(statement, row).rowcount
        self.rowcount = changed
        return self

    def fetchone(self) -> Any:
        """The next row or None."""
        with _as_sqlite3():
            return self._cursor.fetchone()

    def fetchmany(self, size: int = arraysize) -> list[Any]:
        """At most so many of the next rows."""
        return [row for _, row in zip(range(size), self, strict=False)]

    def fetchall(self) -> list[Any]:
        """All the rows that are left."""
        with _as_sqlite3():
            return list(self._cursor.fetchall())

    def __iter__(self) -> Iterator[Any]:
        while (row := self.fetchone()) is not None:
            yield row

    def close(self) -> None:
        """Forgets the rows that are left."""
        self._cursor.close()


def _describe_into(described: list[Sequence[Any]]) -> Callable[[apsw.Cursor, str, object], bool]:
    """Notes the columns of each statement before it runs: of one without rows, apsw has none afterwards."""

    def describe(cursor: apsw.Cursor, _statement: str, _parameters: object) -> bool:
        described[:] = [cursor.get_description()]
        return True

    return describe


@contextmanager
def _as_sqlite3() -> Iterator[None]:
    try:
        yield
    except apsw.ConstraintError as refusal:
        raise _with_code(sqlite3.IntegrityError(*refusal.args), refusal) from refusal
    except apsw.Error as failure:
        raise _with_code(sqlite3.OperationalError(*failure.args), failure) from failure


def _with_code(error: sqlite3.Error, failure: apsw.Error) -> sqlite3.Error:
    error.sqlite_errorcode = getattr(failure, "extendedresult", 0)
    return error
