"""SQLAlchemy's engines on SQLite: one for migrations, on the store's own connections, and one for readers."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import aiosqlite
from sqlalchemy import AsyncAdaptedQueuePool, Engine, create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

READER_WAIT_S: Final = 30.0
"""How long a reader waits for its turn before StoreFailed."""


def migrating_engine(connect: Callable[[], sqlite3.Connection]) -> Engine:
    """An engine whose transactions lock the file at once, on connections that `connect` opens."""
    engine = create_engine("sqlite+pysqlite://", creator=connect, poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def reading_engine(path: Path, readers: int, busy_timeout_s: float, expect_in_place: Callable[[], None]) -> AsyncEngine:
    """A bounded pool of connections that cannot write, nor make the file if it is not there.

    `expect_in_place` raises if what was opened may be another file than the writer's.
    """
    engine = create_async_engine(
        "sqlite+aiosqlite://",
        async_creator=lambda: _open_whole(f"file:{quote(str(path))}?mode=rw", busy_timeout_s),
        poolclass=AsyncAdaptedQueuePool,
        pool_size=readers,
        max_overflow=0,
        pool_timeout=READER_WAIT_S,
    )

    def set_up(db: Any, _record: object) -> None:
        expect_in_place()
        db.isolation_level = None
        cursor = db.cursor()
        cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    event.listen(engine.sync_engine, "connect", set_up)
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    return engine


async def _open_whole(uri: str, busy_timeout_s: float) -> aiosqlite.Connection:
    """A connection. A caller that is cancelled meanwhile goes once it is open and closed again.

    Its thread would else answer an event loop that may be closed by then.
    """
    opening = asyncio.ensure_future(_open(uri, busy_timeout_s))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        await (await opening).close()
        raise


async def _open(uri: str, busy_timeout_s: float) -> aiosqlite.Connection:
    connection = aiosqlite.connect(uri, uri=True, timeout=busy_timeout_s)
    connection._thread.daemon = True  # noqa: SLF001 - as SQLAlchemy does: a connection never keeps a process
    return await connection
