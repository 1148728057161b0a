"""What PostgreSQL itself refuses, whatever program speaks to it: the breaks of SQLite's suite, and its own.

Where a guard can be taken away, the same statement is then let through: so it was this guard that refused it.
"""

# Plain SQL is what this file is about; nothing in it comes from outside.

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from blockyard_server.domain.retention import FleetAge
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.postgres.triggers import POSTGRES_FUNCTIONS, POSTGRES_ROW_BY_ROW, POSTGRES_TRIGGERS
from tests.harness.postgres import Postgres
from tests.store.story import Story
from tests.store.test_sqlite_guards import (
    ALSO_GUARDED_BY_CHECKS,
    ALSO_GUARDED_BY_KEYS,
    BREAKS,
    CHECKS,
    ENDED,
    HELD,
    KEYS,
    OTHER,
    Break,
    _hold,
)

Connection = psycopg.Connection[tuple[object, ...]]

SAID_OTHERWISE = {
    "UNIQUE constraint failed": "violates unique constraint",
    "FOREIGN KEY": "violates foreign key constraint",
    "cannot store TEXT value in INTEGER column": "invalid input syntax for type integer",
}
"""What PostgreSQL says for what SQLite says. The rest is in the names of constraints and the texts of triggers."""

OWN = {
    "held blocks that all go uncounted": Break("TRUNCATE held_blocks", "freed one by one", "held_blocks_stay"),
    "a journal that all goes": Break("TRUNCATE journal", "only below", "journal_stays_whole"),
    "allocations that all go": Break("TRUNCATE allocations CASCADE", "freed one by one", "held_blocks_stay"),
}
BY_TRIGGERS = {
    "a block of an unknown instance": replace(
        BREAKS["a block of an unknown instance"], message="not one of its instance", guard="held_blocks_counted"
    ),
    "an instance that goes while a block is held": replace(
        BREAKS["an instance that goes while a block is held"], message="stays", guard="instances_stay_while_held"
    ),
    "an instance that is renamed while a block is held": Break(
        "UPDATE instances SET instance = 'node-3' WHERE instance = 'node-1'",
        "keeps its name",
        "instances_keep_their_names",
    ),
    "instances that all go": Break("TRUNCATE instances", "deleted one by one", "instances_stay"),
}
"""What a foreign key guards on SQLite."""
ALL = BREAKS | OWN | BY_TRIGGERS

FOREIGN_KEYS = (
    ("held_blocks", "fk_held_blocks_live_allocation"),
    ("instances", "fk_instances_fleet"),
    ("fleet_ages", "fk_fleet_ages_fleet"),
)


@pytest.fixture(scope="module")
def written(postgres: Postgres) -> Iterator[str]:
    """A database with two instances and two allocations, made once."""
    url = postgres.fresh_database()
    store = PostgresStore(url)
    store.open()
    story = Story(store).begin(node_1=8, node_2=8)
    assert story.grant(("node-1", (0, 1))) == HELD
    assert story.grant(("node-1", (2,))) == ENDED
    story.release(ENDED)
    story.commit()
    other = Story(store, "other").begin(alone=2, shared=8)
    owner = other.grant(("alone", (0, 1)), exclusive=("alone",))
    assert other.grant(("shared", (0,))) == OTHER
    other.change("alone", 8)
    other.commit()
    assert owner < OTHER
    with store.transaction("gpu") as transaction:
        transaction.set_age(FleetAge(5))
    asyncio.run(store.close())
    yield url
    postgres.drop(url)


@pytest.fixture
def db(written: str) -> Iterator[Connection]:
    """A connection to it, as another program has one, in a transaction that is rolled back."""
    with psycopg.connect(written) as connection:
        yield connection
        connection.rollback()


def run(db: Connection, statement: str) -> int:
    """How many rows it changed; TRUNCATE does not say."""
    done = db.execute(statement.replace("x'00'", r"'\x00'").encode())
    return 1 if statement.startswith("TRUNCATE") else done.rowcount


@pytest.mark.parametrize("name", ALL)
def test_the_database_refuses(db: Connection, name: str) -> None:
    message = SAID_OTHERWISE.get(ALL[name].message, ALL[name].message)
    with pytest.raises((psycopg.IntegrityError, psycopg.errors.InvalidTextRepresentation), match=message):
        run(db, ALL[name].statement)


