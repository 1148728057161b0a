"""A server that is stopped ends within its grace, whatever is under way: nobody waits without an answer."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

import pytest

from blockyard import CallFailed, Grant, ShuttingDown, StoreUnavailable, operations
from blockyard._fleet_admin import create_fleet, create_instance, get_fleet
from blockyard._ledger import repair, verify
from blockyard_server.engine import ledger
from blockyard_server.engine.verify_snapshot import VerifySnapshot
from blockyard_server.store import slices
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.sqlite import statements
from blockyard_server.store.sqlite.store import SqliteStore
from blockyard_server.store.sqlite.triggers import SQLITE_TRIGGERS
from tests.harness.disturbed_store import DisturbedStore
from tests.harness.in_process import client_of, serving
from tests.harness.journal import check_fleet
from tests.harness.one_shot import OneShotClient

FLEET: Final = "gpu"
GRACE_S: Final = 1.0
"""A drain that waits for what never ends runs into the test's own bound, far beyond this."""
ENDLESS: Final = {
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT ?, x, x FROM n WHERE x < 0",
    "postgres": "SELECT ?::text, 1, 1 FROM pg_sleep(3600)",
}
"""A statement that never gives a row and never ends, with the place of the fleet's name."""
ENDLESS_SLICE: Final = {
    "sqlite": f"{ENDLESS['sqlite']} AND ? = ?",
    "postgres": f"{ENDLESS['postgres']} WHERE ?::text = ?::text",
}
"""The same with the first and the last instance."""

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which database."""
    return str(request.param)


@pytest.fixture
def place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Where the data is, as settings."""
    if kind == "sqlite":
        return {"data": tmp_path / "blockyard.db"}
    return {"database": request.getfixturevalue("database")}


