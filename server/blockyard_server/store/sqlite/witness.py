"""A file beside the data file that says how far its fleets have come: a file that was put back is behind it.

Its name begins with a dot, so that whoever moves or removes `blockyard.db*` leaves it where it is. It is written only
after commits, at most twice a second, and never synced: it may be behind, and is never ahead of what is on the disk.
One that is missing or cannot be read says nothing.
"""

import json
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from blockyard_server.engine.store_protocol import Origin
from blockyard_server.store.transaction import SqlTransaction

OWNER_ONLY: Final = 0o600

_log = logging.getLogger(__name__)


def witness_of(data: Path) -> Path:
    """Where the witness of a data file is."""
    return data.with_name(f".{data.name}.witness")


class Witness:
    """`begin` once the data file is open, `note` after each commit, `write` now and then and in the end."""

    def __init__(self, data: Path, *, read_only: bool) -> None:
        self._read_only = read_only
        self._path = witness_of(data)
        self._lock = threading.Lock()
        self._database_id = ""
        self._revisions: dict[str, int] = {}
        self._changed = False
        self.seen: Mapping[str, int] = {}
        """What the file said when the data file was opened, if it was of this database."""
        self._first_revision = 0

    def begin(self, origin: Origin, revisions: dict[str, int]) -> None:
        """Reads the file, and remembers what the database says now."""
        self._database_id, self._first_revision = origin.database_id, origin.first_revision
        self._revisions = revisions
        self.seen = self._read()
        self._changed = self.seen != revisions

    @property
    def behind(self) -> str | None:
        """How the data file is behind the witness; None if it is not."""
        for fleet, seen in sorted(self.seen.items()):
            now = self._revisions.get(fleet, self._first_revision)
            if now < seen:
                was = f"at revision {now}" if fleet in self._revisions else "not there"
                return f"fleet {fleet} was at revision {seen} or later, and is {was} now (by {self._path})"
        return None

    def note(self, fleet: str, transaction: SqlTransaction) -> None:
        """A transaction was committed."""
        with self._lock:
            if transaction.new_first_revision is not None:
                self._first_revision = transaction.new_first_revision
            elif self._revisions.get(fleet, self._first_revision) != transaction.revision:
                self._revisions[fleet], self._changed = transaction.revision, True

    def write(self) -> None:
        """Writes the file if anything has changed, unless the data file is behind it: it then has to be kept."""
        with self._lock:
            if self._read_only or not self._changed or not self._database_id or self.behind is not None:
                return
            text = json.dumps({"database_id": self._database_id, "revisions": self._revisions})
            self._changed = False
        part = self._path.with_name(self._path.name + ".part")
        try:
            with suppress(FileNotFoundError):
                part.unlink()
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, OWNER_ONLY)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            part.replace(self._path)
        except OSError as failure:
            _log.debug("the witness %s cannot be written: %s", self._path, failure)
            self._changed = True

    def _read(self) -> dict[str, int]:
        try:
            said = json.loads(self._path.read_text(encoding="utf-8"))
            if said["database_id"] != self._database_id:
                return {}
            return {str(fleet): int(revision) for fleet, revision in said["revisions"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as failure:
            _log.warning("the witness %s cannot be read, and says nothing: %s", self._path, failure)
            return {}
