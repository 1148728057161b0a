"""What the database itself refuses, whatever program speaks to it: each guard is broken with plain SQL.

Where a guard can be taken away, the same statement is then let through: so it was this guard that refused it.
"""

# Plain SQL is what this file is about; nothing in it comes from outside.
# ruff: noqa: S608

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from blockyard_server.domain.retention import FleetAge
from blockyard_server.store.sqlite.store import SqliteStore
from blockyard_server.store.sqlite.triggers import SQLITE_TRIGGERS
from tests.store.story import Story

HELD, ENDED = 4, 5
"""The ids of the two allocations of `db`: the first has blocks 0 and 1 of node-1, the second had block 2."""
OTHER = 5
"""A live allocation of the fleet `other`, in which another one holds the instance `alone` exclusively."""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed data file with two instances and two allocations, made once."""
    store = SqliteStore(tmp_path_factory.mktemp("guards") / "blockyard.db")
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
    return store.path


@pytest.fixture
def db(written: Path, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a copy of the file, as another program has it."""
    with closing(sqlite3.connect(shutil.copy(written, tmp_path), isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection


@dataclass(frozen=True)
class Break:
    """A statement that must be refused with `message`, and what guards against it.

    `guard` is the trigger's name, `foreign_keys` or `ignore_check_constraints` (the pragma that lifts it), or "" for
    what SQLite cannot lift: uniqueness and strict types.
    """

    statement: str
    message: str
    guard: str = ""


def _hold(block: int, allocation: int, instance: str = "node-1", live: int = 1) -> str:
    return f"INSERT INTO held_blocks VALUES ('gpu', '{instance}', {block}, {allocation}, {live})"


CHECKS, KEYS = "ignore_check_constraints", "foreign_keys"

BREAKS = {
    "two holders of one block": Break(_hold(0, HELD), "UNIQUE constraint failed"),
    "a token for two grants": Break(
        f"INSERT INTO tokens VALUES ('gpu', 'default', 'token-{HELD}', 9, x'00', 9, 9)", "UNIQUE constraint failed"
    ),
    "two events at one revision": Break(
        "INSERT INTO journal VALUES ('gpu', 1, 1, 'FLEET_CREATED', NULL, NULL, NULL, '{}')", "UNIQUE constraint failed"
    ),
    "two instances at one place in the order": Break(
        "UPDATE instances SET instance_order = 1 WHERE instance = 'node-2'", "UNIQUE constraint failed"
    ),
    "text for a number": Break(
        "UPDATE instances SET total_blocks = 'many'", "cannot store TEXT value in INTEGER column"
    ),
    "a block of an ended allocation": Break(_hold(5, ENDED), "FOREIGN KEY", KEYS),
    "a block of an unknown allocation": Break(_hold(5, 99), "FOREIGN KEY", KEYS),
    "a block of an unknown instance": Break(_hold(5, HELD, "node-9"), "FOREIGN KEY", KEYS),
    "an end before the blocks are free": Break(
        f"UPDATE allocations SET live = 0, state = 'RELEASED', end_time_us = 1 WHERE allocation = {HELD}",
        "FOREIGN KEY",
        KEYS,
    ),
    "an instance that goes while a block is held": Break(
        "DELETE FROM instances WHERE instance = 'node-1'", "FOREIGN KEY", KEYS
    ),
    "an instance of an unknown fleet": Break(
        "INSERT INTO instances VALUES ('cpu', 'node-1', 1, 8, 0, '{}', '{}', 'ACTIVE', 1, 1, 1, NULL, '{}')",
        "FOREIGN KEY",
        KEYS,
    ),
    "a negative block": Break(_hold(-1, HELD), "ck_held_blocks_block", CHECKS),
    "a held block that is not live": Break(_hold(5, ENDED, live=0), "ck_held_blocks_live", CHECKS),
    "more busy blocks than there are": Break(
        "UPDATE instances SET busy_blocks = 9", "ck_instances_busy_blocks", CHECKS
    ),
    "fewer busy blocks than none": Break(
        "UPDATE instances SET busy_blocks = busy_blocks - 3", "ck_instances_busy_blocks", CHECKS
    ),
    "an instance without blocks": Break(
        "UPDATE instances SET total_blocks = 0 WHERE instance = 'node-2'", "ck_instances_total_blocks", CHECKS
    ),
    "an instance of too many blocks": Break(
        "UPDATE instances SET total_blocks = 4097", "ck_instances_total_blocks", CHECKS
    ),
    "an unknown state of an instance": Break("UPDATE instances SET state = 'BUSY'", "ck_instances_state", CHECKS),
    "a place before the first": Break(
        "UPDATE instances SET instance_order = 0 WHERE instance = 'node-1'", "ck_instances_instance_order", CHECKS
    ),
    "a live allocation in an ended state": Break(
        f"UPDATE allocations SET state = 'EXPIRED' WHERE allocation = {HELD}", "ck_allocations_state", CHECKS
    ),
    "an ended allocation without a time": Break(
        "INSERT INTO allocations VALUES"
        " ('gpu', 7, 0, 'RELEASED', 'h', 'c', 't', '[]', NULL, NULL, 1, NULL, NULL, '{}', 7, NULL)",
        "ck_allocations_state",
        CHECKS,
    ),
    "half a lease": Break(
        f"UPDATE allocations SET ttl_us = 1 WHERE allocation = {HELD}", "ck_allocations_lease", CHECKS
    ),
    "a change before the grant": Break(
        f"UPDATE allocations SET revision = 3 WHERE allocation = {HELD}", "ck_allocations_revision", CHECKS
    ),
    "an allocation without a revision": Break(
        "INSERT INTO allocations VALUES"
        " ('gpu', 0, 1, 'HELD', 'h', 'c', 't', '[]', NULL, NULL, 1, NULL, NULL, '{}', 0, NULL)",
        "ck_allocations_allocation",
        CHECKS,
    ),
    "a fleet half deleted": Break("UPDATE fleets SET deleted = 2", "ck_fleets_deleted", CHECKS),
    "an unknown strategy": Break(
        "UPDATE fleets SET default_placement_strategy = 'LAST_FIT'", "ck_fleets_strategy", CHECKS
    ),
    "a lease of no length": Break("UPDATE fleets SET default_ttl_us = 0", "ck_fleets_default_ttl", CHECKS),
    "a longest lease of no length": Break("UPDATE fleets SET max_ttl_us = 0", "ck_fleets_max_ttl", CHECKS),
    "a journal compacted beyond its end": Break(
        "UPDATE fleets SET compacted_revision = revision + 1", "ck_fleets_compacted_revision", CHECKS
    ),
    "a fleet half halted": Break("UPDATE fleets SET halted = 2", "ck_fleets_halted", CHECKS),
    "an event before the first": Break(
        "INSERT INTO journal VALUES ('gpu', 0, 1, 'FLEET_CREATED', NULL, NULL, NULL, '{}')",
        "ck_journal_revision",
        CHECKS,
    ),
    "a block that the instance does not have": Break(_hold(8, HELD), "not one of its instance", "held_blocks_counted"),
    "a block of an instance that another allocation holds exclusively": Break(
        f"INSERT INTO held_blocks VALUES ('other', 'alone', 5, {OTHER}, 1)",
        "holds the instance exclusively",
        "held_blocks_counted",
    ),
    "a held block that changes hands": Break(
        "UPDATE held_blocks SET block = 7 WHERE block = 0", "never changed", "held_blocks_unchanging"
    ),
    "an instance that is born busy": Break(
        "INSERT INTO instances VALUES ('gpu', 'node-3', 3, 8, 1, '{}', '{}', 'ACTIVE', 1, 1, 1, NULL, '{}')",
        "has busy blocks",
        "instances_begin_idle",
    ),
    "an instance that shrinks below a held block": Break(
        "UPDATE instances SET total_blocks = 1 WHERE instance = 'node-1'",
        "would go is held",
        "instances_keep_held_blocks",
    ),
    "an ended allocation that lives again": Break(
        f"UPDATE allocations SET live = 1, state = 'HELD', end_time_us = NULL WHERE allocation = {ENDED}",
        "has ended",
        "allocations_end_once",
    ),
    "a live allocation that is forgotten": Break(
        f"DELETE FROM allocations WHERE allocation = {HELD}", "never forgotten", "allocations_stay_while_live"
    ),
    "a revision that goes down": Break(
        "UPDATE fleets SET revision = revision - 1", "never goes down", "fleets_go_forward"
    ),
    "an order that goes down": Break("UPDATE fleets SET next_order = 1", "never goes down", "fleets_go_forward"),
    "a fleet's row that goes": Break("DELETE FROM fleets", "never deleted", "fleets_stay"),
    "an age that goes down": Break("UPDATE fleet_ages SET age_us = 4", "only ever grows", "fleet_ages_grow"),
    "an age that stands still": Break("UPDATE fleet_ages SET marks = '[]'", "only ever grows", "fleet_ages_grow"),
    "an age of nothing": Break("INSERT INTO fleet_ages VALUES ('other', 0, '[]')", "ck_fleet_ages_age", CHECKS),
    "the age of an unknown fleet": Break("INSERT INTO fleet_ages VALUES ('cpu', 5, '[]')", "FOREIGN KEY", KEYS),
    "an event that changes": Break("UPDATE journal SET body = '{}'", "never changed", "journal_unchanging"),
    "an event that goes": Break("DELETE FROM journal WHERE revision = 1", "only below", "journal_stays"),
}

ALSO_GUARDED_BY_KEYS = {"a fleet's row that goes", "a live allocation that is forgotten"}
ALSO_GUARDED_BY_CHECKS = {"an instance that shrinks below a held block"}


@pytest.mark.parametrize("name", BREAKS)
def test_the_database_refuses(db: sqlite3.Connection, name: str) -> None:
    breaking = BREAKS[name]
    with pytest.raises(sqlite3.IntegrityError, match=breaking.message):
        db.execute(breaking.statement)


@pytest.mark.parametrize("name", [name for name, breaking in BREAKS.items() if breaking.guard])
def test_without_its_guard_the_database_lets_through(db: sqlite3.Connection, name: str) -> None:
    breaking = BREAKS[name]
    if breaking.guard in SQLITE_TRIGGERS:
        db.execute(f"DROP TRIGGER {breaking.guard}")
    if breaking.guard == KEYS or name in ALSO_GUARDED_BY_KEYS:
        db.execute("PRAGMA foreign_keys = OFF")
    if breaking.guard == CHECKS or name in ALSO_GUARDED_BY_CHECKS:
        db.execute("PRAGMA ignore_check_constraints = ON")
    assert db.execute(breaking.statement).rowcount > 0


def test_every_trigger_that_refuses_is_broken_here() -> None:
    only_counts = {"held_blocks_uncounted"}
    assert {breaking.guard for breaking in BREAKS.values()} - {KEYS, CHECKS, ""} == SQLITE_TRIGGERS.keys() - only_counts


def test_every_check_is_broken_here(db: sqlite3.Connection) -> None:
    tables = " ".join(row[0] for row in db.execute("SELECT sql FROM sqlite_schema WHERE type = 'table'"))
    written = {word for word in tables.replace("(", " ").split() if word.startswith("ck_")}
    # An order that is below 1 was refused as one that goes down.
    unreachable = {"ck_fleets_revision", "ck_fleets_next_order"}
    assert written - unreachable == {breaking.message for breaking in BREAKS.values() if breaking.guard == CHECKS}


def test_the_counter_moves_with_the_rows_whoever_writes_them(db: sqlite3.Connection) -> None:
    def counters() -> list[tuple[str, int]]:
        return db.execute(
            "SELECT instance, busy_blocks FROM instances WHERE fleet = 'gpu' ORDER BY instance"
        ).fetchall()

    assert counters() == [("node-1", 2), ("node-2", 0)]
    db.execute(_hold(7, HELD, "node-2"))
    assert counters() == [("node-1", 2), ("node-2", 1)]
    db.execute("DELETE FROM held_blocks")
    assert counters() == [("node-1", 0), ("node-2", 0)]


def test_the_journal_may_be_deleted_up_to_the_compacted_revision(db: sqlite3.Connection) -> None:
    db.execute("UPDATE fleets SET compacted_revision = 2 WHERE fleet = 'gpu'")
    assert db.execute("DELETE FROM journal WHERE fleet = 'gpu' AND revision <= 2").rowcount == 2
    with pytest.raises(sqlite3.IntegrityError, match="only below"):
        db.execute("DELETE FROM journal WHERE revision = 3")
    with pytest.raises(sqlite3.IntegrityError, match="never goes down"):
        db.execute("UPDATE fleets SET compacted_revision = 1")


def test_every_table_is_strict_and_begins_with_the_fleet(db: sqlite3.Connection) -> None:
    tables = db.execute("SELECT name, strict, wr FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    ours = {
        name: (strict, clustered)
        for name, strict, clustered in tables
        if name not in {"alembic_version", "schema_version", "sqlite_schema"}
    }
    assert ours == dict.fromkeys(
        ["fleets", "instances", "allocations", "held_blocks", "tokens", "journal", "fleet_ages", "servers", "origin"],
        (1, 1),
    )
    for table in ours.keys() - {"servers", "origin"}:  # these are of the database, and not of a fleet
        first = db.execute(f"SELECT name FROM pragma_table_info('{table}') WHERE pk = 1").fetchone()
        assert first == ("fleet",)
