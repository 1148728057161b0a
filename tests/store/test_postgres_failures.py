"""What happens to a transaction when its connection, its lock, its turn or its whole database is taken away."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import LiteralString

import psycopg
import pytest
from psycopg.pq.abc import PGresult

from blockyard_server.engine.store_protocol import CommitUnknown, InvariantBroken, StoreConflict, StoreFailed
from blockyard_server.store.postgres import writer_pool
from blockyard_server.store.postgres.errors import commit_failure_of, failure_of
from blockyard_server.store.postgres.pipe import Pipe
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.transaction import SqlTransaction
from tests.harness.patience import eventually
from tests.harness.postgres import Postgres
from tests.store.story import Story

BOUND_S = 60.0


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine nothing here ends for want of time, unless a test says so."""
    for limit in ("LOCK_TIMEOUT_S", "STATEMENT_TIMEOUT_S", "COMMIT_TIMEOUT_S", "IDLE_IN_TRANSACTION_TIMEOUT_S"):
        monkeypatch.setattr(writer_pool, limit, BOUND_S)


@pytest.fixture
def story(postgres_store: PostgresStore) -> Story:
    return Story(postgres_store).begin(node_1=8, node_2=8)


@pytest.fixture
async def other(database: str) -> AsyncIterator[PostgresStore]:
    """Another server on the same database."""
    made = PostgresStore(database)
    made.open()
    yield made
    await made.close()


@pytest.fixture
def own(postgres: Postgres) -> Iterator[Postgres]:
    """A PostgreSQL that this test may do anything to."""
    with Postgres(release=postgres.release) as running:
        yield running


@pytest.fixture
async def on_own(own: Postgres) -> AsyncIterator[PostgresStore]:
    """An open store on it."""
    made = PostgresStore(own.fresh_database())
    made.open()
    yield made
    await made.close()


def session_of(transaction: SqlTransaction) -> writer_pool.WriterConnection:
    """The connection of a transaction under way."""
    line = transaction._session._connection  # type: ignore[attr-defined]  # PostgreSQL's session has one
    assert isinstance(line, writer_pool.WriterConnection)
    return line


def process_of(transaction: SqlTransaction) -> int:
    """The server's process behind a transaction."""
    return session_of(transaction).process


