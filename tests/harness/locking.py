"""A server that has a fleet locked in the middle of a statement of nearly a minute, to be killed there."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

_LOCKS: Final = """
import sys
from blockyard_server.store.postgres.store import PostgresStore
store = PostgresStore(sys.argv[1])
store.open()
with store.transaction(sys.argv[2]) as transaction:
    transaction._session.relax_timeouts()
    transaction._session.rows("SELECT pg_sleep(55)", ())
"""
"""The statement is one that may take long: its database gives it 60 seconds."""


@contextmanager
def locking(database: str, fleet: str) -> Iterator[subprocess.Popen[bytes]]:
    """The server runs while the block does, unless it is killed."""
    process = subprocess.Popen([sys.executable, "-c", _LOCKS, database, fleet])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def is_locked_by_it(database: str) -> bool:
    """Whether its statement runs at the database."""
    with psycopg.connect(database, autocommit=True) as db:
        row = db.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        ).fetchone()
    return row == (1,)