@pytest.fixture
def snapshot_taken(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set once a snapshot was taken to be compared."""
    taken = threading.Event()

    def noting(take: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
        def open_evidence(store: Any, fleet: str) -> Any:
            evidence = take(store, fleet)
            taken.set()
            return evidence

        return open_evidence

    for store in (SqliteStore, PostgresStore):
        monkeypatch.setattr(store, "open_evidence", noting(store.open_evidence))
    return taken


async def until(event: threading.Event) -> None:
    """Returns once it is set."""
    assert await asyncio.to_thread(event.wait, 30)


async def with_fleet(client: OneShotClient) -> None:
    """A fleet with eight blocks."""
    await client.send(create_fleet(FLEET))
    await client.send(create_instance(FLEET, "node-1", total_blocks=8))


async def test_verifies_that_wait_and_the_one_under_way_are_told_that_the_server_stops(
    tmp_path: Path, kind: str, place: dict[str, Any], snapshot_taken: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as server:
        running = await server.enter_async_context(
            serving(tmp_path, drain_grace_s=GRACE_S, audit_interval_s=0, **place)
        )
        async with OneShotClient(running.address) as client:
            await with_fleet(client)
            monkeypatch.setattr(statements, "EVIDENCE_INSTANCES", ENDLESS[kind])
            asked = [asyncio.create_task(client.start(verify(FLEET)).outcome()) for _ in range(8)]
            await until(snapshot_taken)
            await server.aclose()
            outcomes = await asyncio.gather(*asked)
    assert [type(outcome) for outcome in outcomes] == [ShuttingDown] * 8


async def test_a_repair_that_is_still_looking_does_nothing_and_says_so(
    tmp_path: Path, kind: str, place: dict[str, Any], snapshot_taken: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as server:
        running = await server.enter_async_context(
            serving(tmp_path, drain_grace_s=GRACE_S, audit_interval_s=0, **place)
        )
        async with OneShotClient(running.address) as client:
            await with_fleet(client)
            monkeypatch.setattr(statements, "EVIDENCE_INSTANCES", ENDLESS[kind])
            asked = asyncio.create_task(client.start(repair(FLEET, apply=True)).outcome())
            await until(snapshot_taken)
            await server.aclose()
            outcome = await asked
    assert isinstance(outcome, ShuttingDown)
    assert "nothing was done" in str(outcome)


async def test_a_slice_of_the_background_verification_holds_no_stop_up(
    tmp_path: Path,
    kind: str,
    place: dict[str, Any],
    snapshot_taken: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(slices, "HELD_OF_INSTANCES", ENDLESS_SLICE[kind])
    async with (
        serving(tmp_path, drain_grace_s=GRACE_S, audit_interval_s=0.02, **place) as running,
        OneShotClient(running.address) as client,
    ):
        await with_fleet(client)
        await until(snapshot_taken)
    assert not [record.message for record in caplog.records if record.name.endswith(("auditor", "background"))]


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[], None]:
    """Makes a counter wrong behind the server's back, with the guards away."""

    def damage() -> None:
        with closing(sqlite3.connect(tmp_path / "blockyard.db", isolation_level=None)) as db:
            db.execute("BEGIN IMMEDIATE")
            for name in SQLITE_TRIGGERS:
                db.execute(f"DROP TRIGGER {name}")
            db.execute("UPDATE instances SET busy_blocks = 5")
            for text in SQLITE_TRIGGERS.values():
                db.execute(text)
            db.execute("COMMIT")

    return damage


async def test_a_repair_that_has_mended_is_answered_before_it_has_verified(
    tmp_path: Path, damaged: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    verifying = threading.Event()

    def endless(_fleet: str, snapshot: VerifySnapshot) -> None:
        verifying.set()
        try:
            while True:
                list(snapshot.evidence.instances())
        finally:
            snapshot.evidence.close()

    async with AsyncExitStack() as server:
        running = await server.enter_async_context(serving(tmp_path, drain_grace_s=GRACE_S, audit_interval_s=0))
        async with OneShotClient(running.address) as client:
            await with_fleet(client)
            damaged()
            with monkeypatch.context() as patched:
                patched.setattr(ledger, "audit", endless)
                asked = asyncio.create_task(client.start(repair(FLEET, apply=True)).outcome())
                await until(verifying)
                await server.aclose()
                outcome = await asked
    assert isinstance(outcome, ShuttingDown)
    assert "1 corrections were made" in str(outcome)
    async with serving(tmp_path) as running, client_of(running) as again:
        assert (await again.repair(FLEET, apply=True)).corrections == ()
        assert (await again.verify(FLEET)).clean


async def test_a_thousand_reads_that_wait_for_a_connection_are_told_that_the_server_stops(tmp_path: Path) -> None:
    stuck: asyncio.Queue[None] = asyncio.Queue()

    class NoReaders(SqliteStore):
        """Whoever wants to read waits for ever, as behind many slow reads."""

        is_stuck = False

        @asynccontextmanager
        async def reader(self) -> AsyncIterator[Any]:
            if self.is_stuck:
                stuck.put_nowait(None)
                await asyncio.Event().wait()
            async with super().reader() as reader:
                yield reader

    store = NoReaders(tmp_path / "blockyard.db")
    async with AsyncExitStack() as server:
        running = await server.enter_async_context(
            serving(tmp_path, store=store, drain_grace_s=GRACE_S, audit_interval_s=0.02, sweep_interval_s=0.02)
        )
        async with OneShotClient(running.address) as client:
            await with_fleet(client)
            store.is_stuck = True
            asked = [asyncio.create_task(client.start(get_fleet(FLEET)).outcome()) for _ in range(900)]
            for _ in range(900):
                await stuck.get()
            await server.aclose()
            outcomes = await asyncio.gather(*asked)
    assert {type(outcome) for outcome in outcomes} == {ShuttingDown}


async def test_changes_that_no_time_is_left_for_are_refused_and_what_is_under_way_is_not_guessed_about(
    tmp_path: Path,
) -> None:
    store = DisturbedStore(tmp_path / "blockyard.db")
    async with AsyncExitStack() as server:
        running = await server.enter_async_context(serving(tmp_path, store=store, drain_grace_s=GRACE_S))
        async with OneShotClient(running.address) as client:
            await with_fleet(client)
            store.before_commit.close()
            calls = [operations.acquire(FLEET, blocks=1, holder="job", token=f"t-{n}") for n in range(6)]
            first = asyncio.create_task(client.start(calls[0]).outcome())
            await store.before_commit.reached()
            others = [asyncio.create_task(client.start(call).outcome()) for call in calls[1:]]
            await client.send(get_fleet(FLEET))  # sent after them: by now they have all arrived
            stopping = asyncio.create_task(server.aclose())
            outcomes = await asyncio.gather(first, *others)
            assert not stopping.done(), "the transaction that is under way is waited for"
            store.before_commit.open()
            await stopping
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] + [ShuttingDown] * 5
    async with serving(tmp_path) as running, client_of(running) as again:
        journal = await check_fleet(again, FLEET)
        assert set(journal.granted) == {"t-0"}


async def test_what_is_accepted_is_committed_and_answered_while_a_verify_is_given_up(
    tmp_path: Path, snapshot_taken: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DisturbedStore(tmp_path / "blockyard.db")
    async with AsyncExitStack() as server:
        running = await server.enter_async_context(serving(tmp_path, store=store, drain_grace_s=8, audit_interval_s=0))
        async with OneShotClient(running.address) as client:
            await with_fleet(client)
            monkeypatch.setattr(statements, "EVIDENCE_INSTANCES", ENDLESS["sqlite"])
            verified = asyncio.create_task(client.start(verify(FLEET)).outcome())
            await until(snapshot_taken)
            store.before_commit.close()
            calls = [operations.acquire(FLEET, blocks=1, holder="job", token=f"t-{n}") for n in range(6)]
            accepted = [asyncio.create_task(client.start(call).outcome()) for call in calls]
            await store.before_commit.reached()
            await client.send(get_fleet(FLEET))
            stopping = asyncio.create_task(server.aclose())
            assert isinstance(await verified, ShuttingDown)
            store.before_commit.open()
            outcomes: list[Grant | CallFailed] = list(await asyncio.gather(*accepted))
            await stopping
    assert {type(outcome) for outcome in outcomes} == {Grant}
