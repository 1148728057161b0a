"""Other programs that have the database open: one that reads, one that copies the log, one that makes a backup."""

from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

import apsw

LONGEST_READ: Final = 6
"""For at most so many turns a reader keeps its snapshot, and the log from beginning again."""
CHECKPOINTS: Final = ("PASSIVE", "PASSIVE", "FULL", "RESTART", "TRUNCATE")


class Outsiders:
    """Connections that are none of the store's, on the same recorded disk; what they do follows from `random`."""

    def __init__(self, path: Path, vfs: str, random: Random) -> None:
        self._path = path
        self._vfs = vfs
        self._random = random
        self._reader: apsw.Connection | None = None
        self._idle: apsw.Connection | None = None
        self._turns_left = 0
        self.did: Counter[str] = Counter()
        """How often each has done its work."""

    @property
    def present(self) -> bool:
        """One of them has the file open."""
        return self._reader is not None or self._idle is not None

    def turn(self) -> None:
        """Between two batches: one of them does something, or nobody does."""
        self._turns_left -= 1
        if self._reader is not None and self._turns_left <= 0:
            _close(self._reader)
            self._reader = None
        match self._random.randrange(8):
            case 0 if self._reader is None:
                self._reader = self._open()
                self._reader.execute("BEGIN")
                self._reader.execute("SELECT count(*) FROM journal").fetchall()
                self._turns_left = self._random.randint(1, LONGEST_READ)
                self.did["read"] += 1
            case 1 if self._idle is None:
                self._idle = self._open()
                self._idle.execute("SELECT count(*) FROM journal").fetchall()
                self.did["opened"] += 1
            case 2 | 3 if self._idle is not None:
                self._copy_the_log(self._idle)
            case 4:
                self._back_up()
            case 5 if self._idle is not None:
                _close(self._idle)
                self._idle = None

    def leave(self) -> None:
        """All of them close the file."""
        for connection in (self._reader, self._idle):
            if connection is not None:
                _close(connection)
        self._reader = self._idle = None

    def _open(self) -> apsw.Connection:
        return apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=self._vfs)

    def _copy_the_log(self, connection: apsw.Connection) -> None:
        mode = self._random.choice(CHECKPOINTS)
        try:
            connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()
        except (apsw.BusyError, apsw.FullError, apsw.IOError):
            return  # a reader was in the way, or the disk failed
        self.did["copied the log"] += 1

    def _back_up(self) -> None:
        """A backup is whole, whatever the server does meanwhile."""
        source, target = self._open(), apsw.Connection(":memory:")
        with target.backup("main", source, "main") as backup:
            backup.step()
        _close(source)
        assert target.execute("PRAGMA integrity_check").fetchall() == [("ok",)], "a backup is damaged"
        target.close()
        self.did["backed up"] += 1


def _close(connection: apsw.Connection) -> None:
    """The last one to close copies the log, which the disk may fail to do."""
    with suppress(apsw.Error):
        connection.close()
