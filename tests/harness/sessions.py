"""What a database itself says about the servers that use it: who is connected, and whether anything was written.

A harness that claims a deployment asks here, and does not believe what it has ordered.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import psycopg

_NAME: Final = "server-"
"""Begins the name under which a server of a test connects, so that PostgreSQL tells the servers apart."""


def url_for(url: str, server: int) -> str:
    """The same database for the server of this number: its connections bear a name of their own."""
    return f"{url}{'&' if '?' in url else '?'}application_name={_NAME}{server}"


def servers_on(url: str) -> int:
    """How many servers are connected to this database now. Their URLs are made by `url_for`."""
    statement = (
        "SELECT count(DISTINCT application_name) FROM pg_stat_activity"
        " WHERE datname = current_database() AND starts_with(application_name, %s)"
    )
    return _number(url, statement, _NAME)


def version_of(url: str) -> str:
    """The release of the PostgreSQL at a URL, as it says itself: 18.6."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SHOW server_version").fetchone()
    assert row is not None
    return str(row[0]).split(" ", 1)[0]


def events_in(url: str) -> int:
    """How many events the journal in a PostgreSQL has. 0 without a journal."""
    is_there = _number(url, "SELECT count(*) FROM pg_tables WHERE tablename = 'journal'")
    return _number(url, "SELECT count(*) FROM journal") if is_there else 0


def events_in_file(path: Path) -> int:
    """How many events the journal in a data file has, which no server has open. 0 without a file: none is made."""
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        [count] = db.execute("SELECT count(*) FROM journal").fetchone()
    assert isinstance(count, int)
    return count


def _number(url: str, statement: str, *parameters: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement.encode(), parameters).fetchone()
    assert row is not None
    assert isinstance(row[0], int)
    return row[0]
