"""A PgBouncer between: one that keeps sessions serves, and behind any other nothing wrong is ever executed."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Final

import psycopg
import pytest

from blockyard_server.engine.store_protocol import StoreFailed, StoreRefused
from blockyard_server.store.postgres import pooler as postgres_pooler
from blockyard_server.store.postgres.pipe import Pipe
from blockyard_server.store.postgres.session import PostgresSession
from blockyard_server.store.postgres.store import PostgresStore
from tests.harness.patience import eventually
from tests.harness.pooler import MISSING, PROGRAM, Pooler
from tests.harness.postgres import Postgres
from tests.harness.proxy import Proxy
from tests.store.conftest import opened
from tests.store.story import Story

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

NOT_KEPT: Final = "does not keep sessions.*pool_mode = session"
TRIES: Final = 50


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused sooner. What is served is not hurried: news come within milliseconds."""
    monkeypatch.setattr(postgres_pooler, "NEWS_S", 1.0)


@pytest.fixture
def by_session(postgres: Postgres) -> Iterator[Pooler]:
    with Pooler(postgres, "session") as running:
        yield running


def processes(*connections: psycopg.Connection[tuple[object, ...]]) -> list[object]:
    """The process behind each, inside a transaction that stays open."""
    rows = [connection.execute("SELECT pg_backend_pid()").fetchone() for connection in connections]
    return [row[0] for row in rows if row]


def test_no_connection_executes_a_statement_that_another_one_prepared(postgres: Postgres, database: str) -> None:
    """Both know a statement; then the first one is given the session of the second one."""
    with Pooler(postgres, "transaction", default_pool_size="2") as pooler:
        url = pooler.url(database)
        with (
            closing(psycopg.connect(url, autocommit=True)) as first,
            closing(psycopg.connect(url, autocommit=True)) as second,
            closing(psycopg.connect(url)) as third,
        ):
            mine, theirs = Pipe(first.pgconn), Pipe(second.pgconn)
            [[[said, used]]] = [a.rows() for a in mine.send([("SELECT 'mine', pg_backend_pid()", ())])]
            assert said == "mine"
            assert processes(third) == [used], "the session was not free for another"
            theirs.send([("SELECT 'theirs', pg_backend_pid()", ())])
            with pytest.raises(psycopg.errors.InvalidSqlStatementName):
                mine.send([("SELECT 'mine', pg_backend_pid()", ())])


UNKEPT: Final = {
    "transactions": ("transaction", {}),
    "transactions, one session": ("transaction", {"default_pool_size": "1"}),
    "transactions, each on the next session": ("transaction", {"server_round_robin": "1"}),
    "transactions, sessions are reset": ("transaction", {"server_reset_query_always": "1"}),
    "statements": ("statement", {}),
}


@pytest.mark.parametrize("kind", UNKEPT)
def test_a_start_behind_a_pooler_that_does_not_keep_sessions_is_refused(
    postgres: Postgres, database: str, kind: str
) -> None:
    mode, settings = UNKEPT[kind]
    with Pooler(postgres, mode, **settings) as pooler:
        url = pooler.url(database)
        with closing(psycopg.connect(url, autocommit=True)) as db:
            db.execute("SELECT 1")  # there is a session to be had
        with pytest.raises(StoreRefused, match=NOT_KEPT):
            PostgresStore(url).open()
    with psycopg.connect(database) as db:
        assert db.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone() == (0,)


def test_a_start_among_many_idle_sessions_is_refused_all_the_same(postgres: Postgres, database: str) -> None:
    """A connection that is seldom given another session is not one that keeps its own."""
    with Pooler(postgres, "transaction", default_pool_size="40") as pooler:
        url = pooler.url(database)
        crowd = [psycopg.connect(url) for _ in range(30)]
        assert len(set(processes(*crowd))) == len(crowd)
        for connection in crowd:
            connection.close()
        with pytest.raises(StoreRefused, match=NOT_KEPT):
            PostgresStore(url).open()


def test_a_pooler_that_passes_news_on_by_itself_is_found_by_its_sessions(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_pooler, "_expect_news", lambda *_: None)
    with (
        Pooler(postgres, "transaction") as pooler,
        pytest.raises(StoreRefused, match=f"{NOT_KEPT}.*changed its session"),
    ):
        PostgresStore(pooler.url(database)).open()


def test_a_pooler_without_a_session_to_spare_is_refused(
    postgres: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_pooler, "ANSWER_S", 0.5)
    with (
        Pooler(postgres, "session", default_pool_size="2") as pooler,
        pytest.raises(StoreRefused, match=r"could not be found out.*sessions to spare"),
    ):
        PostgresStore(pooler.url(database)).open()


