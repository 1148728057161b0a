"""PostgreSQL's planner finds every row by the index that was meant for it.

The writer's statements are asked about with the writer's own settings, before there are any statistics and with them;
the readers' are watched while everything is called once, with the planner told to walk a table only if it must.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from blockyard_server.domain.answers import AllocationFilter, EventFilter
from blockyard_server.store.postgres import statements as postgres_statements
from blockyard_server.store.postgres.store import PostgresStore
from blockyard_server.store.postgres.writer_pool import PLANNING
from tests.store.story import Story

Connection = psycopg.Connection[tuple[str]]


@pytest.fixture
def filled(postgres_store: PostgresStore) -> Story:
    story = Story(postgres_store).begin(**{f"node_{index}": 8 for index in range(64)})
    for index in range(256):
        ttl_us = 1_000_000 if index % 3 else None
        number = story.grant((f"node-{index // 4 % 64}", (index % 4,)), holder=f"job-{index}", ttl_us=ttl_us)
        if index % 2:
            story.release(number)
        story.cancel(f"cancelled-{index}")
    story.commit()
    return story


def plan(db: Connection, statement: str) -> str:
    """The steps in one line, as for any values: so the connection is set up. (15 has no EXPLAIN (GENERIC_PLAN).)"""
    db.execute(f"PREPARE asked AS {statement}".encode())
    found = db.execute("SELECT cardinality(parameter_types)::text FROM pg_prepared_statements WHERE name = 'asked'")
    [(count,)] = found.fetchall()
    values = ", ".join(["NULL"] * int(count))
    rows = db.execute(f"EXPLAIN (COSTS OFF) EXECUTE asked({values})".encode()).fetchall()
    db.execute("DEALLOCATE asked")
    return " ".join(" ".join(row[0].split()) for row in rows)


def named(steps: str) -> str:
    """The steps with the names of the keys `k` in the place of what the planner makes of them."""
    steps = re.sub(r"\(+\$\d\)+::text", "k.fleet", steps)
    return re.sub(r"\(?\b[ku]\.(\w+)(\)::text)?", r"k.\1", steps)


TEXTS = {name: text for name, text in vars(postgres_statements).items() if isinstance(text, str)}
STATEMENTS = [name for name, text in TEXTS.items() if name.isupper() and "$" in text]

MEANT = {
    "HEAD": "Index Scan using pk_fleets on fleets Index Cond: (fleet = $1)",
    "TOKENS": "tokens t Index Cond: ((fleet = k.fleet) AND (caller = k.caller) AND (token = k.token))",
    "ALLOCATIONS": "allocations a Index Cond: ((fleet = k.fleet) AND (allocation = k.allocation))",
    "DUE_LEASES": "ix_allocations_due on allocations Index Cond: ((fleet = $1) AND (expire_time_us <= $2))",
    "NEXT_EXPIRE_TIME": "ix_allocations_due on allocations Index Cond: ((fleet = $1) AND (expire_time_us > $2))",
    "EXTEND_LEASES": "ix_allocations_due on allocations Index Cond: ((fleet = $3) AND ",
    "LOAD_INSTANCES": "pk_held_blocks on held_blocks h Index Cond: ((fleet = i.fleet) AND (instance = i.instance))",
    "EVENTS_AFTER": "pk_journal on journal Index Cond: ((fleet = $1) AND (revision > $2))",
    "FREE_RUN": "held_blocks h Index Cond: ((fleet = k.fleet) AND (instance = k.instance) AND (block >= ",
    "UPDATE_INSTANCE": "on instances t Index Cond: (",  # before there are statistics it may be the other unique index
    "DELETE_INSTANCE": "on instances t Index Cond: (",
    "KEEP_ALLOCATION": "allocations t Index Cond: ((fleet = k.fleet) AND (allocation = k.allocation))",
    "END_ALLOCATION": "allocations t Index Cond: ((fleet = k.fleet) AND (allocation = k.allocation))",
    "ADVANCE_FLEET": "pk_fleets on fleets Index Cond: (fleet = $3)",
    "ENDED_UPTO": "ix_allocations_ended on allocations Index Cond: ((fleet = $1) AND (revision <= $2))",
    "CANCELLED_UPTO": "ix_tokens_cancelled on tokens Index Cond: ((fleet = $1) AND (revision <= $2))",
    "AGE": "pk_fleet_ages on fleet_ages Index Cond: (fleet = $1)",
    "FORGET_TOKEN": "tokens t Index Cond: ((fleet = k.fleet) AND (caller = k.caller) AND (token = k.token))",
    "FORGET_ALLOCATION": "allocations t Index Cond: ((fleet = k.fleet) AND (allocation = k.allocation))",
}
OF_ONE_ROW = {"SET_ORIGIN", "SET_SYSTEM"}
"""Statements on the table that has one row."""


@pytest.mark.parametrize("statistics", ["", "ANALYZE"])
@pytest.mark.usefixtures("filled")
def test_the_writer_finds_every_row_by_the_index_that_is_meant(database: str, statistics: str) -> None:
    with psycopg.connect(database, autocommit=True) as db:
        db.execute(statistics.encode())
        for name, value in PLANNING.items():
            db.execute("SELECT set_config(%s, %s, false)", (name, value))
        plans = {name: plan(db, getattr(postgres_statements, name)) for name in STATEMENTS}
    scans = {name for name, steps in plans.items() if "Seq Scan" in steps or "Materialize" in steps}
    assert scans <= OF_ONE_ROW
    found = {name: named(steps) for name, steps in plans.items()}
    assert {name: found[name] for name, meant in MEANT.items() if meant not in found[name]} == {}


@contextmanager
def watched(store: PostgresStore) -> Iterator[list[str]]:
    """The plan of every statement that readers execute inside of the block."""
    plans: list[str] = []
    assert store._reading is not None
    engine = store._reading.sync_engine
    with psycopg.connect(store._url.conninfo, autocommit=True) as db:
        for setting in ("enable_seqscan", "enable_bitmapscan", "enable_hashjoin", "enable_mergejoin"):
            db.execute("SELECT set_config(%s, 'off', false)", (setting,))

        def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            if statement.startswith("SELECT"):
                rows = db.execute(f"EXPLAIN (COSTS OFF) {statement}".encode(), parameters)
                plans.append(" ".join(" ".join(str(row[0]).split()) for row in rows))

        event.listen(engine, "before_cursor_execute", note)
        yield plans
        event.remove(engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    "where",
    [
        AllocationFilter(),
        AllocationFilter(state="HELD"),
        AllocationFilter(state="EXPIRED"),
        AllocationFilter(holder="job"),
        AllocationFilter(holder="job", state="EXPIRED"),
        AllocationFilter(instance="node-7"),
        AllocationFilter(instance="node-7", holder="job"),
        AllocationFilter(instance="node-7", state="RELEASED"),
    ],
)
async def test_lists_of_allocations_walk_an_index(filled: Story, where: AllocationFilter) -> None:
    assert isinstance(filled.store, PostgresStore)
    with watched(filled.store) as plans:
        async with filled.store.reader() as reader:
            await reader.allocations("gpu", where, after=100, limit=100)
    assert len(plans) >= 2
    assert [steps for steps in plans if "Seq Scan" in steps] == []


async def test_no_reader_scans_a_table(filled: Story) -> None:
    assert isinstance(filled.store, PostgresStore)
    with watched(filled.store) as plans:
        async with filled.store.reader() as reader:
            await reader.has_due_leases("gpu", 1)
            await reader.fleets_with_due_leases(1, 10)
            await reader.fleets_with_past("a", 10)
            await reader.revision("gpu")
            await reader.journal_bounds("gpu")
            await reader.revisions(["gpu"])
            await reader.fleet("gpu")
            await reader.fleets(after="a", limit=10)
            await reader.instance("gpu", "node-1")
            await reader.instances("gpu", after=3, limit=10)
            await reader.snapshot("gpu", full=True, after=3, limit=10, now_us=1)
            await reader.allocation("gpu", filled.revision)
            await reader.events("gpu", EventFilter(("GRANTED",), "job", "node-7"), after=9, limit=10)
    assert len(plans) >= 15
    assert [steps for steps in plans if "Seq Scan" in steps] == []
    for meant in ("ix_allocations_due", "ix_allocations_ended", "ix_tokens_cancelled", "pk_held_blocks", "pk_journal"):
        assert any(f"using {meant} " in steps for steps in plans), meant
