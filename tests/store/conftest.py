"""Every store by name, each empty and open. A new one joins the suite with one entry in STORES."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from blockyard_server.engine.store_protocol import Store
from blockyard_server.store.postgres import PostgresStore
from blockyard_server.store.sqlite import SqliteStore
from tests.store.story import Story

STORES: dict[str, Callable[[pytest.FixtureRequest], Store]] = {
    "sqlite": lambda request: SqliteStore(request.getfixturevalue("tmp_path") / "blockyard.db"),
    "postgres": lambda request: PostgresStore(request.getfixturevalue("database")),
}


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """An open store. Tests that take it are the ones that every store must pass."""
    made = STORES[request.param](request)
    made.open()
    yield made
    await made.close()


@pytest.fixture
def story(store: Store) -> Story:
    """A fleet `gpu` with node-1 and node-2 of 8 blocks each."""
    return Story(store).begin(node_1=8, node_2=8)


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An open store on SQLite, for what only SQLite does."""
    made = SqliteStore(tmp_path / "blockyard.db")
    made.open()
    yield made
    await made.close()


@pytest.fixture
async def postgres_store(database: str) -> AsyncIterator[PostgresStore]:
    """An open store on PostgreSQL, for what only PostgreSQL does."""
    made = PostgresStore(database)
    made.open()
    yield made
    await made.close()
