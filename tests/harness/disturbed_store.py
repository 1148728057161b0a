"""The real store on SQLite, whose commits can be held up, be made to fail, or have their answer lost."""

import asyncio
import sqlite3
import threading
from collections import deque
from enum import Enum, auto
from pathlib import Path
from typing import Final

from blockyard_server.store.sqlite.store import SqliteStore

BOUND_S: Final = 30.0
"""No thread and no test waits longer than this at a gate."""


class Gate:
    """A point that the writer's thread passes. While it is closed, the thread waits there."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._reached = threading.Event()

    def close(self) -> None:
        """Whoever comes next waits."""
        self._reached.clear()
        self._open.clear()

    def open(self) -> None:
        """Whoever waits goes on."""
        self._open.set()

    async def reached(self) -> None:
        """Returns once somebody waits at the closed gate."""
        assert await asyncio.to_thread(self._reached.wait, BOUND_S), "nobody came to the gate"

    def come_through(self) -> None:
        """The writer's side."""
        if not self._open.is_set():
            self._reached.set()
            assert self._open.wait(BOUND_S), "the gate was never opened"


class Disturbance(Enum):
    """What happens to one commit."""

    FAILS = auto()
    """Nothing is written, as when the disk is full."""
    ANSWER_IS_LOST = auto()
    """Everything is written, but the writer hears of a failure."""


class DisturbedStore(SqliteStore):
    """A SqliteStore with two gates around COMMIT and a list of disturbances for the commits to come."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.before_commit = Gate()
        self.after_commit = Gate()
        self.disturbances: deque[Disturbance] = deque()

    def try_write(self) -> None:
        """The disturbances are for the requests' commits: what looks whether writes work again meets none."""

    def _commit(self, db: sqlite3.Connection) -> None:
        self.before_commit.come_through()
        disturbance = self.disturbances.popleft() if self.disturbances else None
        if disturbance is not Disturbance.FAILS:
            super()._commit(db)
        self.after_commit.come_through()
        if disturbance is not None:
            self._disconnect()
            raise sqlite3.OperationalError("disk I/O error")
