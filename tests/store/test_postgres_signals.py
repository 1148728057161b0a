"""What one server says, the others hear; and who could not listen for a while is told to look."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from blockyard_server.store.postgres.notifications import MAX_PAYLOAD_BYTES, payloads
from blockyard_server.store.postgres.store import PostgresStore
from tests.harness.patience import eventually


class Ear:
    """What a store has heard."""

    def __init__(self, store: PostgresStore) -> None:
        self.heard: list[str] = []
        self.task = asyncio.create_task(store.listen(self.heard.append))

    async def hears(self, *fleets: str) -> None:
        """Waits for them, and forgets what it heard."""

        async def there() -> bool:
            return set(fleets) <= set(self.heard)

        await eventually(there, f"{fleets} are heard")
        self.heard.clear()

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def other(database: str) -> AsyncIterator[PostgresStore]:
    """Another server on the same database."""
    made = PostgresStore(database)
    made.open()
    yield made
    await made.close()


async def test_what_one_server_says_the_others_hear_and_it_does_not(
    postgres_store: PostgresStore, other: PostgresStore
) -> None:
    own, theirs = Ear(postgres_store), Ear(other)
    await own.hears("")
    await theirs.hears("")
    await postgres_store.notify(["gpu", "cpu"])
    await theirs.hears("gpu", "cpu")
    await other.notify(["tpu"])
    await own.hears("tpu")
    assert own.heard == theirs.heard == []
    await own.close()
    await theirs.close()


async def test_thousands_of_fleets_are_told_at_once(postgres_store: PostgresStore, other: PostgresStore) -> None:
    ear = Ear(other)
    await ear.hears("")
    fleets = [f"a-fleet-with-a-long-name-{number}" for number in range(2000)]
    await postgres_store.notify(fleets)
    await ear.hears(*fleets)
    await ear.close()


async def test_a_listener_that_lost_its_connection_is_told_to_look(
    postgres_store: PostgresStore, other: PostgresStore, database: str
) -> None:
    ear = Ear(other)
    await ear.hears("")
    with psycopg.connect(database, autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        )
    await ear.hears("")
    await postgres_store.notify(["gpu"])
    await ear.hears("gpu")
    await ear.close()


async def test_a_voice_that_lost_its_connection_finds_another(
    postgres_store: PostgresStore, other: PostgresStore, database: str
) -> None:
    ear = Ear(other)
    await ear.hears("")
    await postgres_store.notify(["gpu"])
    await ear.hears("gpu")
    with psycopg.connect(database, autocommit=True) as db:
        db.execute(
            "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
            " WHERE query LIKE '%pg_notify%' AND pid <> pg_backend_pid() AND datname = current_database()"
        )
    await postgres_store.notify(["cpu"])
    await ear.hears("cpu")
    await ear.close()


def test_a_payload_is_never_longer_than_postgres_takes() -> None:
    fleets = [f"fleet-{number:058}" for number in range(1000)]
    made = list(payloads("me", fleets))
    assert max(map(len, made)) <= MAX_PAYLOAD_BYTES
    assert [fleet for payload in made for fleet in payload.split(" ")[1:]] == fleets
    assert all(payload.startswith("me ") for payload in made)
    assert list(payloads("me", [])) == []
