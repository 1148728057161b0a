"""A database of an earlier schema, with data in it, is migrated at the start, and nothing of it is lost."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from alembic import command
from sqlalchemy import URL, Connection, create_engine, event
from sqlalchemy.pool import NullPool

from blockyard_server.domain.retention import FleetAge
from blockyard_server.engine.store_protocol import Store
from blockyard_server.store.migrate import OLDEST_SERVER_TABLE, _config
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.sqlite.store import SqliteStore
from tests.conftest import PostgresOf
from tests.harness.sessions import version_of
from tests.store.conftest import STORES
from tests.store.story import Story

WRITTEN = """
INSERT INTO fleets (fleet, revision, next_order, deleted, labels, default_placement_strategy, config_revision,
  create_time_us, update_time_us) VALUES ('gpu', 6, 2, 0, '{}', 'BEST_FIT', 1, 1, 1);
INSERT INTO instances VALUES ('gpu', 'node-1', 1, 8, 0, '{}', '{}', 'ACTIVE', 2, 1, 1);
INSERT INTO allocations VALUES
  ('gpu', 3, 1, 'HELD', 'h', 'default', 'held', '[["node-1",[0,1]]]', NULL, NULL, 1, NULL, NULL, '{}', 3),
  ('gpu', 4, 0, 'RELEASED', 'h', 'default', 'ended', '[["node-1",[2]]]', NULL, NULL, 1, NULL, 5, '{}', 5);
INSERT INTO held_blocks (fleet, instance, block, allocation) VALUES ('gpu', 'node-1', 0, 3), ('gpu', 'node-1', 1, 3);
"""
"""What release 0003 wrote: one allocation is held, one has ended, and one token was cancelled at revision 6."""
TOKENS = "INSERT INTO tokens VALUES ('gpu', 'default', ?, ?, ?, ?, 1)"
FLEET: dict[str, object] = {
    "labels": {},
    "default_placement_strategy": "BEST_FIT",
    "default_ttl_us": None,
    "max_ttl_us": None,
}
INSTANCE = {"order": 1, "total_blocks": 8, "labels": {}, "resources": {}, "state": "ACTIVE"}
NO_LEASE: dict[str, object] = {"ttl_us": None, "expire_time_us": None, "annotations": {}}
HELD = {"caller": "default", "token": "held", "fingerprint": "00", "placements": [["node-1", [0, 1]]], **NO_LEASE}
ENDED = {"caller": "default", "token": "ended", "fingerprint": "00", "placements": [["node-1", [2]]], **NO_LEASE}
EVENTS = (
    (1, "FLEET_CREATED", None, None, None, json.dumps(FLEET)),
    (2, "INSTANCE_CREATED", None, "node-1", None, json.dumps(INSTANCE)),
    (3, "GRANTED", 3, None, "h", json.dumps(HELD)),
    (4, "GRANTED", 4, None, "h", json.dumps(ENDED)),
    (5, "RELEASED", 4, None, "h", '{"freed":[["node-1",[2]]],"left":[]}'),
    (6, "TOKEN_CANCELLED", None, None, None, '{"caller":"default","token":"cancelled"}'),
)


def _write(execute: Callable[[str, tuple[object, ...]], object]) -> None:
    for statement in WRITTEN.split(";\n")[:-1]:
        execute(statement, ())
    for row in (("held", 3, b"\0", 3), ("ended", 4, b"\0", 4), ("cancelled", None, b"", 6)):
        execute(TOKENS, row)
    for row_of_event in EVENTS:
        execute("INSERT INTO journal VALUES ('gpu', ?, 1, ?, ?, ?, ?, ?)", row_of_event)


def _to_0003(connection: Connection) -> None:
    config = _config()
    config.attributes["connection"] = connection
    config.attributes["version_table"] = OLDEST_SERVER_TABLE
    command.upgrade(config, "0003")


@pytest.fixture(params=STORES)
def upgraded(request: pytest.FixtureRequest, tmp_path: Path, postgres_of: PostgresOf) -> Store:
    """A store on a database that was written at schema 0003."""
    release = STORES[request.param]
    if release is None:
        path = tmp_path / "blockyard.db"
        url = URL.create("sqlite", database=str(path))
        engine = create_engine(url, connect_args={"isolation_level": None}, poolclass=NullPool)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        with engine.begin() as connection:
            _to_0003(connection)
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            _write(db.execute)
        return SqliteStore(path)
    database = postgres_of(release).fresh_database()
    assert version_of(database).startswith(f"{release.major}.")
    engine = create_engine(database.replace("postgresql://", "postgresql+psycopg://"), poolclass=NullPool)
    with engine.begin() as connection:
        _to_0003(connection)
    with psycopg.connect(database) as pg:
        _write(lambda statement, row: pg.execute(statement.replace("?", "%s").encode(), row))
    return PostgresStore(database)


def test_an_older_database_is_migrated_with_what_is_in_it(upgraded: Store) -> None:
    upgraded.open()
    with upgraded.transaction("gpu") as transaction:
        assert transaction.age() == FleetAge(), "what ended before the upgrade is kept for its retention from now on"
        assert [(row.busy, row.record.exclusive_to) for row in transaction.load_instances()] == [(0b11, None)]
        assert [a.exclusive for a in transaction.allocations([3, 4]).values()] == [(), ()]
        assert [event.revision for event in transaction.events_after(0, 10)] == [1, 2, 3, 4, 5, 6]
    with upgraded.transaction("gpu") as transaction:
        assert transaction.prune(4, 10) == 0
    with upgraded.transaction("gpu") as transaction:
        assert transaction.prune(6, 10) == 3
    story = Story(upgraded)
    story.revision = 6
    story.grant(("node-1", (2,)))
    story.commit()
    asyncio.run(upgraded.close())
