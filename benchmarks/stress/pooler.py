"""A PgBouncer between the servers and PostgreSQL: kept sessions are served, mixed ones are refused at the start.

And what a killed server leaves at the database: how long its fleet stays locked.
"""

import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import psycopg

from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard import Client
from blockyard_server.store.postgres.pipe import Pipe
from tests.harness.locking import is_locked_by_it, locking
from tests.harness.pooler import MISSING, PROGRAM, Pooler
from tests.harness.postgres import Postgres
from tests.harness.process import ServerProcess, StartFailed

MIXING: Final = ("transaction", "statement")
WORDS: Final = "pool_mode = session"
"""What a refusal has to say."""
PIPES: Final = 6
STATEMENTS: Final = 20


def run(scale: Scale) -> Sequence[Figure]:
    """The figures; where there is no PgBouncer they say that it was left out."""
    with Postgres() as postgres:
        database = postgres.fresh_database()
        left = _lock_left(database, scale.folder / "left")
        if PROGRAM is None:
            return [left, Figure(f"SKIPPED: {MISSING}", 0, "")]
        return [
            left,
            *_starts_refused(postgres, database, scale),
            *_served(postgres, database, scale),
            *_statements(postgres, database, scale.of(20_000, 1000)),
        ]


def _starts_refused(postgres: Postgres, database: str, scale: Scale) -> list[Figure]:
    figures = []
    for mode in MIXING:
        tries, started, said = scale.of(5, 1), 0, 0
        with Pooler(postgres, mode) as pooler:
            for number in range(tries):
                with ServerProcess(scale.folder / f"{mode}-{number}", database=pooler.url(database)) as server:
                    try:
                        server.start()
                    except StartFailed as failure:
                        said += WORDS in failure.errors
                    else:
                        started += 1
        figures += [
            Figure(f"starts behind {mode} pooling", started, f"of {tries}", at_most=0, kind="count"),
            Figure("  refusals that say what to do", said, f"of {tries}", at_least=tries, kind="count"),
        ]
    return figures


def _served(postgres: Postgres, database: str, scale: Scale) -> list[Figure]:
    pairs, started = scale.of(500, 50), 0
    with Pooler(postgres, "session", default_pool_size="40") as pooler, ExitStack() as stack:
        addresses = []
        for number in range(2):
            folder = scale.folder / f"session-{number}"
            server = stack.enter_context(ServerProcess(folder, database=pooler.url(database)))
            server.start()
            started += 1
            addresses.append(server.address)
        with Client(",".join(addresses)) as client:
            client.create_fleet("gpu")
            client.create_instance("gpu", "node-1", total_blocks=8)
            for _ in range(pairs):
                client.release(client.acquire("gpu", blocks=8, holder="job").allocation)
            differences = len(client.verify("gpu").discrepancies)
    return [
        Figure("starts behind session pooling", started, "of 2", at_least=2, kind="count"),
        Figure(f"  differences after {pairs} grants of everything", differences, "", at_most=0, kind="count"),
    ]


def _statements(postgres: Postgres, database: str, rounds: int) -> list[Figure]:
    """Connections that each prepare statements of their own, in sessions that change with each transaction."""
    dice, counts = random.Random(0), Counter[str]()
    with Pooler(postgres, "transaction", server_round_robin="1", default_pool_size="4") as pooler, ExitStack() as stack:
        url = pooler.url(database)
        for _ in range(4):  # the sessions that there are to be mixed
            stack.enter_context(psycopg.connect(url)).execute("SELECT 1")
        stack.pop_all().close()
        made = [stack.enter_context(closing(psycopg.connect(url, autocommit=True))) for _ in range(PIPES)]
        pipes = [Pipe(connection.pgconn) for connection in made]
        for _ in range(rounds):
            asked = dice.randrange(PIPES), dice.randrange(STATEMENTS)
            text = f"statement {asked[1]} of {asked[0]}"
            try:
                [answer] = pipes[asked[0]].send([(f"SELECT '{text}'", ())])
            except psycopg.errors.InvalidSqlStatementName:
                counts["missed"] += 1
            else:
                counts["right" if answer.rows() == [(text,)] else "wrong"] += 1
    return [
        Figure(f"wrong statements executed of {rounds}", counts["wrong"], "", at_most=0, kind="count"),
        Figure("  missed in another session", counts["missed"], "", at_least=1, kind="count"),
    ]


def _lock_left(database: str, folder: Path) -> Figure:
    """Of a server that is killed in the middle of a statement of 55 s, until another one has granted."""
    with ServerProcess(folder, database=database) as server:
        server.start()
        with Client(server.address) as client:
            client.create_fleet("left")
            client.create_instance("left", "node-1", total_blocks=8)
            with locking(database, "left") as killed:
                while not is_locked_by_it(database):
                    assert killed.poll() is None, "it has ended instead"
                    time.sleep(0.01)
                killed.kill()
                killed.wait()
                began_s = time.monotonic()
                client.acquire("left", blocks=1, holder="next", timeout_s=120)
    return Figure("a fleet stays locked after a kill", time.monotonic() - began_s, "s", at_most=2)


SCENARIO: Final = Scenario("pooler", "PgBouncer between the servers and PostgreSQL", run)
