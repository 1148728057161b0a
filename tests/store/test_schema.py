"""The migrations make exactly the schema that the code describes."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.pool import NullPool

from blockyard_server.store.migrate import OLDEST_SERVER_TABLE, SCHEMA_TABLE, migrate
from blockyard_server.store.schema import metadata
from blockyard_server.store.sqlite.triggers import SQLITE_TRIGGERS


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database that has been migrated from nothing."""
    made = _engine(tmp_path / "migrated.db")
    with made.begin() as connection:
        migrate(connection, "the database")
    yield made
    made.dispose()


def _engine(path: Path) -> Engine:
    made = create_engine(
        URL.create("sqlite", database=str(path)), connect_args={"isolation_level": None}, poolclass=NullPool
    )
    event.listen(made, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return made


def _definitions(engine: Engine) -> dict[str, list[str]]:
    """The clauses of every table, index and trigger, without what white space and quotes make of them.

    Sorted, because SQLite puts the text of a column that is added behind the table's constraints.
    """
    assert engine.url.database is not None
    with closing(sqlite3.connect(engine.url.database)) as db:
        rows = db.execute(
            "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
            " AND name NOT IN ('alembic_version', 'schema_version')"
        )
        return {name: sorted(_clauses(" ".join(sql.replace('"', "").split()))) for name, sql in rows}


def _clauses(definition: str) -> list[str]:
    """A table's text, cut between its columns and constraints; any other text is left whole."""
    head, opening, rest = definition.partition("( ")
    if not (head.startswith("CREATE TABLE") and opening):
        return [definition]
    inside, _, options = rest.rpartition(")")
    clauses, depth = [""], 0
    for letter in inside:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            clauses.append("")
        else:
            clauses[-1] += letter
    return [head, *map(str.strip, clauses), options]


def test_the_migrated_schema_is_the_described_one(engine: Engine, tmp_path: Path) -> None:
    described = _engine(tmp_path / "described.db")
    with described.begin() as connection:
        metadata.create_all(connection)
        for trigger in SQLITE_TRIGGERS.values():
            connection.exec_driver_sql(trigger)
    migrated = _definitions(engine)
    assert migrated == _definitions(described)
    assert {"fleets", "ix_allocations_due", "journal_stays"} <= migrated.keys()
    described.dispose()


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Alembic looks for its table of versions under one name, and here are two."""
    return kind != "table" or name != OLDEST_SERVER_TABLE


def test_alembic_finds_nothing_to_change(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": SCHEMA_TABLE, "include_name": is_ours})
        assert compare_metadata(context, metadata) == []


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    before = _definitions(engine)
    with engine.begin() as connection:
        migrate(connection, "the database")
    assert _definitions(engine) == before


def test_every_trigger_has_the_name_it_is_listed_under() -> None:
    for name, text in SQLITE_TRIGGERS.items():
        assert text.split()[:3] == ["CREATE", "TRIGGER", name]


def test_a_migration_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    made = _engine(tmp_path / "interrupted.db")

    def interrupted() -> None:
        with made.begin() as connection:
            migrate(connection, "the database")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert _definitions(made) == {}
    with made.begin() as connection:
        migrate(connection, "the database")
    assert "journal" in _definitions(made)
