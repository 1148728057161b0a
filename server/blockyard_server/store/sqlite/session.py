"""What a transaction says to SQLite: at once, in the writer's thread, on its one connection."""

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from typing_extensions import override

from blockyard_server.domain.requests import TokenKey
from blockyard_server.engine.store_protocol import InvariantBroken
from blockyard_server.store.codec import Row, encode_keys
from blockyard_server.store.driver import Session
from blockyard_server.store.rows import Run
from blockyard_server.store.sqlite import statements

MAX_ROWS_AT_ONCE: Final = 64
"""A power of two. With 14 columns 896 parameters, which every SQLite allows."""


LONG_RUN: Final = 64
"""A run of so many blocks is inserted by a statement of its own."""


class SqliteSession(Session):
    """A `transaction.Session`. Raises sqlite3.Error besides what the protocol names."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def head(self, fleet: str) -> Row | None:
        """The fleet's row, as a transaction takes it."""
        row: Row | None = self._db.execute(statements.HEAD, (fleet,)).fetchone()
        return row

    @override
    def rows(self, statement: str, parameters: Row) -> Sequence[Row]:
        return self._db.execute(statement, parameters).fetchall()

    @override
    def stream(self, statement: str, parameters: Row) -> Iterable[Row]:
        return self._db.execute(statement, parameters)

    @override
    def relax_timeouts(self) -> None:
        """There are no limits."""

    @override
    def tokens(self, fleet: str, keys: Sequence[TokenKey]) -> Sequence[Row]:
        return self._db.execute(statements.TOKENS, (encode_keys(keys), fleet)).fetchall()

    @override
    def allocations(self, fleet: str, ids: Sequence[int]) -> Sequence[Row]:
        return self._db.execute(statements.ALLOCATIONS, (encode_keys(ids), fleet)).fetchall()

    @override
    def create_fleet(self, row: Row) -> None:
        """There is no other server."""
        self._db.execute(statements.INSERT_FLEET, row)

    @override
    def change(self, statement: str, parameters: Row) -> int:
        return self._db.execute(statement, parameters).rowcount

    def insert(self, statement: str, rows: Sequence[Row]) -> None:
        """Inserts many rows with few statements, of 64, 32, 16 … rows, so that each text is prepared once.

        `executemany` would hand the interpreter's lock over and back once for each row, which costs the other threads
        more than the rows cost SQLite (docs/adr/0004).
        """
        begin, size = 0, MAX_ROWS_AT_ONCE
        while begin < len(rows):
            while size > len(rows) - begin:
                size //= 2
            values = [value for row in rows[begin : begin + size] for value in row]
            self._db.execute(statements.of_rows(statement, size), values)
            begin += size

    @override
    def count(self, statement: str, rows: Sequence[Row], mismatch_message: str) -> None:
        changed = self._db.executemany(statement, rows).rowcount
        if changed != len(rows):
            raise InvariantBroken(f"{mismatch_message} ({changed} rows of {len(rows)})")

    @override
    def hold(self, runs: Sequence[Run]) -> None:
        """Of a long run SQLite makes the rows itself."""
        short = [run for run in runs if run.blocks < LONG_RUN]
        single = [
            (run.fleet, run.instance, block, run.allocation)
            for run in short
            for block in range(run.first, run.last + 1)
        ]
        self.insert(statements.INSERT_HELD, single)
        for run in runs:
            if run.blocks >= LONG_RUN:
                self._db.execute(statements.HOLD_RUN, run)

    @override
    def free(self, runs: Sequence[Run], mismatch_message: str) -> None:
        blocks = sum(run.blocks for run in runs)
        changed = self._db.executemany(statements.FREE_RUN, runs).rowcount
        if changed != blocks:
            raise InvariantBroken(f"{mismatch_message} ({changed} rows of {blocks})")

    @override
    def flush(self) -> None:
        """Nothing was held back."""
