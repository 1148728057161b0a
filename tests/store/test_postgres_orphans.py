"""What is left of a server that is gone: its sessions at the database end, with what they have locked."""

from contextlib import closing
from typing import Final

import pytest

from blockyard_server.store.postgres import writer_pool
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.postgres.target import Target
from blockyard_server.store.postgres.watchdog import Watchdog
from blockyard_server.store.postgres.writer_pool import WriterConnection
from tests.harness.locking import is_locked_by_it, locking
from tests.harness.patience import eventually
from tests.store.story import Story

PATIENCE_S: Final = 20.0
"""How long the next one waits for the lock: far shorter than the statement, and far longer than it has to."""


async def test_a_server_that_is_killed_in_a_long_statement_keeps_no_lock(
    database: str, postgres_store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = Story(postgres_store).begin(node_1=8)
    monkeypatch.setattr(writer_pool, "LOCK_TIMEOUT_S", PATIENCE_S)
    monkeypatch.setattr(writer_pool, "STATEMENT_TIMEOUT_S", 2 * PATIENCE_S)
    postgres_store._pool.close_idle()  # the next connection has these limits

    async def is_locked() -> bool:
        return is_locked_by_it(database)

    with locking(database, "gpu") as server:
        await eventually(is_locked, "the other server is in the middle of its statement")
        server.kill()
        server.wait()
        assert await is_locked(), "it was over already"
        story.grant(("node-1", (0,)))
        story.commit()
        assert not await is_locked()


def test_a_session_looks_whether_its_server_is_still_there(database: str) -> None:
    """The database's system asks a machine that says nothing, and gives up one that does not answer."""
    with closing(WriterConnection(Target(database, Watchdog()))) as line:
        found = line.send(
            [("SELECT name, setting FROM pg_settings WHERE name LIKE 'tcp%' OR name LIKE 'client_conn%'", ())]
        )
        settings = found[0].rows()
    assert {row[0]: row[1] for row in settings} == {
        "client_connection_check_interval": "1000",
        "tcp_keepalives_idle": "2",
        "tcp_keepalives_interval": "1",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "5000",
    }


def test_a_database_that_cannot_look_serves_all_the_same(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_pool, "NO_ORPHAN", "SELECT set_config('client_connection_check_interval', '-1', false)")
    with closing(WriterConnection(Target(database, Watchdog()))) as line:
        assert line.send([("SELECT 1", ())])[0].rows() == [(1,)]
