"""A VFS beneath SQLite that does everything on the real disk and notes what would be left of it without power.

The folder's syncs are seen where SQLite makes them: its unix VFS opens the folder by a system call of its own, which
may be replaced.
"""

import ctypes
import errno
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Flag, auto
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

import apsw

from tests.power.disk import Create, Delete, Disk, FailedSync, Files, Step, Sync, SyncFolder, Truncate, Write

SHARED_SUFFIX: Final = "-shm"
"""The index of the log is shared memory, not written by the VFS and never synced."""

_numbers: Final = count()
_OPEN_FOLDER: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int))


class Lies(Flag):
    """What a disk says is done and is not."""

    NONE = 0
    FILES = auto()
    """Syncs of files."""
    FOLDERS = auto()
    """Syncs of folders."""


@dataclass(slots=True)
class Trouble:
    """How often, of all chances, a disk that ails fails; and how often it did."""

    full: float = 0.0
    """There is no room for a write."""
    sync: float = 0.0
    """A sync fails, and what it should have written is lost."""
    struck: Counter[str] = field(default_factory=Counter)
    ailing: bool = False
    """Only then."""

    def strikes(self, what: str, share: float, random: Random) -> bool:
        """Whether it fails now."""
        if not (self.ailing and share) or random.random() >= share:
            return False
        self.struck[what] += 1
        return True


class Recorder:
    """Notes every step on the files of one folder, which holds `files`. SQLite's own chances come from `random`."""

    def __init__(
        self, folder: Path, files: Files, random: Random, lies: Lies = Lies.NONE, trouble: Trouble | None = None
    ) -> None:
        self.folder = folder
        self.steps: list[Step] = []
        self.shared: list[tuple[int, bytes]] = []
        """What the index of the log was after so many steps, for each sync."""
        self.name = f"recorder-{next(_numbers)}"
        self.folder_syncs = 0
        self.lies = lies
        self.trouble = Trouble() if trouble is None else trouble
        self.random = random
        self.failures: Counter[int] = Counter()
        """How many syncs of each file have failed."""
        self._seen_by_the_server = 0
        self._begun_with = files
        self._files = {name: number for number, name in enumerate(files)}
        self._next = count(len(files))

    def knows(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return name in self._files

    def number(self, name: str) -> int:
        """The file that has this name now."""
        return self._files[name]

    def created(self, name: str) -> None:
        """There is a file that was not there."""
        self._files[name] = next(self._next)
        self.steps.append(Create(name, self._files[name]))

    def deleted(self, name: str) -> None:
        """A file is there no longer."""
        del self._files[name]
        self.steps.append(Delete(name))

    def synced(self, file: int | None, folder_syncs: int) -> None:
        """A call has returned that synced the file, and the folder if it was opened since `folder_syncs`."""
        if file is not None and Lies.FILES not in self.lies:
            self.steps.append(Sync(file))
        if self.folder_syncs > folder_syncs and Lies.FOLDERS not in self.lies:
            self.steps.append(SyncFolder())
        for path in self.folder.glob(f"*{SHARED_SUFFIX}"):
            self.shared.append((len(self.steps), path.read_bytes()))

    def note_failed_sync(self, file: int) -> None:
        """What was written is lost, and each other descriptor of the file will be told once (Linux since 4.13)."""
        self.steps.append(FailedSync(file))
        self.failures[file] += 1

    def sync_if_written(self, path: Path) -> None:
        """The server's own descriptor of the file syncs it, if anybody has written. Raises OSError."""
        number = self.number(path.name)
        since = next((n for n, step in enumerate(reversed(self.steps)) if step == Sync(number)), len(self.steps))
        written = any(
            isinstance(step, Write | Truncate | FailedSync) and step.file == number
            for step in self.steps[len(self.steps) - since :]
        )
        if not written:
            return
        if self._seen_by_the_server < self.failures[number]:
            self._seen_by_the_server = self.failures[number]
            raise OSError(errno.EIO, "the sync failed")
        if self.trouble.strikes("sync", self.trouble.sync, self.random):
            self.note_failed_sync(number)
            self._seen_by_the_server = self.failures[number]
            raise OSError(errno.EIO, "the sync failed")
        self.synced(number, self.folder_syncs)

    def forget_cached(self, path: Path) -> None:
        """Syncs the file, and reads it from the disk from now on: what a failed sync lost is gone. Raises OSError."""
        number = self.number(path.name)
        if self.trouble.strikes("sync", self.trouble.sync, self.random):
            self.note_failed_sync(number)
            raise OSError(errno.EIO, "the sync failed")
        self.synced(number, self.folder_syncs)
        disk = Disk(self._begun_with)
        for step in self.steps:
            disk.take(step)
        path.write_bytes(disk.content(number))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While the block runs, SQLite (apsw's) has a VFS of the name `name`."""
        unix = apsw.VFS(f"{self.name}-unix", "unix")
        original = _OPEN_FOLDER(unix.xGetSystemCall("openDirectory") or 0)

        def open_folder(path: bytes, descriptor: object) -> int:
            self.folder_syncs += 1
            return int(original(path, descriptor))

        called_by_sqlite = _OPEN_FOLDER(open_folder)
        pointer = ctypes.cast(called_by_sqlite, ctypes.c_void_p).value or 0
        assert unix.xSetSystemCall("openDirectory", pointer)
        vfs = _Vfs(self)
        apsw.randomness(0)  # it begins anew, and asks us: the log's salts are then the seed's as well
        try:
            yield
        finally:
            vfs.unregister()
            apsw.randomness(0)
            unix.xSetSystemCall("openDirectory", 0)  # the original again
            unix.unregister()


class _Vfs(apsw.VFS):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder.name, "unix", makedefault=True)  # only the default one is asked for randomness
        self._recorder = recorder

    def xRandomness(self, numbytes: int) -> bytes:  # noqa: N802 - SQLite's name
        return self._recorder.random.randbytes(numbytes)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        if name is None:
            return apsw.VFSFile("unix", name, flags)  # a temporary file, of which nothing need be left
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name)
        assert path.parent == self._recorder.folder
        is_new = not self._recorder.knows(path.name)
        file = _File(self._recorder, path.name, name, flags)
        if is_new:
            self._recorder.created(path.name)
        file.number = self._recorder.number(path.name)
        file.failures_seen = self._recorder.failures[file.number]
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001 - SQLite's name and arguments
        before = self._recorder.folder_syncs
        super().xDelete(filename, syncdir)
        self._recorder.deleted(Path(filename).name)
        self._recorder.synced(None, before)


