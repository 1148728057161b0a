"""Copies a data file as it is at one moment, also while a server works on it, and checks the copy.

The source is read by a connection that cannot write, inside one read transaction: SQLite's backup then copies one
snapshot, and begins nothing again when others commit. Nothing of the source is changed, and no descriptor of it is
opened beside SQLite's. The copy has another name until it is whole, checked and on the disk. Why, with measurements:
docs/adr/0019-backup.md.
"""

import fcntl
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import quote

from blockyard_server.store.sqlite.backup_checks import differences
from blockyard_server.store.sqlite.data_file import OWNER_ONLY, says_sync_failed, sync_folder
from blockyard_server.store.sqlite.errors import is_busy, is_damage, is_full
from blockyard_server.store.sqlite.manifest import SUFFIX as MANIFEST
from blockyard_server.store.sqlite.manifest import Manifest, manifest_of, sha256_of, write_manifest

PAGES_A_STEP: Final = 1000
"""Between two of these the progress is told, and a Ctrl-C is heard."""
STEPS_A_LOOK: Final = 100_000
"""How many of its own steps SQLite takes in a check between two looks at whether Ctrl-C was pressed."""
SPARE_BYTES: Final = 1024 * 1024
"""What has to be free besides the copy itself."""
BUSY_TIMEOUT_S: Final = 5.0
"""How long to wait for a server that has the file for itself for a moment, as when it starts."""
PARTIAL: Final = ".partial"
"""What is added to the name of a copy that is not whole yet."""
DAMAGED: Final = ".damaged"
"""What is added to the name of a copy that was found to be wrong."""
_BESIDE: Final = ("-wal", "-shm", "-journal")
_MIB: Final = 1024 * 1024
_ON_LINUX: Final = os.uname().sysname == "Linux"

Progress: TypeAlias = Callable[[int, int], object]
"""Is told the bytes that are copied and the bytes in all; the last call has both equal, and the checks follow."""


class BackupRefused(Exception):
    """There is nothing to copy, or no place for the copy; nothing was written. The message is a sentence."""


