"""What the database says of itself as a whole, on any database."""

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any

from blockyard_server.engine.store_protocol import RESTORE_BEGAN, Origin
from blockyard_server.store.sqlite import statements
from blockyard_server.store.transaction import SqlTransaction


class SqlOrigin:
    """The part of a store that reads and writes the table `origin`."""

    @abstractmethod
    def transaction(self, fleet: str) -> AbstractContextManager[SqlTransaction]:
        """A transaction of the store; `""` is no fleet."""

    @abstractmethod
    def _found(self, statement: str) -> list[Any]:
        """The rows that a statement without parameters finds. Raises StoreFailed."""

    def origin(self) -> Origin:
        """As in the protocol."""
        [row] = self._found(statements.ORIGIN)
        database_id, epoch, first_revision, restoring = row
        return Origin(database_id, epoch, first_revision, restoring=bool(restoring))

    def set_origin(self, origin: Origin) -> None:
        """As in the protocol."""
        with self.transaction("") as transaction:
            transaction.set_origin(origin)

    def why_restored(self) -> str | None:
        """As in the protocol, as far as the database says it itself."""
        return RESTORE_BEGAN if self.origin().restoring else None

    def fleet_sizes(self) -> dict[str, int]:
        """As in the protocol."""
        return dict(self._found(statements.FLEET_SIZES))

    def all_revisions(self) -> dict[str, int]:
        """As in the protocol."""
        return dict(self._found(statements.ALL_REVISIONS))
