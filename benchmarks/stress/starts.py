"""A start with very many fleets, live ones and deleted ones, and what it costs to have them."""

import asyncio
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard import Client
from blockyard_server.domain.requests import (
    Acquire,
    CreateFleet,
    CreateInstance,
    DeleteFleet,
    Demand,
    FleetFields,
    InstanceFields,
)
from blockyard_server.engine.clock import SystemClock
from blockyard_server.engine.transactor import Transactor
from blockyard_server.store.sqlite.store import SqliteStore
from tests.harness.process import ServerProcess

LIVE: Final = "live"
DELETED: Final = "deleted"
BLOCKS: Final = 8
TTL_US: Final = 600_000_000
TABLES: Final = ("fleets", "instances", "allocations", "tokens", "held_blocks", "journal")


def run(scale: Scale) -> Sequence[Figure]:
    """On SQLite, where one server has all fleets."""
    live, deleted = scale.of(10_000, 500), scale.of(100_000, 1000)
    data = scale.folder / "blockyard.db"
    asyncio.run(_fill(data, live, deleted))
    with ServerProcess(scale.folder, data=data) as server:
        began_s = time.monotonic()
        server.start()
        started_s = time.monotonic() - began_s
        with Client(server.address, timeout_s=30) as client:
            last = _copy(LIVE, live)
            began_s = time.monotonic()
            client.acquire(last, blocks=1, holder="first")
            first_s = time.monotonic() - began_s
            held = client.describe_page(_copy(LIVE, live // 2), page_size=1).totals.busy_blocks
            clean = client.verify(last).clean
            time.sleep(scale.of(30, 1))  # until the fleets are in memory
            idle = _cpu_share(server.pid, scale.of(20, 2))
    return [
        Figure(f"{live:,} fleets and {deleted:,} deleted ones: until it serves", started_s, "s", at_most=3),
        Figure("  the first Acquire on the last fleet", 1000 * first_s, "ms"),
        Figure("  blocks of a lease held over the restart", held, "", at_least=1, kind="count"),
        Figure("  Verify of a fleet is clean", clean, "", at_least=1, kind="count"),
        Figure("  CPU when idle", 100 * idle, "% of a core", at_most=5),
    ]


async def _fill(data: Path, live: int, deleted: int) -> None:
    """One fleet with a lease and one that was deleted, made by the server's own transactions, and copies of them."""
    store = SqliteStore(data)
    store.open()
    transactor = Transactor(store, SystemClock())
    for fleet in (LIVE, DELETED):
        transactor.carry_out(fleet, [CreateFleet(fleet, FleetFields())])
    transactor.carry_out(
        LIVE,
        [
            CreateInstance(LIVE, "n1", InstanceFields(BLOCKS)),
            Acquire(LIVE, "default", "token", "job", (Demand(blocks=1),), ttl_us=TTL_US),
        ],
    )
    transactor.carry_out(DELETED, [DeleteFleet(DELETED)])
    await store.close()
    with closing(sqlite3.connect(data, isolation_level=None)) as db:
        _copy_rows(db, {LIVE: live, DELETED: deleted})


def _copy_rows(db: sqlite3.Connection, copies: dict[str, int]) -> None:
    """The triggers are away meanwhile: a copied counter is right already."""
    db.execute("BEGIN IMMEDIATE")
    triggers = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for name, _ in triggers:
        db.execute(f"DROP TRIGGER {name}")
    for table in TABLES:
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})") if row[1] != "fleet"]
        rest = ", ".join(columns)
        for fleet, number in copies.items():
            db.execute(
                f"""
                WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
                INSERT INTO {table} (fleet, {rest}) SELECT printf('%s-%06d', fleet, i), {rest} FROM {table}, n
                WHERE fleet = ?""",  # noqa: S608 - names from the database's own schema
                (number, fleet),
            )
    for _, statement in triggers:
        db.execute(statement)
    db.execute("COMMIT")


def _copy(fleet: str, number: int) -> str:
    return f"{fleet}-{number:06d}"


def _cpu_share(pid: int, seconds: int) -> float:
    """The share of a core that the process uses during these seconds."""
    before_s = _cpu_s(pid)
    time.sleep(seconds)
    return (_cpu_s(pid) - before_s) / seconds


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


SCENARIO: Final = Scenario("starts", "a start with very many fleets, and idling with them", run)
