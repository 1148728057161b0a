"""What happens to a PostgreSQL that servers share: connections are cut, rows are locked, it dies, it stands still."""

import asyncio
from random import Random
from typing import Final

import psycopg

from tests.chaos.disturbances import Disturbance
from tests.chaos.stage import Outsider, Stage
from tests.fault.test_time import STEPPED_CLOCK
from tests.harness.postgres import Postgres

CUT: Final = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND (random() < 0.5 OR %s)
"""
STEPS_S: Final = (3600, -3600, 2 * 86_400)
STAY_STEPS: Final = (1, 4)


def prepare(database: str) -> None:
    """Gives the database a clock that can be set. Before the first server starts."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(STEPPED_CLOCK)


def _postgres(stage: Stage) -> Postgres:
    assert stage.postgres is not None, "this round is on SQLite"
    return stage.postgres


def _url(stage: Stage) -> str:
    assert stage.database is not None, "this round is on SQLite"
    return stage.database


def _cut(database: str, *, all_of_them: bool) -> int:
    with psycopg.connect(database, autocommit=True) as connection:
        row = connection.execute(CUT, (all_of_them,)).fetchone()
    assert row is not None
    return int(row[0])


async def cut_connections(stage: Stage, dice: Random) -> None:
    """`pg_terminate_backend`, for half of the servers' connections or for all, a few times."""
    cut = 0
    for _ in range(dice.randint(1, 4)):
        cut += await asyncio.to_thread(_cut, _url(stage), all_of_them=dice.random() < 0.3)
        await asyncio.sleep(dice.uniform(0, 0.5))
    cut += await asyncio.to_thread(_cut, _url(stage), all_of_them=True)
    assert cut, "the servers had no connection"


async def lock_rows(stage: Stage, dice: Random) -> None:
    """Another transaction locks the row of each fleet for a while."""
    async with await psycopg.AsyncConnection.connect(_url(stage)) as connection:
        locked = await (await connection.execute("SELECT 1 FROM fleets FOR UPDATE")).fetchall()
        assert locked, "there is no fleet"
        await asyncio.sleep(dice.uniform(0.3, 4.0))
        await connection.rollback()


class Snapshot(Outsider):
    """A transaction that has read once, and stays open."""

    def __init__(self, steps: int, connection: "psycopg.AsyncConnection[tuple[object, ...]]") -> None:
        super().__init__("a transaction that has read once", steps)
        self._connection = connection

    async def leave(self) -> None:
        """The connection is closed; it may be broken already."""
        await self._connection.close()

    async def kill(self) -> None:
        """The same."""
        await self.leave()


async def long_snapshot(stage: Stage, dice: Random) -> None:
    """`pg_dump` and its like hold a snapshot for long."""
    connection = await psycopg.AsyncConnection.connect(_url(stage))
    await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    await connection.execute("SELECT count(*) FROM fleets")
    stage.outsiders.append(Snapshot(dice.randint(*STAY_STEPS), connection))


async def database_dies(stage: Stage, dice: Random) -> None:
    """SIGKILL for all of its processes, and a start."""
    await asyncio.to_thread(_postgres(stage).kill)
    await asyncio.sleep(dice.uniform(0, 1.5))
    await asyncio.to_thread(_postgres(stage).start)


async def database_restarts(stage: Stage, dice: Random) -> None:
    """A fast shutdown, and a start."""
    await asyncio.to_thread(_postgres(stage).stop)
    await asyncio.sleep(dice.uniform(0, 1.0))
    await asyncio.to_thread(_postgres(stage).start)


async def database_freezes(stage: Stage, dice: Random) -> None:
    """SIGSTOP for all of its processes, for a while."""
    await asyncio.to_thread(_postgres(stage).freeze)
    try:
        await asyncio.sleep(dice.uniform(0.3, 4.0))
    finally:
        await asyncio.to_thread(_postgres(stage).thaw)


def _set_clock(database: str, by_s: int) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SELECT setval('clockwork.step', %s)", (by_s,))


async def database_clock(stage: Stage, dice: Random) -> None:
    """The database's clock is set, and set right again later."""
    by_s = dice.choice(STEPS_S)
    stage.say(f"    the database's clock is {by_s / 3600:+.0f} hours off")
    await asyncio.to_thread(_set_clock, _url(stage), by_s)
    await stage.until_answered()
    await asyncio.sleep(dice.uniform(0.3, 1.5))
    await asyncio.to_thread(_set_clock, _url(stage), 0)


async def all_servers_die(stage: Stage, _: Random) -> None:
    """SIGKILL for every server at once."""
    for server in stage.servers:
        server.kill()
    for server in stage.servers:
        await stage.start(server)


DATABASES: Final = (
    Disturbance("cut connections", "connections", 2, cut_connections),
    Disturbance("outside row locks", "outside", 2, lock_rows),
    Disturbance("outside snapshot", "outside", 1, long_snapshot),
    Disturbance("database kill -9", "database", 1, database_dies),
    Disturbance("database restart", "database", 1, database_restarts),
    Disturbance("database SIGSTOP", "database", 1, database_freezes),
    Disturbance("database clock", "clocks", 2, database_clock),
    Disturbance("all servers kill -9", "restarts", 1, all_servers_die),
)
