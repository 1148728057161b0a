"""Every store by name, each empty and open: on SQLite, and on each release of PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

import pytest

from blockyard_server.engine.store_protocol import Store
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.sqlite.store import SqliteStore
from tests.conftest import PostgresOf
from tests.harness.models import copied_database, copy_data_file
from tests.harness.postgres import RELEASES, Postgres, Release, usual_release
from tests.harness.sessions import version_of
from tests.memory.store import MemoryStore
from tests.store.story import Story

T = TypeVar("T", SqliteStore, PostgresStore, MemoryStore)

STORES: Final[dict[str, Release | None]] = {"sqlite": None} | {str(release): release for release in RELEASES}
NOT_USUAL: Final = [release for release in RELEASES if release is not usual_release()]
"""`make test` leaves what is the same on one more release of PostgreSQL to `make test-slow`."""

MEMORY: Final = "memory"
ALSO_IN_MEMORY: Final = pytest.mark.parametrize("store", [*STORES, MEMORY], indirect=True)
"""For tests of transactions: the store that the engine is tested with is held to what the real ones do. Its reader is
not, which knows neither pages nor all filters."""


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow) if release in NOT_USUAL else name for name, release in STORES.items()
    ]
)
async def store(request: pytest.FixtureRequest, tmp_path: Path, postgres_of: PostgresOf) -> AsyncIterator[Store]:
    """An open store. Tests that take it are the ones that every store must pass."""
    if request.param == MEMORY:
        async with opened(MemoryStore()) as in_memory:
            yield in_memory
        return
    release = STORES[request.param]
    if release is None:
        copy_data_file(tmp_path / "blockyard.db")
        async with opened(SqliteStore(tmp_path / "blockyard.db")) as made:
            yield made
        return
    running = postgres_of(release)
    url = copied_database(running)
    assert version_of(url).startswith(f"{release.major}.")
    async with opened(PostgresStore(url)) as made:
        yield made
    running.drop(url)


@asynccontextmanager
async def opened(store: T) -> AsyncIterator[T]:
    """The store, open while the block runs."""
    store.open()
    yield store
    await store.close()


@pytest.fixture(
    scope="session",
    params=[pytest.param(release, marks=pytest.mark.slow) if release in NOT_USUAL else release for release in RELEASES],
    ids=str,
)
def postgres(request: pytest.FixtureRequest, postgres_of: PostgresOf) -> Postgres:
    """The newest release and the oldest one that is claimed: what a test here asks of one must hold on both."""
    release: Release = request.param
    running = postgres_of(release)
    assert version_of(running.url()).startswith(f"{release.major}."), "this is not the release that the test names"
    return running


@pytest.fixture
def story(store: Store) -> Story:
    """A fleet `gpu` with node-1 and node-2 of 8 blocks each."""
    return Story(store).begin(node_1=8, node_2=8)


@pytest.fixture
async def sqlite(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An open store on SQLite, for what only SQLite does."""
    copy_data_file(tmp_path / "blockyard.db")
    async with opened(SqliteStore(tmp_path / "blockyard.db")) as made:
        yield made


@pytest.fixture
async def postgres_store(database: str) -> AsyncIterator[PostgresStore]:
    """An open store on PostgreSQL, for what only PostgreSQL does."""
    async with opened(PostgresStore(database)) as made:
        yield made
