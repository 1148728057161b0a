"""Writes the golden databases of a release: once, by its own server, and never again (README.md).

BLOCKYARD_POSTGRES=15 python -m tests.golden.write FOLDER
"""

import json
import lzma
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import psycopg

from blockyard import Client
from tests.golden.story import answers, tell
from tests.harness.last_release import last_release, unpacked
from tests.harness.postgres import Postgres
from tests.harness.process import ServerProcess

QUIET = {"audit_interval_s": 0}


def main() -> None:
    """Tells the story twice, and keeps what came of it."""
    place = Path(sys.argv[1])
    place.mkdir()
    with tempfile.TemporaryDirectory() as temporary, Postgres() as postgres:
        folder = Path(temporary)
        packages = unpacked(folder)
        server = last_release(folder / "sqlite", packages, **QUIET)

        def on_sqlite(statement: str) -> None:
            with closing(sqlite3.connect(server.data, isolation_level=None, timeout=10)) as db:
                db.execute(statement)

        with server:
            keep(server, place / "sqlite.json.xz", on_sqlite)
        with closing(sqlite3.connect(server.data)) as db:
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("VACUUM")
        (place / "data.db.xz").write_bytes(lzma.compress(server.data.read_bytes(), preset=9))

        url = postgres.fresh_database()

        def on_postgres(statement: str) -> None:
            with psycopg.connect(url, autocommit=True) as db:
                db.execute(statement.encode())

        with last_release(folder / "postgres", packages, database=url, **QUIET) as other:
            keep(other, place / "postgres.json.xz", on_postgres)
        dump = subprocess.run(
            ["/usr/lib/postgresql/15/bin/pg_dump", "--inserts", "--no-owner", "--no-privileges", url],
            check=True,
            capture_output=True,
        ).stdout
        (place / "postgres.sql.xz").write_bytes(lzma.compress(dump, preset=9))


def keep(server: ServerProcess, file: Path, damage: object) -> None:
    """Tells the story, and what the server answers after a restart: so its journal has an extension of leases."""
    server.start()
    with Client(server.address) as client:
        tell(client, damage)  # type: ignore[arg-type]  # either of the two
    assert server.terminate() == 0
    server.start()
    with Client(server.address) as client:
        file.write_bytes(lzma.compress(json.dumps(answers(client), ensure_ascii=False).encode(), preset=9))
    assert server.terminate() == 0


if __name__ == "__main__":
    main()
