"""What a transaction needs of a database: its texts, and its driver inside of one transaction."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from blockyard_server.domain.requests import TokenKey
from blockyard_server.store.codec import Row
from blockyard_server.store.rows import Run


class Statements(Protocol):
    """The texts of one database: the modules `statements` (SQLite) and `postgres_statements`.

    Parameters are in the same order in both.
    """

    LOAD_INSTANCES: str
    EVENTS_AFTER: str
    LATEST_TIME: str
    DUE_LEASES: str
    NEXT_EXPIRE_TIME: str
    FLEET_COUNT: str
    RECREATE_FLEET: str
    UPDATE_FLEET: str
    DELETE_FLEET: str
    ADVANCE_FLEET: str
    SET_FORMAT: str
    SET_HALTED: str
    SET_CLOCK_OFFSET: str
    AGE: str
    SET_AGE: str
    INSERT_INSTANCE: str
    UPDATE_INSTANCE: str
    DELETE_INSTANCE: str
    DELETE_ALL_INSTANCES: str
    INSERT_ALLOCATION: str
    KEEP_ALLOCATION: str
    END_ALLOCATION: str
    EXTEND_LEASES: str
    HOLD_EXCLUSIVELY: str
    INSERT_TOKEN: str
    INSERT_EVENT: str
    ENDED_UPTO: str
    CANCELLED_UPTO: str
    FORGET_TOKEN: str
    FORGET_ALLOCATION: str
    FORGET_CANCELLED: str
    COMPACTED_REVISION: str
    COMPACT_FLEET: str
    COMPACT_JOURNAL: str
    FIRST_REVISION: str
    SET_ORIGIN: str


class Session(Protocol):
    """One database's driver inside of one transaction. What it raises is the driver's, apart from what is named."""

    def rows(self, statement: str, parameters: Row) -> Sequence[Row]:
        """What the statement finds."""
        ...

    def stream(self, statement: str, parameters: Row) -> Iterable[Row]:
        """What the statement finds in a whole fleet, as it comes."""
        ...

    def relax_timeouts(self) -> None:
        """What follows looks at a whole fleet: limits of time that are meant for small statements do not fit."""
        ...

    def tokens(self, fleet: str, keys: Sequence[TokenKey]) -> Sequence[Row]:
        """(caller, token, allocation, fingerprint, revision) of those of these tokens that are known."""
        ...

    def allocations(self, fleet: str, ids: Sequence[int]) -> Sequence[Row]:
        """Those of these allocations that there are, in ALLOCATION_COLUMNS."""
        ...

    def create_fleet(self, row: Row) -> None:
        """Writes a fleet that nobody has seen. Raises StoreConflict if another server just did."""
        ...

    def change(self, statement: str, parameters: Row) -> int:
        """Executes a statement of SQLite's and PostgreSQL's common words now; how many rows it changed."""
        ...

    def insert(self, statement: str, rows: Sequence[Row]) -> None:
        """Inserts these rows."""
        ...

    def count(self, statement: str, rows: Sequence[Row], mismatch_message: str) -> None:
        """Runs the statement for each row; each must change exactly one row of the table.

        If one does not, this or `flush` raises InvariantBroken with `mismatch_message`.
        """
        ...

    def hold(self, runs: Sequence[Run]) -> None:
        """Inserts the held blocks of these runs."""
        ...

    def free(self, runs: Sequence[Run], mismatch_message: str) -> None:
        """Deletes the held blocks of these runs. `mismatch_message` as for `count`, if any of them is not there."""
        ...

    def flush(self) -> None:
        """Has the database carry out what was not sent so far."""
        ...
