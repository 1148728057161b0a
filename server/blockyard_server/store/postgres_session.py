"""What a transaction says to PostgreSQL: changes are held back and sent together, for few round trips."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from blockyard_server.domain.requests import TokenKey
from blockyard_server.engine.store_protocol import InvariantBroken, StoreConflict
from blockyard_server.store import postgres_statements as statements
from blockyard_server.store.codec import Row
from blockyard_server.store.postgres_arrays import encode_columns
from blockyard_server.store.postgres_line import BEGIN, Line, Request
from blockyard_server.store.postgres_pipe import Answer
from blockyard_server.store.rows import Run

MANY_ROWS: Final = 1000
"""A statement that changes so many may take longer than a small one: each has its keys and guards looked at."""

_numbered = lru_cache(maxsize=256)(statements.numbered)


class _Change(NamedTuple):
    request: Request
    rows: int | None
    """How many rows it must change."""
    otherwise: str


class PostgresSession:
    """A `transaction.Session`. Raises psycopg.Error besides what the protocol names."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._held_back: list[_Change] = []

    def begin(self, fleet: str) -> tuple[Row | None, int]:
        """Begins, and locks the fleet's row: the row, as a transaction takes it, and the database's time."""
        return self._head(self._line.send([(BEGIN, ()), (statements.HEAD, (fleet,))])[-1])

    def wait_for_creation(self, fleet: str) -> tuple[Row | None, int]:
        """As `begin`, for a fleet without a row that a transaction of unknown end may have created.

        A row that is not there cannot be locked; writing it waits until whoever wrote it before is over.
        """
        row = (fleet, "{}", "BEST_FIT", None, None, 0, 0, 0)
        waiting = [("SAVEPOINT creation", ()), (statements.INSERT_FLEET, row), ("ROLLBACK TO SAVEPOINT creation", ())]
        return self._head(self._line.send([*waiting, (statements.HEAD, (fleet,))])[-1])

    def rows(self, statement: str, parameters: Row) -> Sequence[Row]:
        """See the protocol."""
        self.flush()
        return self._line.send([(statement, parameters)])[0].rows()

    def stream(self, statement: str, parameters: Row) -> Iterable[Row]:
        """See the protocol. They are all here before the first is given."""
        self.take_time()
        return self.rows(statement, parameters)

    def take_time(self) -> None:
        """See the protocol."""
        self._held_back.append(_Change(self._line.take_time(), None, ""))

    def tokens(self, fleet: str, keys: Sequence[TokenKey]) -> Sequence[Row]:
        """See the protocol."""
        return self._found(statements.TOKENS, [(caller, token, fleet) for caller, token in keys])

    def allocations(self, fleet: str, ids: Sequence[int]) -> Sequence[Row]:
        """See the protocol."""
        return self._found(statements.ALLOCATIONS, [(number, fleet) for number in ids])

    def create_fleet(self, row: Row) -> None:
        """See the protocol. At once: what follows must not be sent if the fleet is another server's."""
        if self.change(statements.INSERT_FLEET, row) != 1:
            raise StoreConflict(f"fleet {row[0]}: another server has just created it")

    def change(self, statement: str, parameters: Row) -> int:
        """See the protocol."""
        self.flush()
        return self._line.send([(_numbered(statement), parameters)])[0].count

    def insert(self, statement: str, rows: Sequence[Row]) -> None:
        """See the protocol."""
        self.count(statement, rows, "not every row was inserted")

    def count(self, statement: str, rows: Sequence[Row], otherwise: str) -> None:
        """See the protocol. They are counted by `flush`."""
        if statement in statements.KINDS:
            self._change_many(statement, rows, len(rows), otherwise)
        else:
            self._held_back += (_Change((statement, row), 1, otherwise) for row in rows)

    def hold(self, runs: Sequence[Run]) -> None:
        """See the protocol. They are counted by `flush`."""
        self._change_many(statements.HOLD_RUN, runs, sum(run.blocks for run in runs), "not every block was inserted")

    def free(self, runs: Sequence[Run], otherwise: str) -> None:
        """See the protocol. They are counted by `flush`."""
        self._change_many(statements.FREE_RUN, runs, sum(run.blocks for run in runs), otherwise)

    def _change_many(self, statement: str, rows: Sequence[Row], expected: int, otherwise: str) -> None:
        """One statement for all rows, which must change so many rows of the table."""
        if expected >= MANY_ROWS:
            self.take_time()
        columns = encode_columns(rows, statements.KINDS[statement])
        self._held_back.append(_Change((statement, columns), expected, otherwise))

    def flush(self) -> None:
        """See the protocol."""
        if not self._held_back:
            return
        changes, self._held_back = self._held_back, []
        for change, done in zip(changes, self._line.send([change.request for change in changes]), strict=True):
            if change.rows is not None and done.count != change.rows:
                raise InvariantBroken(f"{change.otherwise} ({done.count} rows of {change.rows})")

    def _found(self, statement: str, keys: Sequence[Row]) -> Sequence[Row]:
        return self.rows(statement, encode_columns(keys, statements.KINDS[statement])) if keys else []

    def _head(self, answer: Answer) -> tuple[Row | None, int]:
        for now_us, *head in answer.rows():
            return head, now_us
        [(now_us,)] = self.rows(statements.NOW, ())
        return None, now_us
