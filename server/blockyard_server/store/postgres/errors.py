"""What PostgreSQL's refusals mean: an invariant, another transaction's turn, an unknown end, or that it is away."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from blockyard_server.engine.store_protocol import CommitUnknown, InvariantBroken, StoreConflict, StoreFailed

CONFLICTS: Final = frozenset({"40001", "40P01"})
"""Serialization failure and deadlock: the database ended this transaction for the sake of another."""
UNKNOWN_STATEMENT: Final = "26000"
"""A prepared statement is not there: this session is not the one that prepared it."""
POOLER_ADVICE: Final = (
    "a connection pooler between this server and the database does not keep sessions; have it pool by session, as "
    "PgBouncer does with pool_mode = session, or connect to PostgreSQL itself"
)
_INTEGRITY: Final = "23"
"""The class of constraints; the triggers raise theirs in it, too."""
_CERTAINLY_NOT_COMMITTED: Final = (_INTEGRITY, "22", "25", "26", "42", "53", "54", "55")
"""Classes of errors at COMMIT after which the transaction is over and nothing of it stays."""


def failure_of(fleet: str, error: psycopg.Error) -> Exception:
    """What an error before COMMIT means: nothing was committed."""
    state = error.sqlstate or ""
    if state in CONFLICTS:
        return StoreConflict(f"fleet {fleet}: {said(error)}")
    if state.startswith(_INTEGRITY):
        return InvariantBroken(f"fleet {fleet}: the database refused a change: {said(error)}")
    if state == UNKNOWN_STATEMENT:
        return StoreFailed(f"fleet {fleet}: {POOLER_ADVICE}: {said(error)}")
    return StoreFailed(f"fleet {fleet}: the database failed: {said(error)}")


def commit_failure_of(fleet: str, error: psycopg.Error) -> Exception:
    """What an error of COMMIT means. Whatever does not say that nothing was committed leaves it unknown."""
    state = error.sqlstate or ""
    if state in CONFLICTS or state.startswith(_CERTAINLY_NOT_COMMITTED):
        return failure_of(fleet, error)
    return CommitUnknown(f"fleet {fleet}: the end of COMMIT is unknown: {said(error)}")


def said(error: psycopg.Error) -> str:
    """The server's words and code in one line, or the client library's, without the statement."""
    words = error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__
    return f"{words} ({error.sqlstate})" if error.sqlstate else words


@contextmanager
def reading() -> Iterator[None]:
    """Turns what the driver raises into StoreFailed."""
    try:
        yield
    except psycopg.Error as error:
        raise StoreFailed(f"the database cannot be read: {said(error)}") from error
