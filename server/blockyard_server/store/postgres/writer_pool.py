"""The writer's connections to PostgreSQL: one for each transaction under way, kept for the next one.

A transaction is a few round trips: each sends several statements in a pipeline, and each has a bound of its own.
"""

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import psycopg

from blockyard_server.engine.store_protocol import CommitUnknown, StoreFailed
from blockyard_server.store.codec import Row
from blockyard_server.store.postgres.arrays import encode_columns
from blockyard_server.store.postgres.errors import commit_failure_of, said
from blockyard_server.store.postgres.pipe import Answer, Pipe
from blockyard_server.store.postgres.target import NO_ORPHAN, SET_SEARCH_PATH, Target

# A client that is told of no deadline gives an attempt five seconds: half of the SDK's ten. These stay below it.
LOCK_TIMEOUT_S: Final = 2.0
"""How long a transaction waits for a fleet that another server has locked."""
STATEMENT_TIMEOUT_S: Final = 4.0
LONG_STATEMENT_TIMEOUT_S: Final = 60.0
"""For what looks at a whole fleet (its load, the extension of all its leases, its deletion) and for great batches."""
IDLE_IN_TRANSACTION_TIMEOUT_S: Final = 5.0
"""A server that is frozen while it has a fleet locked loses the lock, and its transaction, after so long."""
COMMIT_TIMEOUT_S: Final = 4.0
"""For COMMIT, which no limit of the server's ends while it waits for a synchronous standby."""
ANSWER_MARGIN_S: Final = 1.0
"""So much later than the server's own limit would have, the watchdog ends a wait."""

BEGIN: Final = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""After the wait for the lock each statement sees what was committed meanwhile. Not always the default."""

Request = tuple[str, Row]
"""A statement with its parameters."""

PLANNING: Final = MappingProxyType(
    {
        "plan_cache_mode": "force_generic_plan",
        "enable_seqscan": "off",
        "enable_bitmapscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "enable_material": "off",
        "cpu_tuple_cost": "100",  # a row that is looked at costs, whatever else a plan may spare
        "jit": "off",
    }
)
"""Each statement is planned once for a connection, before the tables have grown: by the key, whatever they hold then.

Left alone, PostgreSQL joins the keys of a batch with all rows of the fleet (docs/adr/0006).
"""
_DURABLE: Final = (
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
)
"""Whatever the database's default: what is answered is on a disk. Who waits for a standby keeps doing so."""
_SET: Final = "SELECT set_config(name, value, {local}) FROM unnest($1::text[], $2::text[]) AS k (name, value)"


def _set(settings: Mapping[str, str], *, local: bool) -> Request:
    pairs = encode_columns(list(settings.items()), ("text", "text"))
    return _SET.format(local=str(local).lower()), pairs


def _limits(statement_s: float, idle_s: float) -> dict[str, str]:
    limits = {"lock_timeout": LOCK_TIMEOUT_S, "statement_timeout": statement_s}
    limits["idle_in_transaction_session_timeout"] = idle_s
    return {name: str(int(limit_s * 1000)) for name, limit_s in limits.items()}


