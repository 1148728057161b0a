"""The tests' PostgreSQL, set up as one would for load: as durable, with more memory, gone afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.harness.postgres import Postgres

SETTINGS: Final = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",  # no checkpoint for its size in the middle of a round
}


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A new PostgreSQL while the block runs, on a free port of 127.0.0.1."""
    server = Postgres(on_disk=True)
    server.configure(**SETTINGS)  # the last one of a name counts
    with server as running:
        yield running


def pid_of(running: Postgres) -> int:
    """The process that all of its others descend from."""
    return int((running.data / "postmaster.pid").read_text().split()[0])


def sqlalchemy_url(running: Postgres, driver: str) -> str:
    """Its URL as SQLAlchemy wants it."""
    return running.url().replace("postgresql://", f"postgresql+{driver}://", 1)
