"""The names of prepared statements: no two connections have one in common, whoever makes it up."""

from contextlib import closing

import pytest

from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.postgres.target import Target
from blockyard_server.store.postgres.watchdog import Watchdog
from blockyard_server.store.postgres.writer_pool import WriterConnection

NAMES = "SELECT name FROM pg_prepared_statements"


def test_two_connections_have_no_name_of_a_statement_in_common(database: str) -> None:
    """Behind a pooler that mixes their sessions up, one would execute what the other one has prepared."""
    target = Target(database, Watchdog())
    with closing(WriterConnection(target)) as one, closing(WriterConnection(target)) as other:
        ones, others = ({row[0] for row in line.send([(NAMES, ())])[0].rows()} for line in (one, other))
    assert len(ones) == len(others) > 1
    assert not ones & others


@pytest.mark.parametrize("kind", ["news", "reader"])
async def test_connections_that_are_not_the_writers_prepare_nothing(postgres_store: PostgresStore, kind: str) -> None:
    """The driver's own names are the same on every connection."""
    for _ in range(10):
        await postgres_store.probe()
        async with postgres_store.reader() as reader:
            await reader.revision("gpu")
    if kind == "news":
        speaking = postgres_store._notifications._sender
        assert speaking is not None
        assert await (await speaking.execute(NAMES)).fetchall() == []
    else:
        async with postgres_store.reader() as reader:
            assert (await reader._connection.exec_driver_sql(NAMES)).all() == []