@pytest.mark.parametrize("name", [name for name, breaking in ALL.items() if breaking.guard])
def test_without_its_guard_the_database_lets_through(db: Connection, name: str) -> None:
    breaking = ALL[name]
    if breaking.guard in POSTGRES_TRIGGERS:
        table = POSTGRES_TRIGGERS[breaking.guard].split(" ON ")[1].split()[0]
        run(db, f"DROP TRIGGER {breaking.guard} ON {table}")
    if breaking.guard == KEYS or name in ALSO_GUARDED_BY_KEYS:
        for table, key in FOREIGN_KEYS:
            run(db, f"ALTER TABLE {table} DROP CONSTRAINT {key}")
    if breaking.guard == CHECKS or name in ALSO_GUARDED_BY_CHECKS:
        check = breaking.message if breaking.guard == CHECKS else "ck_instances_busy_blocks"
        table = next(table for table in TABLES if check.startswith(f"ck_{table}_"))
        run(db, f"ALTER TABLE {table} DROP CONSTRAINT {check}")
        if name == "a held block that is not live":
            run(db, "ALTER TABLE held_blocks DROP CONSTRAINT fk_held_blocks_live_allocation")
    assert run(db, breaking.statement) > 0


TABLES = ("fleets", "instances", "allocations", "held_blocks", "tokens", "journal", "fleet_ages")


def test_every_trigger_that_refuses_is_broken_here() -> None:
    only_counts = {"held_blocks_uncounted"}
    broken = {breaking.guard for breaking in ALL.values()} - {KEYS, CHECKS, ""}
    assert broken == POSTGRES_TRIGGERS.keys() - only_counts


def test_every_check_is_broken_here(db: Connection) -> None:
    written = {name for (name,) in db.execute("SELECT conname FROM pg_constraint WHERE contype = 'c'")}
    # An order that is below 1 was refused as one that goes down.
    unreachable = {"ck_fleets_revision", "ck_fleets_next_order"}
    ours = {name for name in written if str(name).startswith("ck_")}
    assert ours - unreachable == {breaking.message for breaking in BREAKS.values() if breaking.guard == CHECKS}


@pytest.mark.parametrize("counting", ["each statement", "each row"])
def test_the_counter_moves_with_the_rows_whoever_writes_them(db: Connection, counting: str) -> None:
    if counting == "each row":
        for name in POSTGRES_ROW_BY_ROW.keys() & POSTGRES_FUNCTIONS.keys():
            run(db, f"DROP FUNCTION {name} CASCADE")
        for text in POSTGRES_ROW_BY_ROW.values():
            run(db, text)

    def counters() -> list[tuple[object, ...]]:
        return db.execute(
            "SELECT instance, busy_blocks FROM instances WHERE fleet = 'gpu' ORDER BY instance"
        ).fetchall()

    assert counters() == [("node-1", 2), ("node-2", 0)]
    run(db, f"{_hold(7, HELD, 'node-2')}, ('gpu', 'node-1', 7, {HELD}, 1), ('gpu', 'node-2', 6, {HELD}, 1)")
    assert counters() == [("node-1", 3), ("node-2", 2)]
    run(db, "DELETE FROM held_blocks WHERE block = 7")
    assert counters() == [("node-1", 2), ("node-2", 1)]
    run(db, "DELETE FROM held_blocks")
    assert counters() == [("node-1", 0), ("node-2", 0)]
    with pytest.raises(psycopg.IntegrityError, match="not one of its instance"):
        run(db, _hold(8, HELD))


def test_the_journal_may_be_deleted_up_to_the_compacted_revision(db: Connection) -> None:
    run(db, "UPDATE fleets SET compacted_revision = 2 WHERE fleet = 'gpu'")
    assert run(db, "DELETE FROM journal WHERE fleet = 'gpu' AND revision <= 2") == 2
    with pytest.raises(psycopg.IntegrityError, match="only below"):
        run(db, "DELETE FROM journal WHERE revision = 3")


def test_every_primary_key_and_foreign_key_begins_with_the_fleet(db: Connection) -> None:
    keys = db.execute(
        "SELECT conrelid::regclass::text, contype::text, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype IN ('p', 'u', 'f') AND connamespace = 'public'::regnamespace"
    ).fetchall()
    # These are of the database, and not of a fleet.
    others = {"alembic_version", "schema_version", "servers", "origin"}
    ours = [(table, str(definition)) for table, _, definition in keys if table not in others]
    assert len(ours) == len(TABLES) + 1 + len(FOREIGN_KEYS)
    for _, definition in ours:
        assert all(part.startswith("fleet") for part in definition.split("(")[1:])


def test_names_are_compared_by_bytes(db: Connection) -> None:
    columns = db.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        " AND column_name IN ('fleet', 'instance', 'holder', 'caller', 'token') AND collation_name IS DISTINCT FROM 'C'"
    ).fetchall()
    assert columns == []
