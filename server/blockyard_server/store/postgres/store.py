"""The store on PostgreSQL: any number of servers on one database, none of them special.

A fleet is locked by its row, so that transactions on different fleets go on side by side. Every locked transaction
ends with COMMIT, also one that wrote nothing: what it read under the lock may have been committed by a transaction
whose wait for the synchronous standby was cut off, and this COMMIT waits for the standby again. Why it is done like
this, with measurements: docs/adr/0006-postgresql-store.md.
"""

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool
from typing_extensions import override

from blockyard_server.engine.store_protocol import CommitUnknown, Origin, ServerRow, Store, StoreFailed, StoreRefused
from blockyard_server.store.migrate import migrate
from blockyard_server.store.origin import SqlOrigin
from blockyard_server.store.postgres import identity, statements
from blockyard_server.store.postgres.errors import failure_of, reading, said
from blockyard_server.store.postgres.evidence import PostgresEvidence
from blockyard_server.store.postgres.notifications import ANSWER_TIMEOUT_S, Notifications, WatchedConnection
from blockyard_server.store.postgres.pooler import SessionsNotKept
from blockyard_server.store.postgres.schema_search import find_schema
from blockyard_server.store.postgres.session import PostgresSession
from blockyard_server.store.postgres.target import Target
from blockyard_server.store.postgres.url import parse_url
from blockyard_server.store.postgres.watchdog import Watch, Watchdog
from blockyard_server.store.postgres.writer_pool import ANSWER_MARGIN_S, WriterConnection, WriterPool
from blockyard_server.store.reader import SqlReader
from blockyard_server.store.transaction import SqlTransaction

WRITER_SHARDS: Final = 8
"""How many transactions, each on another fleet, may be under way at once."""
OLDEST_POSTGRES: Final = 150_000
"""PostgreSQL 15, as the server numbers it."""
READER_WAIT_S: Final = 30.0
"""How long a reader waits for its turn before StoreFailed."""
READ_TIMEOUT_S: Final = 30.0
"""How long one snapshot may be read."""
MIGRATION_TIMEOUT_S: Final = 60.0
"""For the migrations, and as long again for another server that is at them."""
MIGRATION_LOCK_TIMEOUT_S: Final = 2.0
"""How long one migration waits for a table that others use: they wait behind it meanwhile. Then it is tried again."""
MIGRATION_RETRY_S: Final = 0.5
MIGRATION_LOCK: Final = 0x626C_6F63_6B79  # "blocky": as good a number as any
"""The advisory lock under which one server migrates while the others wait."""
_LOCK_TIMEOUT: Final = "SET LOCAL lock_timeout = {}"
_DISTURBED: Final = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
"""What a migration meets that others work beside."""
_AWAY: Final = ("08", "57P", "25006")
"""SQLSTATEs, or how they begin, that say that this connection is of no more use: another one may be."""

_log = logging.getLogger(__name__)