class _File(apsw.VFSFile):
    def __init__(self, recorder: Recorder, name: str, opened: str | apsw.URIFilename, flags: list[int]) -> None:
        super().__init__("unix", opened, flags)
        self._recorder = recorder
        self._name = name
        self.number = -1
        self.failures_seen = 0

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        trouble = self._recorder.trouble
        if trouble.strikes("full", trouble.full, self._recorder.random):
            raise _failure(apsw.FullError("there is no room"), apsw.SQLITE_FULL)
        super().xWrite(data, offset)
        self._recorder.steps.append(Write(self.number, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        super().xTruncate(newsize)
        self._recorder.steps.append(Truncate(self.number, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        before = self._recorder.folder_syncs
        trouble, failures = self._recorder.trouble, self._recorder.failures
        if self.failures_seen < failures[self.number]:
            self.failures_seen = failures[self.number]
            raise _failure(apsw.IOError("a sync of the file failed"), apsw.SQLITE_IOERR_FSYNC)
        if trouble.strikes("sync", trouble.sync, self._recorder.random):
            self._recorder.note_failed_sync(self.number)
            self.failures_seen = failures[self.number]
            raise _failure(apsw.IOError("the sync failed"), apsw.SQLITE_IOERR_FSYNC)
        super().xSync(flags)
        self._recorder.synced(self.number, before)


def _failure(error: apsw.Error, code: int) -> apsw.Error:
    """The error with SQLite's extended result code, which SQLite is then told."""
    setattr(error, "extendedresult", code)  # noqa: B010 - apsw's types know of it only in errors that SQLite raises
    return error
