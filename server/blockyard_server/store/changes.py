"""Statements that change rows, made out of the names of columns: for one row on SQLite, for many on PostgreSQL.

A change says which columns its parameters are, in their order; each database has its own form of it.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from blockyard_server.store.codec import (
    ALLOCATION_COLUMNS,
    EVENT_COLUMNS,
    FLEET_FIELD_COLUMNS,
    INSTANCE_COLUMNS,
    INSTANCE_FIELD_COLUMNS,
)

# The columns' names are constants of this package, and nothing else is put into a text; values are always parameters.
# ruff: noqa: S608


class Change(Protocol):
    """A statement with a parameter for each of `columns`, in that order."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Whose values the parameters are."""
        ...

    def for_one(self) -> str:
        """For one row, with `?` for each parameter."""
        ...

    def for_many(self) -> str:
        """For many rows: `{rows}` stands for a table `k` that has the columns."""
        ...


@dataclass(frozen=True, slots=True)
class Insert:
    """Rows that are not there."""

    table: str
    columns: tuple[str, ...]

    def for_one(self) -> str:
        """As `Change` says."""
        return f"INSERT INTO {self.table} ({', '.join(self.columns)}) VALUES ({', '.join('?' * len(self.columns))})"

    def for_many(self) -> str:
        """As `Change` says."""
        values = ", ".join(f"k.{column}" for column in self.columns)
        return f"INSERT INTO {self.table} ({', '.join(self.columns)}) SELECT {values} FROM {{rows}}"


@dataclass(frozen=True, slots=True)
class Update:
    """Rows that are found by `keys`, and by `where`: a condition in which `{t}` stands before the table's columns.

    `constants` are assignments without a parameter.
    """

    table: str
    values: tuple[str, ...]
    keys: tuple[str, ...]
    where: str = ""
    constants: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """As `Change` says: the values, then the keys."""
        return self.values + self.keys

    def for_one(self) -> str:
        """As `Change` says."""
        return f"UPDATE {self.table} SET {self._assignments('?')} WHERE {_found(self.keys, '?', '', self.where)}"

    def for_many(self) -> str:
        """As `Change` says."""
        found = _found(self.keys, "k.{}", "t.", self.where)
        return f"UPDATE {self.table} t SET {self._assignments('k.{}')} FROM {{rows}} WHERE {found}"

    def _assignments(self, value: str) -> str:
        given = [f"{column} = {value.format(column)}" for column in self.values]
        return ", ".join([self.constants, *given] if self.constants else given)


@dataclass(frozen=True, slots=True)
class Delete:
    """Rows that are found by `keys`, and by `where` as in `Update`."""

    table: str
    keys: tuple[str, ...]
    where: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """As `Change` says."""
        return self.keys

    def for_one(self) -> str:
        """As `Change` says."""
        return f"DELETE FROM {self.table} WHERE {_found(self.keys, '?', '', self.where)}"

    def for_many(self) -> str:
        """As `Change` says."""
        return f"DELETE FROM {self.table} t USING {{rows}} WHERE {_found(self.keys, 'k.{}', 't.', self.where)}"


def _found(keys: tuple[str, ...], value: str, prefix: str, where: str) -> str:
    conditions = [f"{prefix}{key} = {value.format(key)}" for key in keys]
    return " AND ".join([*conditions, where.format(t=prefix)] if where else conditions)


_FLEET: Final = ("fleet",)
_INSTANCE: Final = ("fleet", "instance")
_ALLOCATION: Final = ("fleet", "allocation")
_TOKEN: Final = ("fleet", "caller", "token")
_LEASE: Final = ("ttl_us", "expire_time_us", "remaining", "revision")

INSERT_FLEET: Final = Insert(
    "fleets",
    ("fleet", *FLEET_FIELD_COLUMNS, "config_revision", "create_time_us", "update_time_us",
     "revision", "next_order", "deleted"),
)  # fmt: skip
RECREATE_FLEET: Final = Update(
    "fleets",
    (*FLEET_FIELD_COLUMNS, "config_revision", "create_time_us", "update_time_us"),
    _FLEET,
    "{t}deleted = 1",
    "deleted = 0",
)
UPDATE_FLEET: Final = Update(
    "fleets", (*FLEET_FIELD_COLUMNS, "config_revision", "update_time_us"), _FLEET, "{t}deleted = 0"
)
DELETE_FLEET: Final = Update("fleets", ("config_revision", "update_time_us"), _FLEET, "{t}deleted = 0", "deleted = 1")

INSERT_INSTANCE: Final = Insert("instances", INSTANCE_COLUMNS)
UPDATE_INSTANCE: Final = Update("instances", (*INSTANCE_FIELD_COLUMNS, "config_revision", "update_time_us"), _INSTANCE)
DELETE_INSTANCE: Final = Delete("instances", _INSTANCE)

# A column that is compared besides the key has a `+`: with a plain one a planner may choose an index for its sake.
# KEEP and END are two statements, because one that sets `live` has to look at every index, also for a renewal.
INSERT_ALLOCATION: Final = Insert("allocations", ("fleet", *ALLOCATION_COLUMNS))
KEEP_ALLOCATION: Final = Update("allocations", _LEASE, _ALLOCATION, "+{t}live = 1")
END_ALLOCATION: Final = Update(
    "allocations", ("state", "end_time_us", *_LEASE), _ALLOCATION, "+{t}live = 1", "live = 0"
)
FORGET_ALLOCATION: Final = Delete("allocations", _ALLOCATION, "+{t}live = 0")

INSERT_TOKEN: Final = Insert("tokens", (*_TOKEN, "allocation", "fingerprint", "revision", "time_us"))
FORGET_TOKEN: Final = Delete("tokens", (*_TOKEN, "allocation"))
FORGET_CANCELLED: Final = Delete("tokens", _TOKEN, "coalesce({t}allocation, 0) = 0")
INSERT_EVENT: Final = Insert("journal", ("fleet", *EVENT_COLUMNS))
