"""A database of release 0.1.0 with many allocations is upgraded at the start, with all of them in it.

`make upgrade` does the same with a million rows in the journal, and prints how long the start took.
"""

import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from blockyard import AllocationState, Client
from tests.harness.last_release import last_release, unpacked
from tests.harness.process import ServerProcess

ALLOCATIONS: Final = int(os.environ.get("BLOCKYARD_UPGRADED_ALLOCATIONS", "100000"))
"""Half of them are held, half have ended: so the journal has one and a half times as many rows."""
INSTANCES: Final = 1000
BLOCKS: Final = 4096
FLEET: Final = "large"
QUIET: Final = {"audit_interval_s": 0, "sweep_interval_s": 3600, "restart_grace_s": 0}


def rows() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """What the release would have written, as statements with `?`: a grant each, and the end of every second one."""
    revision = INSTANCES + 1
    held, ended = 0, 0
    for _ in range(ALLOCATIONS):
        revision += 1
        number = revision
        instance, block = f"n{held % INSTANCES:04}", held // INSTANCES
        places = json.dumps([[instance, [block]]], separators=(",", ":"))
        ends = held > ended
        if ends:
            revision += 1
            ended += 1
        else:
            held += 1
        state = (0, "RELEASED") if ends else (1, "HELD")
        token = f"t-{number}"
        yield (
            ALLOCATION,
            (FLEET, number, *state, "job", "default", token, places, 1, 1 if ends else None, "{}", revision),
        )
        yield TOKEN, (FLEET, "default", token, number, FINGERPRINT, number, 1)
        body: dict[str, Any] = {"caller": "default", "token": token, "fingerprint": FINGERPRINT.hex()}
        body |= {"placements": [[instance, [block]]], "ttl_us": None, "expire_time_us": None}
        body |= {"annotations": {}, "exclusive": []}
        yield EVENT, (FLEET, number, 1, "GRANTED", number, None, "job", json.dumps(body))
        if ends:
            freed = json.dumps({"freed": [[instance, [block]]], "left": []})
            yield EVENT, (FLEET, revision, 1, "RELEASED", number, None, "job", freed)
        else:
            yield HELD, (FLEET, instance, block, number)
    yield REVISION, (revision, FLEET)


ALLOCATION: Final = (
    "INSERT INTO allocations (fleet, allocation, live, state, holder, caller, token, granted, grant_time_us,"
    " end_time_us, annotations, revision) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
TOKEN: Final = (
    "INSERT INTO tokens (fleet, caller, token, allocation, fingerprint, revision, time_us) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
EVENT: Final = (
    "INSERT INTO journal (fleet, revision, time_us, kind, allocation, instance, holder, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
HELD: Final = "INSERT INTO held_blocks (fleet, instance, block, allocation) VALUES (?, ?, ?, ?)"
REVISION: Final = "UPDATE fleets SET revision = ? WHERE fleet = ?"
COUNTED: Final = (
    "SELECT 'allocations', count(*) FROM allocations UNION ALL SELECT 'tokens', count(*) FROM tokens"
    " UNION ALL SELECT 'held', count(*) FROM held_blocks"
)
FINGERPRINT: Final = bytes([1]) + bytes(40)


def in_chunks(found: Iterable[tuple[str, tuple[Any, ...]]]) -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    """Some thousand at a time, by statement; an allocation comes before the blocks that it holds."""
    found = iter(found)
    while chunk := list(islice(found, 20_000)):
        by_statement: dict[str, list[tuple[Any, ...]]] = {}
        for statement, row in chunk:
            by_statement.setdefault(statement, []).append(row)
        yield by_statement


@pytest.fixture(params=["sqlite", "postgres"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Where the data is, as settings: made by the release's own server, but for the many rows."""
    database = request.getfixturevalue("database") if request.param == "postgres" else None
    settings: dict[str, Any] = {"data": tmp_path / "large.db"} if database is None else {"database": database}
    with last_release(tmp_path / "last", unpacked(tmp_path), **QUIET, **settings) as server:
        server.start()
        with Client(server.address) as client:
            client.create_fleet(FLEET)
            for number in range(INSTANCES):
                client.create_instance(FLEET, f"n{number:04}", total_blocks=BLOCKS)
        assert server.terminate() == 0
        if database is None:
            with closing(sqlite3.connect(settings["data"], isolation_level=None)) as db:
                db.execute("BEGIN")
                for chunk in in_chunks(rows()):
                    for statement, found in chunk.items():
                        db.executemany(statement, found)
                db.execute("COMMIT")
        else:
            with psycopg.connect(database) as pg, pg.cursor() as cursor:
                for chunk in in_chunks(rows()):
                    for statement, found in chunk.items():
                        cursor.executemany(statement.replace("?", "%s").encode(), found)
        server.start()
        with Client(server.address, timeout_s=300) as client:
            assert client.verify(FLEET, timeout_s=300).clean, "the release that wrote the others finds these rows right"
        assert server.terminate() == 0
    return settings


def counted(settings: dict[str, Any]) -> dict[str, int]:
    """Rows of the tables, by the database itself."""
    if "data" in settings:
        with closing(sqlite3.connect(settings["data"])) as db:
            return dict(db.execute(COUNTED).fetchall())
    with psycopg.connect(settings["database"]) as pg:
        return dict(pg.execute(COUNTED.encode()).fetchall())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_large_database_of_that_release_is_upgraded_with_all_that_is_in_it(
    filled: dict[str, Any], tmp_path: Path
) -> None:
    with ServerProcess(tmp_path / "this", **QUIET, **filled) as server:
        began_s = time.monotonic()
        server.start()
        took_s = time.monotonic() - began_s
        sys.stdout.write(f"\n{ALLOCATIONS} allocations: the server served {took_s:.2f} s after its start\n")
        with Client(server.address, timeout_s=600) as client:
            report = client.verify(FLEET, timeout_s=600)
            assert report.clean
            assert report.allocations_checked == ALLOCATIONS // 2
            assert report.events_replayed == 1 + INSTANCES + ALLOCATIONS + ALLOCATIONS // 2
            grant = client.acquire(FLEET, blocks=1, holder="after the upgrade")
            first = next(iter(client.list_allocations(FLEET, state=AllocationState.RELEASED)))
            assert grant.revision == report.revision + 1
            assert first.holder == "job"
        assert server.terminate() == 0
    assert counted(filled) == {"allocations": ALLOCATIONS + 1, "tokens": ALLOCATIONS + 1, "held": ALLOCATIONS // 2 + 1}
