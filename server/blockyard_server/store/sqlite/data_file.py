"""The data file as the system sees it: one server's, its owner's alone, and still where it was.

The lock is on the file itself (its inode), so that no second name of it, hard link, bind mount or new path, lets a
second server in. The lock file beside it, `<data>.lock`, names the process for people, keeps older releases out, and
remembers a failed sync.

SQLite holds POSIX locks on the data file, and the system drops all of them when the process closes any descriptor of
the file. So this module opens it once, before SQLite does, and closes that descriptor after SQLite has.
"""

import fcntl
import logging
import os
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from blockyard_server.engine.store_protocol import StoreRefused

OWNER_ONLY: Final = 0o600
FOLDER_OWNER_ONLY: Final = 0o700
SUFFIXES: Final = ("", "-wal", "-shm")
"""The files that are the database, while it is open: itself, its log, and the log's index."""
RESTORING: Final = ".restoring"
"""What is added to the name of a backup that is about to take the data file's place."""
_LOCKED_BYTE: Final = 1 << 62
"""Where systems other than Linux lock a byte: beyond all that SQLite locks, and beyond the end of the file."""
LOG_HEADER_BYTES: Final = 32
_LOG_MAGIC: Final = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
"""How a log begins, by SQLite's page "WAL-mode File Format"."""
RECENT_NS: Final = 50_000_000
_ON_LINUX: Final = os.uname().sysname == "Linux"
_SYNC_FAILED: Final = b"sync failed\n"
_MOUNTS: Final = Path("/proc/self/mountinfo")

_log = logging.getLogger(__name__)

_Identity = tuple[int, int]
"""Device and inode."""

_locked_here: set[_Identity] = set()
"""The files that this process has locked: opening and closing one again would drop SQLite's locks."""
_locked_here_guard: Final = threading.Lock()


