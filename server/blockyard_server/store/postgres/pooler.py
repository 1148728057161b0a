"""Whether the database keeps this server's sessions: a pooler between may give each transaction to another one.

A session that is kept hears what it listens to while nothing is asked of it. In transaction pooling a client that asks
nothing has no session, so that nobody can pass the news on to it, however many sessions the pooler has and whichever it
gives to whom. Two transactions side by side tell of a pooler that passes news on by itself (docs/adr/0021).
"""

import secrets
from contextlib import ExitStack
from typing import Final, Self

import psycopg

from blockyard_server.engine.store_protocol import StoreFailed
from blockyard_server.store.postgres.errors import POOLER_ADVICE, said
from blockyard_server.store.postgres.watchdog import Watchdog

NEWS_S: Final = 3.0
"""How long news may take. It takes milliseconds where it comes at all."""
ANSWER_S: Final = 5.0
"""How long an answer may take. A pooler with no session to spare gives none."""
_CHANNEL: Final = "blockyard_proof"
_LOOK: Final = "SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('blockyard.proof', true)"
# Nobody's standby is waited for: there is nothing to lose.
_TELL: Final = "SELECT pg_catalog.set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify(%s, %s)"


_UNKNOWN: Final = "or it could not be found out, as from a pooler that has no sessions to spare"


class SessionsNotKept(StoreFailed):
    """There is a pooler between, and it gives transactions of one connection to several sessions, or may do so."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{POOLER_ADVICE} ({why})")


def expect_sessions_kept(conninfo: str, watchdog: Watchdog) -> None:
    """Raises SessionsNotKept. Takes two connections for as long as it runs."""
    with ExitStack() as stack:
        try:
            listener, teller = (stack.enter_context(_Prover(conninfo, watchdog)) for _ in range(2))
            _expect_news(listener, teller)
            _expect_own_session(listener, teller)
        except psycopg.Error as error:
            raise SessionsNotKept(f"{_UNKNOWN}: {said(error)}") from error


def _expect_news(listener: "_Prover", teller: "_Prover") -> None:
    proof = secrets.token_hex(8)
    listener.ask(f"LISTEN {_CHANNEL}")
    teller.ask(_TELL, _CHANNEL, proof)
    if not listener.hears(proof):
        raise SessionsNotKept("a connection that waits is told no news")


def _expect_own_session(one: "_Prover", other: "_Prover") -> None:
    proof = secrets.token_hex(8)
    [_, _, process] = one.ask(
        "SELECT pg_catalog.set_config('blockyard.proof', %s, false), %s::text, pg_catalog.pg_backend_pid()", proof, ""
    )
    other.ask("BEGIN")
    if other.ask(_LOOK)[0] == process or one.ask(_LOOK) != (process, proof):
        raise SessionsNotKept("a connection changed its session")
    other.ask("ROLLBACK")


class _Prover:
    """One connection, which waits for nothing without end. A context manager."""

    def __init__(self, conninfo: str, watchdog: Watchdog) -> None:
        self._db: psycopg.Connection[tuple[object, ...]] = psycopg.Connection.connect(conninfo, autocommit=True)
        self._db.prepare_threshold = None
        self._watch = watchdog.watch(self._db.pgconn)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.end()
        self._db.close()

    def ask(self, statement: str, *parameters: str) -> tuple[object, ...]:
        """The first row of the answer, if there is one. Raises psycopg.Error."""
        self._watch.begin(ANSWER_S)
        try:
            found = self._db.execute(statement.encode(), parameters or None)
            return (found.fetchone() if found.description else None) or ()
        finally:
            self._watch.rest()

    def hears(self, news: str) -> bool:
        """Whether the news comes while nothing is asked. Raises psycopg.Error."""
        return any(notice.payload == news for notice in self._db.notifies(timeout=NEWS_S, stop_after=1))
