"""What a transaction says to PostgreSQL: changes are held back and sent together, for few round trips."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from typing_extensions import override

from blockyard_server.domain.requests import TokenKey
from blockyard_server.engine.store_protocol import InvariantBroken, StoreConflict
from blockyard_server.store.codec import Row
from blockyard_server.store.driver import Session
from blockyard_server.store.postgres import statements
from blockyard_server.store.postgres.arrays import encode_columns
from blockyard_server.store.postgres.pipe import Answer
from blockyard_server.store.postgres.writer_pool import BEGIN, Request, WriterConnection
from blockyard_server.store.rows import Run

MANY_ROWS: Final = 1000
"""A statement that changes so many may take longer than a small one: each has its keys and guards looked at."""

_numbered = lru_cache(maxsize=256)(statements.numbered)


class _Change(NamedTuple):
    request: Request
    rows: int | None
    """How many rows it must change."""
    mismatch_message: str


class PostgresSession(Session):
    """A `transaction.Session`. Raises psycopg.Error besides what the protocol names."""

    def __init__(self, connection: WriterConnection) -> None:
        self._connection = connection
        self._held_back: list[_Change] = []

    def begin(self, fleet: str) -> tuple[Row | None, int]:
        """Begins, and locks the fleet's row: the row, as a transaction takes it, and the database's time."""
        return self._head(self._connection.send([(BEGIN, ()), (statements.HEAD, (fleet,))])[-1])

    def wait_for_creation(self, fleet: str) -> tuple[Row | None, int]:
        """As `begin`, for a fleet without a row that a transaction of unknown end may have created.

        A row that is not there cannot be locked; writing it waits until the transaction that wrote it before is over.
        """
        row = (fleet, "{}", "BEST_FIT", None, None, "{}", 0, 0, 0, 0, 1, 0)
        waiting = [("SAVEPOINT creation", ()), (statements.INSERT_FLEET, row), ("ROLLBACK TO SAVEPOINT creation", ())]
        return self._head(self._connection.send([*waiting, (statements.HEAD, (fleet,))])[-1])

    @override
    def rows(self, statement: str, parameters: Row) -> Sequence[Row]:
        self.flush()
        return self._connection.send([(statement, parameters)])[0].rows()

    @override
    def stream(self, statement: str, parameters: Row) -> Iterable[Row]:
        """They are all here before the first is given."""
        self.relax_timeouts()
        return self.rows(statement, parameters)

    @override
    def relax_timeouts(self) -> None:
        self._held_back.append(_Change(self._connection.relax_timeouts(), None, ""))

    @override
    def tokens(self, fleet: str, keys: Sequence[TokenKey]) -> Sequence[Row]:
        return self._found(statements.TOKENS, [(caller, token, fleet) for caller, token in keys])

    @override
    def allocations(self, fleet: str, ids: Sequence[int]) -> Sequence[Row]:
        return self._found(statements.ALLOCATIONS, [(number, fleet) for number in ids])

    @override
    def create_fleet(self, row: Row) -> None:
        """At once: what follows must not be sent if the fleet is another server's."""
        if self.change(statements.INSERT_FLEET, row) != 1:
            raise StoreConflict(f"fleet {row[0]}: another server has just created it")

    @override
    def change(self, statement: str, parameters: Row) -> int:
        self.flush()
        return self._connection.send([(_numbered(statement), parameters)])[0].count

    @override
    def insert(self, statement: str, rows: Sequence[Row]) -> None:
        self.count(statement, rows, "not every row was inserted")

    @override
    def count(self, statement: str, rows: Sequence[Row], mismatch_message: str) -> None:
        """They are counted by `flush`."""
        if statement in statements.KINDS:
            self._change_many(statement, rows, len(rows), mismatch_message)
        else:
            self._held_back += (_Change((statement, row), 1, mismatch_message) for row in rows)

    @override
    def hold(self, runs: Sequence[Run]) -> None:
        """They are counted by `flush`."""
        self._change_many(statements.HOLD_RUN, runs, sum(run.blocks for run in runs), "not every block was inserted")

    @override
    def free(self, runs: Sequence[Run], mismatch_message: str) -> None:
        """They are counted by `flush`."""
        self._change_many(statements.FREE_RUN, runs, sum(run.blocks for run in runs), mismatch_message)

    def _change_many(self, statement: str, rows: Sequence[Row], expected: int, mismatch_message: str) -> None:
        """One statement for all rows, which must change so many rows of the table."""
        if expected >= MANY_ROWS:
            self.relax_timeouts()
        columns = encode_columns(rows, statements.KINDS[statement])
        self._held_back.append(_Change((statement, columns), expected, mismatch_message))

    @override
    def flush(self) -> None:
        if not self._held_back:
            return
        changes, self._held_back = self._held_back, []
        for change, done in zip(changes, self._connection.send([change.request for change in changes]), strict=True):
            if change.rows is not None and done.count != change.rows:
                raise InvariantBroken(f"{change.mismatch_message} ({done.count} rows of {change.rows})")

    def _found(self, statement: str, keys: Sequence[Row]) -> Sequence[Row]:
        return self.rows(statement, encode_columns(keys, statements.KINDS[statement])) if keys else []

    def _head(self, answer: Answer) -> tuple[Row | None, int]:
        for now_us, *head in answer.rows():
            return head, now_us
        [(now_us,)] = self.rows(statements.NOW, ())
        return None, now_us