class DataFile:
    """Makes, locks and watches one data file. `open` before anything else, `close` after SQLite has closed it."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.log_path: Final = path.with_name(path.name + "-wal")
        self.sync_failed = False
        """A COMMIT's sync failed, and what that left in the log has not been dealt with."""
        self._descriptor: int | None = None
        self._identity: _Identity = (0, 0)
        self._others: dict[Path, _Identity] = {}
        """The log and its index, as they were when the writer was connected."""
        self._linked = False
        self._log_descriptor: int | None = None
        self._log_seen = (b"", 0)
        """The log's header and size after the last commit."""
        self._synced_ns = 0
        """When the data file was last written before it was last synced."""
        self._size = 0
        """Of the data file, in bytes. SQLite makes it shorter only in a VACUUM, and the server runs none."""
        # Not of a thread: the writer's thread may close what another has opened. No soft lock: it outlives a kill -9.
        self._lock_file = FileLock(
            path.with_name(path.name + ".lock"),
            mode=OWNER_ONLY,
            thread_local=False,
            fallback_to_soft=False,
            preserve_lock_file=True,
            on_acquired=self._sign,
        )

    def open(self) -> None:
        """Makes the file if it is not there, and takes it for this server. Raises StoreRefused, which says why."""
        self._make_folder()
        self._take_lock_file()
        try:
            self._take_data_file()
        except BaseException:
            self.close()
            raise

    def hold_for_restore(self) -> None:
        """Takes the file's name, and the file if it is there, so that no server can. Raises StoreRefused."""
        self._take_lock_file()
        try:
            if self.path.exists():
                with _locked_here_guard:
                    self._descriptor = self._locked_descriptor()
                    self._identity = _identity(os.fstat(self._descriptor))
                    _locked_here.add(self._identity)
        except OSError as failure:
            self.close()
            raise StoreRefused(f"{self.path} cannot be opened: {failure.strerror}. {_advice(failure)}.") from failure
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives the file back."""
        self.forget()
        if self._descriptor is not None:
            with _locked_here_guard:
                os.close(self._descriptor)
                _locked_here.discard(self._identity)
            self._descriptor = None
        self._lock_file.release()

    def make_private(self) -> None:
        """Takes the files from everybody but their owner. Only for a file that is known to be Blockyard's."""
        _make_private(Path(self._lock_file.lock_file), *(self._beside(suffix) for suffix in SUFFIXES))

    def remember(self) -> None:
        """Notes which files are the log and its index; they stay the same for as long as a connection is open."""
        self._size = self.path.stat().st_size
        # SQLite has no POSIX locks on this file, which closing a descriptor would drop: they are on the log's index.
        self.forget()
        self._log_descriptor = os.open(self.log_path, os.O_RDONLY | os.O_CLOEXEC)
        self._others = {path: _identity(path.stat()) for path in map(self._beside, SUFFIXES[1:])}

    def forget(self) -> None:
        """The writer's connection is closed: the next one may find, or make, another log."""
        self._others = {}
        self._log_seen = (b"", 0)
        if self._log_descriptor is not None:
            os.close(self._log_descriptor)
            self._log_descriptor = None

    def log_change(self, *, after_commit: bool) -> str | None:
        """What another program has done to the log since the last look; None if nothing is seen.

        In the writer's thread, just before a COMMIT and just after it. Between two COMMITs SQLite makes the log shorter
        only together with its first bytes; a COMMIT itself may cut it back (`journal_size_limit`).
        """
        assert self._log_descriptor is not None, "the writer is connected"
        header = os.pread(self._log_descriptor, LOG_HEADER_BYTES, 0)
        size = os.fstat(self._log_descriptor).st_size
        before, self._log_seen = self._log_seen, (header, size)
        if size == 0:
            return None  # another program's checkpoint may have emptied it just now
        is_shorter = header == before[0] and size < before[1] and not after_commit
        # What a power cut has left may begin in any way, and is written over by the first COMMIT.
        is_first_look = not after_commit and before == (b"", 0)
        if is_shorter or (header[:4] not in _LOG_MAGIC and not is_first_look):
            return f"{self.log_path} was cut short or written over"
        return None

    def change(self) -> str | None:
        """What has happened to the files since the server opened them; None if they are where they were."""
        size = self._size  # before the look: other threads look, too, and the file grows meanwhile
        for path, identity in {self.path: self._identity, **self._others}.items():
            try:
                now = path.stat()
            except FileNotFoundError:
                return f"{path} was removed or renamed"
            except OSError as failure:
                return f"{path} cannot be reached: {failure.strerror}"
            if _identity(now) != identity:
                return f"{path} was replaced by another file"
            if path != self.path:
                continue
            if now.st_size < size:
                return f"{path} was cut short"
            self._size = max(self._size, now.st_size)
            if now.st_nlink > 1 and not self._linked:
                self._linked = True
                _log.error(
                    "%s now has a second hard link. Remove it: a program that opens the file by that name can corrupt "
                    "the data.",
                    path,
                )
        return None

    def sync_if_written(self) -> None:
        """Syncs the data file if anybody has written into it since the last time. Raises OSError.

        Times of files are a few milliseconds apart, so a file that was written just now is synced in any case.
        """
        assert self._descriptor is not None, "it is open"
        written_ns = os.fstat(self._descriptor).st_mtime_ns
        if written_ns == self._synced_ns and time.time_ns() - written_ns > RECENT_NS:
            return
        os.fsync(self._descriptor)
        self._synced_ns = written_ns

    def mark_sync(self, *, failed: bool) -> None:
        """Notes for the next start whether the log may hold what never reached the disk.

        It need not outlive the machine: once the machine has lost its memory, the log is what the disk has.
        """
        if failed == self.sync_failed:
            return
        self.sync_failed = failed
        try:
            self._write_lock_file()
        except OSError as failure:
            _log.error("%s does not say whether a sync failed: %s", self._lock_file.lock_file, failure.strerror)

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def _make_folder(self) -> None:
        folder = self.path.parent
        try:
            if not folder.is_dir():
                folder.mkdir(parents=True, mode=FOLDER_OWNER_ONLY)
                sync_folder(folder.parent)
        except OSError as failure:
            raise StoreRefused(
                f"the folder {folder} cannot be made: {failure.strerror}. "
                "Make it, or name another data file with --data."
            ) from failure

    def _take_lock_file(self) -> None:
        lock_path = Path(self._lock_file.lock_file)
        try:
            self._lock_file.acquire(blocking=False)
        except Timeout:
            raise self._in_use(_process_named_in(lock_path)) from None
        except OSError as failure:
            raise StoreRefused(
                f"{lock_path} cannot be locked: {failure.strerror or failure}. "
                f"{_advice(failure)}, or name another data file with --data."
            ) from failure

    def _take_data_file(self) -> None:
        try:
            with _locked_here_guard:
                self._descriptor = self._locked_descriptor()
                self._identity = _identity(os.fstat(self._descriptor))
                _locked_here.add(self._identity)
            found = os.fstat(self._descriptor)
        except OSError as failure:
            raise StoreRefused(
                f"{self.path} cannot be opened: {failure.strerror or failure}. {_advice(failure)}."
            ) from failure
        if not stat.S_ISREG(found.st_mode):
            raise StoreRefused(f"{self.path} is not a file. Name another data file with --data.")
        if found.st_size == 0 and self.log_path.exists() and self.log_path.stat().st_size > 0:
            raise StoreRefused(
                f"{self.path} is empty, but its log {self.log_path} is not. Put the right file back beside it, "
                "or, if the log belongs to nothing, move it away."
            )
        if found.st_nlink > 1:
            raise StoreRefused(
                f"{self.path} has {found.st_nlink} names (hard links). A program that uses it by another name does not "
                "see the log beside this one, and harms the data. Remove the other names, or copy the file."
            )
        if _is_mount_point(self.path):
            raise StoreRefused(
                f"{self.path} is a mount of its own. The log beside it would stay behind when the file is mounted "
                "elsewhere, and grants with it. Mount the folder that has the file in it."
            )

    def _locked_descriptor(self) -> int:
        """The file's one descriptor, with the lock. Raises OSError, StoreRefused."""
        with suppress(FileNotFoundError):
            if _identity(self.path.stat()) in _locked_here:
                raise self._in_use(os.getpid())
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if self._beside(RESTORING).exists():
                raise StoreRefused(
                    f"{self.path} is not there, but {self._beside(RESTORING)} is: a restore has not ended. Run "
                    "`blockyard restore` again."
                ) from None
            if self.log_path.exists():
                raise StoreRefused(
                    f"{self.path} is not there, but its log is: {self.log_path}. Put the file back beside it, "
                    "or, if the log belongs to nothing, move it away."
                ) from None
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
            sync_folder(self.path.parent)
        try:
            _lock(descriptor)
        except BlockingIOError:
            os.close(descriptor)
            raise self._in_use(None) from None
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _in_use(self, process: int | None) -> StoreRefused:
        owner = "" if process is None else f" (process {process})"
        return StoreRefused(
            f"{self.path} is in use by another Blockyard server{owner}. "
            "Only one at a time may write it: stop that one, or name another data file with --data."
        )

    def _sign(self, descriptor: int) -> None:
        self.sync_failed = _SYNC_FAILED in os.pread(descriptor, 100, 0)
        self._write(descriptor)

    def _write_lock_file(self) -> None:
        # Closing this descriptor drops no lock: filelock's is not a POSIX lock.
        descriptor = os.open(self._lock_file.lock_file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, OWNER_ONLY)
        try:
            self._write(descriptor)
        finally:
            os.close(descriptor)

    def _write(self, descriptor: int) -> None:
        text = f"{os.getpid()}\n".encode() + (_SYNC_FAILED if self.sync_failed else b"")
        os.pwrite(descriptor, text, 0)  # in place: on a full disk what was given up would not come back
        os.ftruncate(descriptor, len(text))


