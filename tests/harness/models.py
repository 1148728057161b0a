"""Databases with all tables and nothing in them, made once: a copy of one opens in a fifth of the time.

Migrating each test's own database took a sixth of the suite. How a database is made is tested by itself.
"""

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.sqlite.store import SqliteStore
from tests.harness.postgres import Postgres


@cache
def _data_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.db"
        _make(SqliteStore(path))
        assert not path.with_name("model.db-wal").exists(), "a part of the data is not in the file"
        return path.read_bytes()


def copy_data_file(path: Path) -> None:
    """Puts a copy of the data file there, which nobody else may read. Raises FileExistsError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=False)
    path.write_bytes(_data_file())


@cache
def _database(postgres: Postgres) -> str:
    url = postgres.fresh_database()
    _make(PostgresStore(url))
    return url


def copied_database(postgres: Postgres) -> str:
    """The URL of a copy on this PostgreSQL."""
    return postgres.fresh_database(like=_database(postgres))


def _make(store: SqliteStore | PostgresStore) -> None:
    store.open()
    with ThreadPoolExecutor(1) as thread:  # whoever asks may have an event loop that runs
        thread.submit(lambda: asyncio.run(store.close())).result()