class PostgresStore(SqlOrigin, Store):
    """Fleets in the database at `url` (see `postgres_url`); at most `readers` read at a time.

    `schema` names the schema of the tables; without it they are where `postgres_schema` finds them.
    """

    def __init__(self, url: str, *, readers: int = 4, schema: str = "") -> None:
        self._url = parse_url(url)
        self._schema = schema
        self.writer_shards = WRITER_SHARDS
        self.made_new = False
        self.write_failed = False
        self._readers = readers
        self._watchdog = Watchdog()
        self._target = Target(self._url.conninfo, self._watchdog)
        self._pool = WriterPool(self._target)
        self._notifications = Notifications(self._target)
        self._reading: AsyncEngine | None = None
        self._evidence: set[PostgresEvidence] = set()
        self._lock = threading.Lock()
        self._unknown_commits: set[str] = set()
        """Fleets of which a transaction's end is unknown."""

    @override
    def open(self) -> None:
        """Several servers may open one empty database at once: one migrates, the others wait."""
        self._watchdog.start()
        try:
            self._expect_new_enough()
            self._migrate()
        except BaseException:
            self._pool.close()
            self._watchdog.stop()
            raise
        self._reading = create_async_engine(
            "postgresql+psycopg://",
            async_creator=self._connect_reader,
            pool_size=self._readers,
            max_overflow=0,
            pool_timeout=READER_WAIT_S,
        )
        event.listen(self._reading.sync_engine, "checkin", _rest)

    @override
    async def close(self) -> None:
        if self._reading is not None:
            await self._reading.dispose()
            self._reading = None
        await self._notifications.close()
        for evidence in list(self._evidence):
            evidence.close()
        self._pool.close()
        self._watchdog.stop()

    @override
    @contextmanager
    def transaction(self, fleet: str) -> Iterator[SqlTransaction]:
        connection, session, head, now_us = self._begin(fleet)
        try:
            try:
                yield SqlTransaction(session, statements, fleet, head, database_time_us=now_us)
                session.flush()
            except psycopg.Error as error:
                raise failure_of(fleet, error) from error
            self._commit(connection, fleet)
        except BaseException:
            self._pool.end(connection)
            raise
        self._pool.give_back(connection)

    @override
    def open_evidence(self, fleet: str) -> PostgresEvidence:
        with reading():
            evidence = PostgresEvidence(self._target, fleet, self._evidence.discard)
        self._evidence.add(evidence)
        return evidence

    @override
    def set_origin(self, origin: Origin) -> None:
        super().set_origin(origin)
        if not origin.restoring:
            with self.transaction("") as transaction:
                transaction.change_database(statements.SET_SYSTEM, identity.of_system(self._found))

    @override
    def seen_revisions(self) -> Mapping[str, int]:
        """Nothing is kept outside of the database."""
        return {}

    @override
    def why_restored(self) -> str | None:
        if (began := super().why_restored()) is not None:
            return began
        remembered, found = identity.Remembered(*self._found(statements.SYSTEM)[0]), identity.of_system(self._found)
        if remembered != found and remembered.may_become(found):
            with self.transaction("") as transaction:
                transaction.change_database(statements.SET_SYSTEM, found)
        return remembered.why_restored(found)

    @override
    @asynccontextmanager
    async def reader(self) -> AsyncIterator[SqlReader]:
        """The snapshot is taken by the first read."""
        if self._reading is None:
            raise StoreFailed("the store is closed")
        try:
            async with self._reading.connect() as connection:
                raw: Any = (await connection.get_raw_connection()).driver_connection
                raw.watch.begin(READ_TIMEOUT_S)
                try:
                    yield SqlReader(connection)
                finally:
                    # Leaving sends ROLLBACK; the pool says when that is over, before it lends the connection again.
                    raw.watch.begin(ANSWER_TIMEOUT_S)
        except (SQLAlchemyError, psycopg.Error) as failure:
            raise StoreFailed(f"the database cannot be read: {_cause(failure)}") from failure

    @override
    async def listen(self, on_change: Callable[[str], None]) -> None:
        await self._notifications.listen(on_change)

    @override
    async def notify(self, fleets: Collection[str]) -> None:
        await self._notifications.notify(fleets)

    @override
    async def heartbeat(self, own: ServerRow) -> list[ServerRow]:
        return await self._notifications.heartbeat(own)

    @override
    async def deregister(self, server: str) -> None:
        await self._notifications.deregister(server)

    @override
    async def probe(self) -> None:
        await self._notifications.probe()

    @override
    def try_write(self) -> None:
        """What cannot be written is asked for again, on a new connection."""

    @override
    def _found(self, statement: str) -> list[Any]:
        connection = self._pool.take()
        try:
            with reading():
                found = connection.send([(statement, ())])[0].rows()
        except BaseException:
            connection.close()
            raise
        self._pool.give_back(connection)
        return list(found)

    def _begin(self, fleet: str) -> tuple[WriterConnection, PostgresSession, Any, int]:
        """A transaction that has locked the fleet, on a connection that lives."""
        while True:
            connection = self._pool.take()
            session = PostgresSession(connection)
            try:
                head, now_us = session.begin(fleet)
                if fleet in self._unknown_commits:
                    if head is None:
                        head, now_us = session.wait_for_creation(fleet)
                    with self._lock:
                        self._unknown_commits.discard(fleet)
            except psycopg.Error as error:
                away = connection.lost or (error.sqlstate or "").startswith(_AWAY)
                if away:
                    connection.close()
                    self._pool.close_idle()
                    if connection.used:
                        continue
                else:
                    self._pool.end(connection)
                raise failure_of(fleet, error) from error
            except BaseException:
                self._pool.end(connection)
                raise
            return connection, session, head, now_us

    def _commit(self, connection: WriterConnection, fleet: str) -> None:
        """COMMIT. If its end is unknown, the connection is given up: the database ends what is left of it."""
        try:
            connection.commit(fleet)
        except CommitUnknown:
            with self._lock:
                self._unknown_commits.add(fleet)
            connection.close()
            raise

    def _expect_new_enough(self) -> None:
        try:
            connection = self._pool.take()
        except SessionsNotKept as refused:
            raise StoreRefused(f"{self._url.shown}: {refused}.") from refused
        except StoreFailed as failure:
            why = str(failure).rstrip(".?")
            raise StoreRefused(f"{self._url.shown}: {why}. Check the URL, and that PostgreSQL runs.") from failure
        version = connection.server_version
        connection.close()  # it sees no tables
        if version < OLDEST_POSTGRES:
            found = f"{version // 10_000}.{version % 10_000}"
            raise StoreRefused(f"{self._url.shown} is PostgreSQL {found}: Blockyard needs 15 or newer.")

    def _migrate(self) -> None:
        limit_s = MIGRATION_TIMEOUT_S + ANSWER_MARGIN_S
        try:
            raw = _MigratingConnection.connect(self._url.conninfo, autocommit=True)
            raw.watch = self._watchdog.watch(raw.pgconn)
            raw.watch.begin(limit_s)
            engine = create_engine("postgresql+psycopg://", creator=lambda: raw, poolclass=NullPool)
            with closing(raw):
                self._name_schema(raw)
                until_s = time.monotonic() + limit_s
                with engine.connect() as connection:
                    while not self._migrate_one_step(connection, raw.watch, until_s):
                        pass
        except (SQLAlchemyError, psycopg.Error, SessionsNotKept) as failure:
            raise StoreRefused(f"{self._url.shown} cannot be set up: {_cause(failure)}") from failure

    def _migrate_one_step(self, connection: Connection, watch: Watch, until_s: float) -> bool:
        """One migration in a transaction of its own, which so locks few tables; whether that was the last."""
        try:
            with connection.begin():
                connection.exec_driver_sql(_LOCK_TIMEOUT.format(int(MIGRATION_TIMEOUT_S * 1000)))
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
                watch.begin(MIGRATION_TIMEOUT_S + ANSWER_MARGIN_S)  # the wait for the other server is over
                connection.exec_driver_sql(_LOCK_TIMEOUT.format(int(MIGRATION_LOCK_TIMEOUT_S * 1000)))
                done = migrate(connection, self._url.shown, one_step=True)
        except OperationalError as failure:
            if not isinstance(failure.orig, _DISTURBED) or time.monotonic() >= until_s:
                raise
            _log.info("the migration is tried again: %s", _cause(failure))
            time.sleep(MIGRATION_RETRY_S)
            return False
        self.made_new = self.made_new or done.was_empty
        return done.is_current

    def _name_schema(self, raw: psycopg.Connection[tuple[object, ...]]) -> None:
        """For this session and all later ones. Raises psycopg.Error, SessionsNotKept, StoreRefused."""
        row = raw.execute("SELECT pg_catalog.current_schema()").fetchone()
        first = row[0] if row else None
        self._target.set_up(raw)
        schema = find_schema(raw, None if first is None else str(first), self._schema, self._url.shown)
        self._target.name_schema(schema)
        self._target.set_up(raw)
        raw.autocommit = False

    async def _connect_reader(self) -> WatchedConnection:
        connection = await WatchedConnection.reach(self._target)
        connection.watch.begin(READ_TIMEOUT_S)  # SQLAlchemy asks the first one what it is
        try:
            await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
            await connection.set_read_only(True)
            await connection.set_autocommit(False)
        except BaseException:  # who wants to read may be cancelled right here
            await connection.close()
            raise
        return connection


class _MigratingConnection(psycopg.Connection[tuple[object, ...]]):
    """With a watch over it, which ends before SQLAlchemy closes the connection, wherever it does."""

    watch: Watch

    def close(self) -> None:
        self.watch.end()
        super().close()


def _rest(connection: Any, _record: object) -> None:
    """A reader's connection has come back to the pool, unless it died."""
    if connection is not None:
        connection.driver_connection.watch.rest()


def _cause(failure: Exception) -> str:
    """What the database said, without the statement that SQLAlchemy quotes."""
    cause = getattr(failure, "orig", None) or failure
    return said(cause) if isinstance(cause, psycopg.Error) else str(cause)