def says_sync_failed(data: Path) -> bool:
    """Whether the lock file beside this data file says that a sync failed, and no start has dealt with it yet."""
    try:
        return _SYNC_FAILED in data.with_name(data.name + ".lock").read_bytes()
    except FileNotFoundError:
        return False


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget_cached(path: Path) -> None:
    """Has the system read the file from the disk next time, where it can be told so. Raises OSError.

    After a sync that failed, what the system shows of a file may not be what the disk has. The content stays.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino


def _lock(descriptor: int) -> None:
    """Locks the file for this process, whatever its names. Raises BlockingIOError, OSError."""
    if _ON_LINUX:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # here it has nothing to do with POSIX locks
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCKED_BYTE)
    except PermissionError as refused:  # EACCES, as POSIX allows
        raise BlockingIOError(*refused.args) from refused


def _make_private(*paths: Path) -> None:
    """What holds data is for its owner alone, also where an earlier release has made it."""
    for path in paths:
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                path.chmod(OWNER_ONLY)
                _log.info("%s was readable by others, and is its owner's alone now", path)
        except FileNotFoundError:
            pass
        except OSError as failure:
            _log.warning("%s can be read by others, and cannot be changed: %s", path, failure.strerror)


def _is_mount_point(path: Path) -> bool:
    """Whether the file itself is mounted, as containers do with a single file. False where it cannot be known."""
    try:
        mounts = _MOUNTS.read_bytes()
    except OSError:
        return False
    name = str(path).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    return any(line.split()[4:5] == [os.fsencode(name)] for line in mounts.splitlines())


def _process_named_in(lock_file: Path) -> int | None:
    try:
        number = lock_file.read_text().partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return None
    return int(number) if number.isdigit() else None


def _advice(failure: OSError) -> str:
    if isinstance(failure, PermissionError):
        return "Check that this user may write the file and its folder"
    return "Check the disk and the folder"