class WriterConnection:
    """One connection. Used by one thread at a time. What it raises is psycopg.Error, unless it says so."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._db: psycopg.Connection[Row] = psycopg.Connection.connect(target.conninfo, autocommit=True)
        self._db.add_notice_handler(self._note)
        self._watch = target.watchdog.watch(self._db.pgconn)
        self._pipe = Pipe(self._db.pgconn)
        self._warning = ""
        self._limit_s = STATEMENT_TIMEOUT_S
        self._mixed_up = False
        self.used = False
        """It has waited for its next transaction: it may have died meanwhile."""
        try:
            limits = _limits(STATEMENT_TIMEOUT_S, IDLE_IN_TRANSACTION_TIMEOUT_S)
            set_path = (SET_SEARCH_PATH.format("$1"), (target.search_path,))
            settings = [set_path, _set({**PLANNING, **limits}, local=False), (_DURABLE, ())]
            # BEGIN is prepared where the settings hold: no transaction ever begins in a session without them.
            _, path, *_ = self.send([(BEGIN, ()), *settings, ("COMMIT", ())])
            target.expect_kept(self.process, path.rows()[0][0])
            self._end_with_client()
        except BaseException:
            self.close()
            raise

    @property
    def lost(self) -> bool:
        """There is no connection any more, or none that can be used."""
        return self._db.closed or self._mixed_up or not self._pipe.clean

    @property
    def server_version(self) -> int:
        """As PostgreSQL numbers it: 150004 is 15.4."""
        return self._db.info.server_version

    @property
    def process(self) -> int:
        """The number of the server's process at the other end."""
        return self._db.info.backend_pid

    def send(self, requests: Sequence[Request]) -> list[Answer]:
        """Has all of them carried out in one round trip, in order; after the first that fails none is."""
        self._watch.begin(self._limit_s + ANSWER_MARGIN_S)
        try:
            return self._pipe.send(requests)
        except psycopg.errors.InvalidSqlStatementName:
            self._mixed_up = True
            self._target.doubt()
            raise
        finally:
            self._watch.rest()

    def relax_timeouts(self) -> Request:
        """Until the end of the transaction, statements may take long; the request that tells the server so."""
        self._limit_s = LONG_STATEMENT_TIMEOUT_S
        return _set(_limits(LONG_STATEMENT_TIMEOUT_S, LONG_STATEMENT_TIMEOUT_S), local=True)

    def commit(self, fleet: str) -> None:
        """Raises what a failed COMMIT means. Anything but a clean answer leaves open whether it happened."""
        self._warning = ""
        self._limit_s = COMMIT_TIMEOUT_S
        try:
            answer = self.send([("COMMIT", ())])[0].status
        except psycopg.Error as error:
            raise commit_failure_of(fleet, error) from error
        if answer != "COMMIT":
            raise StoreFailed(f"fleet {fleet}: the database answered COMMIT with {answer}")
        if self._warning:
            # As "canceling wait for synchronous replication": it is committed here, and may be lost at a fail-over.
            raise CommitUnknown(f"fleet {fleet}: COMMIT came with a warning: {self._warning}")
        self._limit_s = STATEMENT_TIMEOUT_S

    def roll_back(self) -> None:
        """Ends the transaction, whatever happened in it."""
        self._limit_s = STATEMENT_TIMEOUT_S
        self.send([("ROLLBACK", ())])

    def close(self) -> None:
        """Gives the connection up, and with it a transaction that may be open."""
        self._watch.end()
        self._db.close()

    def _end_with_client(self) -> None:
        """Tells the server to end this session once there is nobody at this end, as far as its system can see that."""
        try:
            self.send([(NO_ORPHAN, ())])
        except psycopg.Error:
            if self.lost:
                raise

    def _note(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity_nonlocalized == "WARNING":
            self._warning = notice.message_primary or "a warning"


class WriterPool:
    """Connections that wait for their next transaction. Used by all writer threads."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._idle: list[WriterConnection] = []
        self._closed = False

    def take(self) -> WriterConnection:
        """One that waits, or a new one. Raises StoreFailed."""
        with self._lock:
            if self._closed:
                raise StoreFailed("the store is closed")
            if self._idle:
                return self._idle.pop()
        return self.connect()

    def connect(self) -> WriterConnection:
        """A new one. Raises StoreFailed."""
        try:
            return WriterConnection(self._target)
        except psycopg.Error as error:
            raise StoreFailed(f"the database cannot be reached: {said(error)}") from error

    def give_back(self, connection: WriterConnection) -> None:
        """After the end of its transaction."""
        connection.used = True
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def end(self, connection: WriterConnection) -> None:
        """Rolls back, and keeps the connection if that works."""
        try:
            if connection.lost:
                raise psycopg.OperationalError("it is lost")
            connection.roll_back()
        except psycopg.Error:
            connection.close()
        else:
            self.give_back(connection)

    def close_idle(self) -> None:
        """Gives up all that wait: the database has gone meanwhile, or is another one."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Gives up all, also those that are given back later."""
        with self._lock:
            self._closed = True
        self.close_idle()