async def test_servers_behind_a_pooler_that_keeps_sessions_serve(by_session: Pooler, database: str) -> None:
    url = by_session.url(database)
    heard: list[str] = []

    async def hears() -> bool:
        await one.notify(["gpu"])
        return "gpu" in heard

    async with opened(PostgresStore(url)) as one, opened(PostgresStore(url)) as other:
        listening = asyncio.create_task(other.listen(heard.append))
        story = Story(one).begin(node_1=8)
        held = story.grant(("node-1", (0, 1)))
        story.commit()
        async with other.reader() as reader:
            assert await reader.revision("gpu") == story.revision
        evidence = other.open_evidence("gpu")
        assert list(evidence.held_blocks()) == [("node-1", 0, held), ("node-1", 1, held)]
        evidence.close()
        await eventually(hears, "the other server hears of it")
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


def fails(store: PostgresStore) -> StoreFailed | None:
    """What a few transactions side by side come to."""
    try:
        with store.transaction("one"), store.transaction("other"):
            pass
        with store.transaction("other"), store.transaction("one"):
            pass
    except StoreFailed as failure:
        return failure
    return None


def expect_refusal(store: PostgresStore) -> None:
    """Sooner or later a transaction is given another session."""
    failures = (fails(store) for _ in range(TRIES))
    failure = next((failure for failure in failures if failure is not None), None)
    assert failure is not None, "nothing was refused"
    assert re.search(NOT_KEPT, str(failure))


async def test_a_pooler_that_is_told_to_keep_no_sessions_any_more_is_found_and_said(
    by_session: Pooler, database: str
) -> None:
    async with opened(PostgresStore(by_session.url(database))) as store:
        for fleet in ("one", "other"):
            Story(store, fleet).begin(node_1=8)
        assert fails(store) is None
        by_session.change_mode("transaction")
        assert fails(store) is None, "from the next transaction on"
        with closing(psycopg.connect(by_session.url(database))) as guest:
            guest.execute("SELECT 1")  # takes a session that the server had
            await asyncio.to_thread(expect_refusal, store)
        with pytest.raises(StoreFailed, match="does not keep sessions"):
            await store.probe()
        by_session.change_mode("session")

        async def served() -> bool:
            return fails(store) is None

        await eventually(served, "it serves again")
        assert list(store.fleet_sizes()) == ["one", "other"]


async def test_a_transaction_begins_only_in_a_session_that_names_the_schema(by_session: Pooler, database: str) -> None:
    """Also the first one of a connection, which has prepared little until then."""
    async with opened(PostgresStore(by_session.url(database))) as store:
        with closing(store._pool.connect()) as line:
            by_session.change_mode("transaction")
            [[[used]]] = [answer.rows() for answer in line.send([("SELECT pg_backend_pid()", ())])]
            with closing(psycopg.connect(by_session.url(database))) as guest:
                assert processes(guest) == [used], "the session was not free for another"
                with pytest.raises(psycopg.errors.InvalidSqlStatementName):
                    PostgresSession(line).begin("gpu")


async def test_a_pooler_that_is_put_between_later_is_found_and_said(postgres: Postgres, database: str) -> None:
    """The connections that the server had to PostgreSQL itself end, and the new ones go to the pooler."""
    with Pooler(postgres, "transaction") as pooler:
        async with Proxy(f"127.0.0.1:{postgres.port}") as proxy:
            port = proxy.address.rpartition(":")[2]
            url = database.replace(f":{postgres.port}/", f":{port}/")
            store = PostgresStore(url)
            await asyncio.to_thread(store.open)
            assert await asyncio.to_thread(fails, store) is None
            proxy.target = f"127.0.0.1:{pooler.port}"
            proxy.sever()
            await asyncio.to_thread(expect_refusal, store)
            with pytest.raises(StoreFailed, match="does not keep sessions"):
                await store.probe()
            with pytest.raises(StoreFailed, match="does not keep sessions"):
                async with store.reader() as reader:
                    await reader.revision("one")
            with pytest.raises(StoreFailed, match="does not keep sessions"):
                await asyncio.to_thread(store.open_evidence, "one")
            proxy.target = f"127.0.0.1:{postgres.port}"
            proxy.sever()

            async def served() -> bool:
                return await asyncio.to_thread(fails, store) is None

            await eventually(served, "it serves again")
            await store.close()
