"""SQLite's planner finds every row by the index that was meant for it.

The real statements are watched while everything is called once, on a file with enough rows to be wrong about, and the
planner is asked about each of them.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from blockyard_server.domain.answers import AllocationFilter, EventFilter
from blockyard_server.store import repair, slices
from blockyard_server.store.sqlite import statements
from blockyard_server.store.sqlite.store import SqliteStore
from tests.store.story import Story


@pytest.fixture
def filled(sqlite: SqliteStore) -> Story:
    story = Story(sqlite).begin(**{f"node_{index}": 8 for index in range(64)})
    for index in range(256):
        number = story.grant((f"node-{index // 4 % 64}", (index % 4,)), ttl_us=1_000_000 if index % 3 else None)
        if index % 2:
            story.release(number)
        story.cancel(f"cancelled-{index}")
    story.commit()
    return story


def plan(db: sqlite3.Connection, statement: str, parameters: Any) -> list[str]:
    return [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]


SMALL = {
    "SCAN fleets",  # at most limits.MAX_FLEETS rows
    "SCAN origin",  # one row
    "SCAN CONSTANT ROW",  # SELECT EXISTS (…)
    "SCAN k VIRTUAL TABLE INDEX 1:",  # the keys that are looked up
    "SCAN run",  # the blocks of one run, which the statement makes itself
    "SCAN k",  # the numbers of a slice, which the subquery has found by an index
}


STATEMENTS: dict[str, str] = {
    f"{module.__name__.rpartition('.')[2]}.{name}": text
    for module in (statements, slices, repair)
    for name, text in vars(module).items()
    if name.isupper() and isinstance(text, str) and "?" in text
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_no_statement_scans_a_table(filled: Story, name: str) -> None:
    assert isinstance(filled.store, SqliteStore)
    statement = STATEMENTS[name]
    with closing(sqlite3.connect(filled.store.path)) as db:
        steps = plan(db, statement, [None] * statement.count("?"))
    assert [step for step in steps if "SCAN" in step and step not in SMALL] == []


MEANT = {
    "HEAD": "fleets USING PRIMARY KEY (fleet=?)",
    "TOKENS": "t USING PRIMARY KEY (fleet=? AND caller=? AND token=?)",
    "ALLOCATIONS": "a USING PRIMARY KEY (fleet=? AND allocation=?)",
    "DUE_LEASES": "allocations USING INDEX ix_allocations_due (fleet=? AND live=? AND expire_time_us<?)",
    "NEXT_EXPIRE_TIME": "allocations USING COVERING INDEX ix_allocations_due (fleet=? AND live=? AND expire_time_us>?)",
    "EXTEND_LEASES": "allocations USING COVERING INDEX ix_allocations_due (fleet=? AND live=? AND expire_time_us<?)",
    "LOAD_INSTANCES": "h USING PRIMARY KEY (fleet=? AND instance=?)",
    "EVENTS_AFTER": "journal USING PRIMARY KEY (fleet=? AND revision>?)",
    "FREE_RUN": "held_blocks USING PRIMARY KEY (fleet=? AND instance=? AND block>? AND block<?)",
    "KEEP_ALLOCATION": "allocations USING PRIMARY KEY (fleet=? AND allocation=?)",
    "END_ALLOCATION": "allocations USING PRIMARY KEY (fleet=? AND allocation=?)",
    "ADVANCE_FLEET": "fleets USING PRIMARY KEY (fleet=?)",
    "ENDED_UPTO": "allocations USING INDEX ix_allocations_ended (fleet=? AND live=? AND revision<?)",
    "CANCELLED_UPTO": "tokens USING INDEX ix_tokens_cancelled (fleet=? AND revision<?)",
    "AGE": "fleet_ages USING PRIMARY KEY (fleet=?)",
    "FORGET_TOKEN": "tokens USING PRIMARY KEY (fleet=? AND caller=? AND token=?)",
    "COMPACT_FLEET": "fleets USING PRIMARY KEY (fleet=?)",
    "COMPACT_JOURNAL": "journal USING PRIMARY KEY (fleet=? AND revision>? AND revision<?)",
    "FORGET_ALLOCATION": "allocations USING PRIMARY KEY (fleet=? AND allocation=?)",
}

MEANT_OF_SLICES = {
    "slices.INSTANCES_AFTER": "PRIMARY KEY (fleet=? AND instance>?)",
    "slices.HELD_OF_INSTANCES": "PRIMARY KEY (fleet=? AND instance>? AND instance<?)",
    "slices.TOKENS_AFTER": "COVERING INDEX ix_allocations_live (fleet=? AND live=? AND allocation>?)",
    "slices.LIVE_BETWEEN": "COVERING INDEX ix_allocations_live (fleet=? AND live=? AND allocation>? AND allocation<?)",
    "slices.HELD_OF_ALLOCATIONS": (
        "COVERING INDEX ix_held_blocks_allocation (fleet=? AND live=? AND allocation>? AND allocation<?)"
    ),
    "repair.COUNT_HELD": "h USING PRIMARY KEY (fleet=? AND instance=?)",
}


@pytest.mark.parametrize("name", MEANT_OF_SLICES)
def test_a_slice_is_found_by_the_index_that_is_meant(filled: Story, name: str) -> None:
    assert isinstance(filled.store, SqliteStore)
    statement = STATEMENTS[name]
    with closing(sqlite3.connect(filled.store.path)) as db:
        steps = plan(db, statement, [None] * statement.count("?"))
    assert [step for step in steps if step.endswith(MEANT_OF_SLICES[name])], steps
    assert not [step for step in steps if "TEMP B-TREE" in step]


@pytest.mark.parametrize("name", MEANT)
def test_the_writers_hot_statements_use_the_index_that_is_meant(filled: Story, name: str) -> None:
    assert isinstance(filled.store, SqliteStore)
    statement: str = getattr(statements, name)
    with closing(sqlite3.connect(filled.store.path)) as db:
        steps = plan(db, statement, [None] * statement.count("?"))
    assert f"SEARCH {MEANT[name]}" in steps
    assert [step for step in steps if "TEMP B-TREE FOR ORDER BY" in step and name != "DUE_LEASES"] == []


@contextmanager
def watched(store: SqliteStore) -> Iterator[list[list[str]]]:
    """The plan of every statement that readers execute inside of the block."""
    plans: list[list[str]] = []
    assert store._reading is not None
    engine = store._reading.sync_engine
    with closing(sqlite3.connect(store.path)) as db:

        def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            if statement.startswith("SELECT"):
                plans.append(plan(db, statement, parameters))

        event.listen(engine, "before_cursor_execute", note)
        yield plans
        event.remove(engine, "before_cursor_execute", note)


LIVE = "allocations USING COVERING INDEX ix_allocations_live (fleet=? AND live=? AND allocation>?)"
OF_HOLDER = "allocations USING COVERING INDEX ix_allocations_holder (fleet=? AND holder=? AND allocation>?)"
ON_INSTANCE = "held_blocks USING PRIMARY KEY (fleet=? AND instance=?)"


@pytest.mark.parametrize(
    ("where", "meant"),
    [
        (AllocationFilter(), "allocations USING PRIMARY KEY (fleet=? AND allocation>?)"),
        (AllocationFilter(state="HELD"), LIVE),
        (AllocationFilter(state="EXPIRED"), LIVE),
        (AllocationFilter(holder="job"), OF_HOLDER),
        (AllocationFilter(holder="job", state="EXPIRED"), OF_HOLDER),
        (AllocationFilter(instance="node-7"), ON_INSTANCE),
        (AllocationFilter(instance="node-7"), LIVE),
        (AllocationFilter(instance="node-7", holder="job"), ON_INSTANCE),
        (AllocationFilter(instance="node-7", state="RELEASED"), LIVE),
    ],
)
async def test_lists_of_allocations_walk_the_index_that_is_meant(
    filled: Story, where: AllocationFilter, meant: str
) -> None:
    assert isinstance(filled.store, SqliteStore)
    with watched(filled.store) as plans:
        async with filled.store.reader() as reader:
            await reader.allocations("gpu", where, after=100, limit=100)
    steps = [step for found in plans for step in found]
    assert f"SEARCH {meant}" in steps
    walked = [s for s in steps if s.startswith("SEARCH allocations USING PRIMARY KEY (fleet=? AND allocation>?)")]
    assert bool(walked) == (where == AllocationFilter())
    assert [step for step in steps if "SCAN" in step or "TEMP B-TREE" in step] == []


async def test_no_reader_scans_a_table_or_sorts_what_it_pages_through(filled: Story) -> None:
    assert isinstance(filled.store, SqliteStore)
    with watched(filled.store) as plans:
        async with filled.store.reader() as reader:
            await reader.has_due_leases("gpu", 1)
            await reader.fleets_with_due_leases(1, 10)
            await reader.fleets_with_past("a", 10)
            await reader.revision("gpu")
            await reader.revisions(["gpu", "other"])
            await reader.journal_bounds("gpu")
            await reader.fleet("gpu")
            await reader.fleets(after="a", limit=10)
            await reader.instance("gpu", "node-1")
            await reader.instances("gpu", after=3, limit=10)
            await reader.snapshot("gpu", full=True, after=3, limit=10, now_us=1)
            await reader.allocation("gpu", filled.revision)
            await reader.events("gpu", EventFilter(("GRANTED",), "job", "node-7"), after=9, limit=10)
    steps = [step for found in plans for step in found]
    assert len(plans) >= 13
    assert [step for step in steps if "SCAN" in step and step not in SMALL] == []
    # The holds of one page, which has a bounded number of held blocks.
    assert {step for step in steps if "TEMP B-TREE" in step} == {"USE TEMP B-TREE FOR RIGHT PART OF ORDER BY"}
    for meant in (
        "allocations USING INDEX ix_allocations_due (fleet=? AND live=? AND expire_time_us<?)",
        "allocations USING INDEX ix_allocations_ended (fleet=? AND live=? AND revision>?)",
        "tokens USING INDEX ix_tokens_cancelled (fleet=? AND revision>?)",
        "held_blocks USING PRIMARY KEY (fleet=? AND instance=?)",
        "journal USING PRIMARY KEY (fleet=? AND revision>?)",
    ):
        assert f"SEARCH {meant}" in steps


def steps_of_one_end(sqlite: SqliteStore, held: int) -> int:
    """How many steps SQLite's machine takes to end one allocation beside so many that live, foreign keys included."""
    story = Story(sqlite).begin(big=held + 1)
    for block in range(held):
        story.grant(("big", (block,)))
    ended = story.grant(("big", (held,)))
    story.commit()
    story.release(ended)
    assert sqlite._db is not None
    steps: list[None] = []
    sqlite._db.set_progress_handler(lambda: steps.append(None), 1)
    story.commit()
    sqlite._db.set_progress_handler(None, 1)
    return len(steps)


async def test_the_end_of_an_allocation_costs_the_same_beside_any_number_of_others(
    sqlite: SqliteStore, tmp_path: Path
) -> None:
    other = SqliteStore(tmp_path / "other.db")
    other.open()

    few, many = steps_of_one_end(sqlite, 10), steps_of_one_end(other, 2000)

    await other.close()
    assert few > 100, "the steps are really counted"
    assert many < 2 * few