def terminate(url: str, process: int) -> None:
    """Ends a server's process, and waits until it is gone."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("SELECT pg_terminate_backend(%s, 60000)", (process,))


def revision_of(store: PostgresStore, fleet: str = "gpu") -> int:
    """What a new transaction sees."""
    with store.transaction(fleet) as transaction:
        return transaction.head.revision if transaction.head else 0


def test_transactions_on_different_fleets_are_open_at_once(story: Story, other: PostgresStore) -> None:
    second = Story(other, "cpu").begin(node_1=8)
    first = story.grant(("node-1", (0,)))
    second.grant(("node-1", (0,)))
    with story.writing(), second.writing():
        pass
    with other.transaction("gpu") as transaction:
        assert transaction.allocations([first]).keys() == {first}


def test_one_fleet_is_waited_for_and_then_seen_as_it_is(story: Story, other: PostgresStore) -> None:
    story.grant(("node-1", (0,)))
    with ThreadPoolExecutor(1) as threads:
        with story.writing():
            waiting: Future[int] = threads.submit(revision_of, other)
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
        assert waiting.result(BOUND_S) == story.revision


def test_a_lock_that_is_never_given_back_is_not_waited_for(
    story: Story, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_pool, "LOCK_TIMEOUT_S", 0.2)
    hasty = PostgresStore(database)
    hasty.open()
    with story.store.transaction("gpu"), pytest.raises(StoreFailed, match="lock timeout"), hasty.transaction("gpu"):
        pass
    assert revision_of(hasty) == story.revision
    asyncio.run(hasty.close())


def test_a_server_that_falls_asleep_in_a_transaction_loses_the_lock(
    database: str, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_pool, "IDLE_IN_TRANSACTION_TIMEOUT_S", 0.2)
    sleeper = PostgresStore(database)
    sleeper.open()
    assert isinstance(story.store, PostgresStore)
    waking = story.store

    def sleep() -> None:
        with sleeper.transaction("gpu"), ThreadPoolExecutor(1) as threads:
            assert threads.submit(revision_of, waking).result(BOUND_S) == story.revision
            threading.Event().wait(0.5)  # the lock was had: so it was taken away, or is about to be

    with pytest.raises((StoreFailed, CommitUnknown)):
        sleep()
    asyncio.run(sleeper.close())


def test_of_two_transactions_that_wait_for_each_other_one_is_run_again(story: Story, other: PostgresStore) -> None:
    Story(other, "cpu").begin(node_1=8)
    both_locked = threading.Barrier(2, timeout=BOUND_S)

    def lock(store: PostgresStore, first: str, second: str) -> str:
        try:
            with store.transaction(first) as transaction:
                both_locked.wait()
                transaction._session.rows("SELECT 1 FROM fleets WHERE fleet = $1 FOR UPDATE", (second,))
        except StoreConflict:
            return "run again"
        return "committed"

    assert isinstance(story.store, PostgresStore)
    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(lock, story.store, "gpu", "cpu"), threads.submit(lock, other, "cpu", "gpu")]
        assert sorted(end.result(BOUND_S) for end in ends) == ["committed", "run again"]


def test_two_servers_create_one_fleet_and_one_of_them_sees_it(
    postgres_store: PostgresStore, other: PostgresStore
) -> None:
    mine, theirs = Story(postgres_store), Story(other)
    for story in (mine, theirs):
        story.create_fleet()
        story.add("node-1")
    with ThreadPoolExecutor(1) as threads:
        with mine.writing():
            waiting = threads.submit(theirs.commit)
            with pytest.raises(TimeoutError):
                waiting.result(0.2)
        with pytest.raises(StoreConflict):
            waiting.result(BOUND_S)
    with other.transaction("gpu") as transaction:
        assert transaction.events_after(0, 10) == mine.events


def test_a_creation_that_does_not_happen_leaves_the_place_to_another(
    postgres_store: PostgresStore, other: PostgresStore
) -> None:
    mine, theirs = Story(postgres_store), Story(other)
    mine.create_fleet()
    theirs.create_fleet()
    with ThreadPoolExecutor(1) as threads:
        waiting: list[Future[None]] = []

        def change_its_mind() -> None:
            with mine.writing():
                waiting.append(threads.submit(theirs.commit))
                raise KeyError

        with pytest.raises(KeyError):
            change_its_mind()
        waiting[0].result(BOUND_S)
    assert revision_of(other) == 1


@pytest.mark.parametrize("setting", ["default_transaction_isolation = serializable", "synchronous_commit = off"])
def test_what_a_transaction_promises_does_not_hang_on_the_databases_defaults(database: str, setting: str) -> None:
    with psycopg.connect(database, autocommit=True) as db:
        db.execute(f"ALTER DATABASE {db.info.dbname} SET {setting}".encode())
    store = PostgresStore(database)
    store.open()
    with store.transaction("gpu") as transaction:
        shown = [
            transaction._session.rows(f"SHOW {name}", ())[0][0]
            for name in ("transaction_isolation", "synchronous_commit")
        ]
    assert shown == ["read committed", "on"]
    asyncio.run(store.close())


def test_a_connection_that_died_while_nobody_used_it_is_replaced(story: Story, database: str) -> None:
    with story.store.transaction("gpu") as transaction:
        assert isinstance(transaction, SqlTransaction)
        process = process_of(transaction)
    terminate(database, process)
    assert isinstance(story.store, PostgresStore)
    assert revision_of(story.store) == story.revision


def write(story: Story, database: str, *, cut: str) -> None:
    """Writes what is pending on a connection that is cut `before` or `after` the writing."""
    with story.store.transaction("gpu") as transaction:
        assert isinstance(transaction, SqlTransaction)
        if cut == "before":
            terminate(database, process_of(transaction))
        transaction.write(story.pending, story.records.touched)
        if cut == "after":
            terminate(database, process_of(transaction))


def test_a_connection_that_is_cut_before_the_writing_leaves_nothing(story: Story, database: str) -> None:
    story.grant(("node-1", (0,)))
    with pytest.raises(StoreFailed) as failed:
        write(story, database, cut="before")
    assert not isinstance(failed.value, CommitUnknown)
    assert isinstance(story.store, PostgresStore)
    assert revision_of(story.store) == story.revision - 1


def test_a_connection_that_is_cut_between_writing_and_commit_leaves_the_end_unknown(
    story: Story, database: str
) -> None:
    story.grant(("node-1", (0,)))
    with pytest.raises(CommitUnknown):
        write(story, database, cut="after")
    assert isinstance(story.store, PostgresStore)
    assert revision_of(story.store) == story.revision - 1


def let_commits_wait(own: Postgres) -> None:
    """For a standby that never comes. With a new start, because nobody says when a reload has reached all processes."""
    own.stop()
    own.configure(synchronous_standby_names="nobody")
    own.start()


def let_commits_go(own: Postgres) -> None:
    """Soon."""
    own.configure(synchronous_standby_names="")
    own.reload()


async def sees(store: PostgresStore, fleet: str, revision: int) -> None:
    """Waits until a transaction gets the lock, and sees this."""

    async def seen() -> bool:
        try:
            return await asyncio.to_thread(revision_of, store, fleet) == revision
        except StoreFailed:
            return False

    await eventually(seen, f"{fleet} is at {revision}")


CUTS: dict[str, LiteralString] = {
    "terminated": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
    "cancelled": "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'",
}


@pytest.mark.parametrize("how", CUTS)
async def test_a_commit_that_does_not_wait_for_the_standby_any_more_has_an_unknown_end(
    own: Postgres, on_own: PostgresStore, how: str
) -> None:
    story = Story(on_own).begin(node_1=8)
    story.grant(("node-1", (0,)))
    let_commits_wait(own)

    async def cut() -> bool:
        return bool(await asyncio.to_thread(own.ask, CUTS[how]))

    committing = asyncio.create_task(asyncio.to_thread(story.commit))
    await eventually(cut, "COMMIT waits for the standby")
    with pytest.raises(CommitUnknown):
        await committing
    let_commits_go(own)
    await sees(on_own, "gpu", story.revision)  # it was committed, as it happens


async def test_a_commit_without_an_answer_keeps_its_fleet_locked_until_it_is_over(
    own: Postgres, on_own: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(on_own).begin(node_1=8)
    created = Story(on_own, "new")
    story.grant(("node-1", (0,)))
    created.create_fleet()
    let_commits_wait(own)
    monkeypatch.setattr(writer_pool, "COMMIT_TIMEOUT_S", 0.1)
    monkeypatch.setattr(writer_pool, "ANSWER_MARGIN_S", 0.1)
    for pending in (story, created):
        with pytest.raises(CommitUnknown):
            await asyncio.to_thread(pending.commit)
    monkeypatch.undo()
    for fleet in ("gpu", "new"):
        with pytest.raises(StoreFailed, match="lock timeout"):
            await asyncio.to_thread(revision_of, on_own, fleet)
    let_commits_go(own)
    await sees(on_own, "gpu", story.revision)
    await sees(on_own, "new", created.revision)


async def test_a_creation_of_unknown_end_that_did_not_happen_leaves_nothing(
    postgres_store: PostgresStore, database: str
) -> None:
    story = Story(postgres_store)
    story.create_fleet()
    with pytest.raises(CommitUnknown):
        write(story, database, cut="after")
    with postgres_store.transaction("gpu") as transaction:
        assert transaction.head is None
        transaction.write(story.pending, story.records.touched)
    assert revision_of(postgres_store) == 1


async def test_a_database_that_goes_away_and_comes_back_is_found_again(own: Postgres, on_own: PostgresStore) -> None:
    story = Story(on_own).begin(node_1=8)
    async with on_own.reader() as reader:
        assert await reader.revision("gpu") == 2
    await on_own.probe()
    own.kill()
    for _ in range(2):
        with pytest.raises(StoreFailed):
            revision_of(on_own)
        with pytest.raises(StoreFailed):
            async with on_own.reader() as reader:
                await reader.revision("gpu")
        with pytest.raises(StoreFailed):
            await on_own.probe()
        with pytest.raises(StoreFailed):
            on_own.open_evidence("gpu")
        await on_own.notify(["gpu"])
    own.start()
    assert revision_of(on_own) == story.revision
    await on_own.probe()

    async def reads() -> bool:
        try:
            async with on_own.reader() as reader:
                return await reader.revision("gpu") == story.revision
        except StoreFailed:
            return False

    await eventually(reads, "a reader reads again")
    story.grant(("node-1", (0,)))
    story.commit()


async def test_a_database_that_never_answers_is_not_waited_for(
    own: Postgres, on_own: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(on_own).begin(node_1=8)
    async with on_own.reader() as reader:
        assert await reader.revision("gpu") == 2
    await on_own.probe()
    monkeypatch.setattr(writer_pool, "ANSWER_MARGIN_S", 0.5 - BOUND_S)
    monkeypatch.setattr("blockyard_server.store.postgres.store.READ_TIMEOUT_S", 0.5)
    own.freeze()
    with pytest.raises(StoreFailed):
        await asyncio.to_thread(revision_of, on_own)
    with pytest.raises(StoreFailed):
        async with on_own.reader() as reader:
            await reader.revision("gpu")
    with pytest.raises(StoreFailed):
        await on_own.probe()
    own.thaw()
    monkeypatch.undo()
    assert revision_of(on_own) == story.revision


def test_a_connection_forgets_the_statements_that_were_not_prepared(postgres_store: PostgresStore) -> None:
    line = postgres_store._pool.take()
    line.send([("SELECT 1", ()), ("SELECT 2", ()), ("SELECT 3", ())])
    with pytest.raises(psycopg.errors.DivisionByZero):
        line.send([("SELECT 4", ()), ("SELECT 1 / $1::int", (0,)), ("SELECT 5", ()), ("SELECT 6", ())])
    for _ in range(2):
        answers = line.send([(f"SELECT {number}", ()) for number in (6, 1, 5, 7, 4, 2, 3)])
        assert [answer.rows() for answer in answers] == [[(number,)] for number in (6, 1, 5, 7, 4, 2, 3)]
    postgres_store._pool.give_back(line)


def test_a_connection_that_was_interrupted_is_given_up(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(story.store, PostgresStore)

    def interrupted(_pipe: Pipe, _expected: int) -> list[PGresult]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Pipe, "_results", interrupted)
        with pytest.raises(KeyboardInterrupt), story.store.transaction("gpu"):
            pass
    assert revision_of(story.store) == story.revision


@pytest.mark.parametrize(
    ("state", "before", "at_commit"),
    [
        (psycopg.errors.SerializationFailure, StoreConflict, StoreConflict),
        (psycopg.errors.DeadlockDetected, StoreConflict, StoreConflict),
        (psycopg.errors.UniqueViolation, InvariantBroken, InvariantBroken),
        (psycopg.errors.RaiseException, StoreFailed, CommitUnknown),
        (psycopg.errors.LockNotAvailable, StoreFailed, StoreFailed),
        (psycopg.errors.ReadOnlySqlTransaction, StoreFailed, StoreFailed),
        (psycopg.errors.QueryCanceled, StoreFailed, CommitUnknown),
        (psycopg.errors.AdminShutdown, StoreFailed, CommitUnknown),
        (psycopg.errors.StatementCompletionUnknown, StoreFailed, CommitUnknown),
        (psycopg.OperationalError, StoreFailed, CommitUnknown),
    ],
)
def test_what_an_error_means(state: type[psycopg.Error], before: type[Exception], at_commit: type[Exception]) -> None:
    error = state("said so")
    assert type(failure_of("gpu", error)) is before
    assert type(commit_failure_of("gpu", error)) is at_commit
