"""A server that is frozen while it has a fleet locked loses the lock: PostgreSQL ends its transaction."""

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import psycopg
import pytest

from blockyard_server.store.postgres_line import Line, Request
from blockyard_server.store.watchdog import Watchdog

BOUND_S: Final = 30.0
BEGIN: Final[Request] = ("BEGIN", ())
LOCK: Final[Request] = ("SELECT pg_advisory_xact_lock(1)", ())
AT_ONCE: Final[Request] = ("SET idle_in_transaction_session_timeout = 100", ())


@pytest.fixture
def line(database: str) -> Iterator[Line]:
    with closing(Line(database, Watchdog())) as line:
        yield line


@pytest.mark.parametrize("requests", [[BEGIN, LOCK], [BEGIN, LOCK, ("SELECT 1", ())]], ids=["two", "three"])
def test_the_lock_of_a_transaction_that_nobody_goes_on_with_is_had_by_the_next_one(
    database: str, line: Line, requests: list[Request]
) -> None:
    """PostgreSQL counts the idle time from its answer to a Sync, and stops at the next message, whatever it is.

    psycopg's own pipelines end with a Flush after the Sync: the lock was held for as long as the server was frozen.
    """
    line.send([AT_ONCE])
    line.send([BEGIN, ("SELECT 1", ())])
    line.send([("COMMIT", ())])
    line.send(requests)
    with closing(psycopg.connect(database, autocommit=True)) as other:
        deadline = time.monotonic() + BOUND_S
        while other.execute("SELECT pg_try_advisory_lock(1)").fetchone() != (True,):
            assert time.monotonic() < deadline, "it is locked for ever"
            time.sleep(0.02)
    with pytest.raises(psycopg.OperationalError):
        line.send([("COMMIT", ())])
    assert line.lost