class BackupFailed(Exception):
    """The copy could not be made, or does not hold what it should. The message is a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """A copy that is whole, checked and on the disk."""

    file: Path
    """Where it is."""
    data: Path
    """The file that it is a copy of."""
    size_bytes: int
    """How large it is."""
    fleets: dict[str, int]
    """The revision of each fleet, deleted ones included."""


def make_backup(data: Path, file: Path, *, replace: bool, progress: Progress) -> Backup:
    """Copies `data` to `file`, which is its owner's alone from the first byte on.

    `replace` allows `file` to exist; it stays as it is until the copy is whole and checked.

    Raises BackupRefused, BackupFailed, KeyboardInterrupt.
    """
    data, target = _source(data), _target(file)
    _expect_free(target, data, replace=replace)
    partial = _with(target, PARTIAL)
    try:
        with _snapshot(data) as source, _own_partial(partial) as owned:
            _expect_room(source, target)
            _copy(source, partial, progress)
            source.close()  # from here on the server's log can begin again
            fleets, found = _check(partial)
            os.fsync(owned)
            if found:
                raise _damaged(partial, _with(target, DAMAGED), found)
            _expect_free(target, data, replace=replace)
            if not _names(partial, owned):
                raise BackupFailed(f"{partial} was replaced while it was written, and the copy with it.")
            size_bytes = os.fstat(owned).st_size
            manifest = Manifest(sha256_of(partial), size_bytes, fleets)
            manifest_of(target).unlink(missing_ok=True)  # it is of the copy that is replaced
            partial.rename(target)
            sync_folder(target.parent)
            write_manifest(target, manifest)
    except sqlite3.Error as failure:
        if failure.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from failure
        raise BackupFailed(_why(failure, data, target)) from failure
    except OSError as failure:
        raise BackupFailed(
            f"{failure.filename or target} cannot be written: {failure.strerror or failure}."
        ) from failure
    return Backup(file=target, data=data, size_bytes=size_bytes, fleets=fleets)


def _source(data: Path) -> Path:
    """The data file by the name that a server uses for it. Raises BackupRefused."""
    data = data.expanduser().resolve()
    try:
        found = data.stat()
    except OSError as failure:
        raise BackupRefused(f"There is no data file {data}: {failure.strerror}.") from failure
    if not stat.S_ISREG(found.st_mode):
        raise BackupRefused(f"{data} is not a file.")
    if found.st_nlink > 1:
        raise BackupRefused(
            f"{data} has {found.st_nlink} names (hard links). What is only in the log beside another name would be "
            "missed. Remove the other names."
        )
    if says_sync_failed(data):
        raise BackupRefused(
            f"The disk failed to sync {data}, so what can be read of its log may not be what the disk has. Look at the "
            "disk, stop the server and start it again; then make the backup."
        )
    return data


def _target(file: Path) -> Path:
    """Where the copy goes, by its real folder; a link of that name is not followed. Raises BackupRefused."""
    file = file.expanduser()
    folder = file.parent.resolve()
    if not file.name or file.name == "..":
        raise BackupRefused(f"{file} is a folder. Name a file in it.")
    if not folder.is_dir():
        raise BackupRefused(f"There is no folder {folder}. Make it, or name another file.")
    return folder / file.name


def _expect_free(target: Path, data: Path, *, replace: bool) -> None:
    """Raises BackupRefused if the copy would take the place of something that is of use, or be harmed by it."""
    own = [data, *(_with(data, suffix) for suffix in (*_BESIDE, ".lock"))]
    used = [target, *(_with(target, suffix) for suffix in (PARTIAL, DAMAGED, MANIFEST))]
    if set(own) & set(used) or any(_is_same(one, other) for one in own for other in used):
        raise BackupRefused(f"{target} is the data file itself, or belongs to it. Name another file.")
    beside = [path for path in (_with(target, suffix) for suffix in (*_BESIDE, ".lock")) if os.path.lexists(path)]
    if beside:
        raise BackupRefused(
            f"There is a {beside[0]}, so {target} is, or was, a server's data file, and SQLite would read that into "
            "the copy. Name another file."
        )
    for path, may_go in ((target, replace), (_with(target, DAMAGED), replace), (manifest_of(target), replace)):
        if not os.path.lexists(path):
            continue
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BackupRefused(f"{path} is there, and is not a file. Name another file.")
        if not may_go:
            raise BackupRefused(f"{path} is there already. Name another file, or replace it with --force.")


@contextmanager
def _snapshot(data: Path) -> Iterator[sqlite3.Connection]:
    """A connection that cannot write, inside a read transaction. Raises sqlite3.Error, BackupRefused."""
    with closing(_connect(data, "ro")) as source:
        source.execute("BEGIN")
        ours = source.execute("SELECT 1 FROM sqlite_schema WHERE name = 'alembic_version'").fetchone()
        if ours is None:
            raise BackupRefused(f"{data} holds no data of Blockyard.")
        yield source


def _expect_room(source: sqlite3.Connection, target: Path) -> None:
    """Raises BackupRefused."""
    needed = _pragma(source, "page_count") * _pragma(source, "page_size") + SPARE_BYTES
    free = shutil.disk_usage(target.parent).free
    if free < needed:
        raise BackupRefused(
            f"The backup needs about {-(-needed // _MIB):,} MiB, and {free // _MIB:,} MiB are free in {target.parent}."
        )


@contextmanager
def _own_partial(partial: Path) -> Iterator[int]:
    """Makes the file for the copy, empty and its owner's alone, and removes it if the copy does not become whole.

    What a killed backup has left is removed, not written over: somebody else may have it open. The lock says to other
    backups that this one is at work. Raises OSError, BackupRefused.
    """
    _remove_left_over(partial)
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, OWNER_ONLY)
    try:
        os.fchmod(descriptor, OWNER_ONLY)
        _lock(descriptor, partial)
        yield descriptor
    except BaseException:
        # Only what is this backup's own.
        with suppress(OSError):
            if _names(partial, descriptor):
                _remove(partial)
        raise
    finally:
        os.close(descriptor)


def _remove_left_over(partial: Path) -> None:
    try:
        descriptor = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = None
    if descriptor is not None:
        try:
            _lock(descriptor, partial)
        finally:
            os.close(descriptor)
    _remove(partial)


def _remove(partial: Path) -> None:
    for path in (partial, *(_with(partial, suffix) for suffix in _BESIDE)):
        path.unlink(missing_ok=True)


def _lock(descriptor: int, partial: Path) -> None:
    if not _ON_LINUX:
        return  # there the lock of this descriptor would keep SQLite out, too
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BackupRefused(f"Another backup is writing {partial}. Wait for it, or name another file.") from None


def _copy(source: sqlite3.Connection, partial: Path, progress: Progress) -> None:
    """Copies the source's snapshot, page by page. Raises sqlite3.Error."""
    page_bytes = _pragma(source, "page_size")
    with closing(_connect(partial, "rw")) as copy:
        # It is synced once, at the end; until then it is worth nothing.
        copy.execute("PRAGMA journal_mode = OFF")
        copy.execute("PRAGMA synchronous = OFF")
        source.backup(
            copy,
            pages=PAGES_A_STEP,
            progress=lambda _, left, pages: progress((pages - left) * page_bytes, pages * page_bytes),
        )
    with closing(_connect(partial, "rw")) as copy:
        # One file that can be read anywhere, also where no log can be made beside it. A server turns it back.
        copy.execute("PRAGMA journal_mode = DELETE")


def _check(partial: Path) -> tuple[dict[str, int], list[str]]:
    """Each fleet's revision, and what is wrong with the copy. Raises sqlite3.Error that is no damage."""
    with closing(_connect(partial, "ro")) as copy:
        copy.set_progress_handler(lambda: 0, STEPS_A_LOOK)  # a Ctrl-C there becomes SQLITE_INTERRUPT
        try:
            found = differences(copy)
            return ({} if found else dict(copy.execute("SELECT fleet, revision FROM fleets")), found)
        except sqlite3.DatabaseError as failure:
            if not is_damage(failure):
                raise
            return {}, [str(failure)]


def _damaged(partial: Path, kept: Path, found: list[str]) -> BackupFailed:
    """Keeps the copy as evidence, under a name that says what it is. Raises OSError."""
    partial.rename(kept)
    sync_folder(kept.parent)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return BackupFailed(
        f"The data is wrong: {found[0]}{more}. The copy is kept as evidence in {kept}; it is no backup to restore."
    )


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    """A connection to the file that is there; SQLite does not make one."""
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?mode={mode}", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )


def _pragma(db: sqlite3.Connection, name: str) -> int:
    [value] = db.execute(f"PRAGMA {name}").fetchone()
    return int(value)


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _names(path: Path, descriptor: int) -> bool:
    """Whether the path is still the name of the open file."""
    return os.path.samestat(path.lstat(), os.fstat(descriptor))


def _why(failure: sqlite3.Error, data: Path, target: Path) -> str:
    if is_full(failure):
        return f"There is no room for {target} ({failure})."
    if is_busy(failure):
        return f"{data} is locked by another program ({failure}). Try again once that has ended."
    if is_damage(failure):
        return f"{data} is damaged ({failure}). Keep it, and restore the last good backup."
    return f"{data} cannot be read, or {target} not be written: {failure}."
