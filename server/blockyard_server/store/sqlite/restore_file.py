"""Puts a backup in the place of a data file, above its lost future, whole or not at all (docs/adr/0030).

The backup is copied, checked and taken above its lost future under another name. Only then does it get the data file's
name, in one rename. Until then the data file has a second name, under which it is kept: a server refuses a file with
two names, so none starts while its log has been moved away. No step leaves a file that a server would start on and
that was not taken above its lost future.
"""

import asyncio
import glob
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import quote

from blockyard_server.engine.store_protocol import StoreFailed, StoreRefused
from blockyard_server.store.sqlite.backup_checks import differences
from blockyard_server.store.sqlite.data_file import OWNER_ONLY, RESTORING, SUFFIXES, DataFile, sync_folder
from blockyard_server.store.sqlite.manifest import ManifestRefused, manifest_of, read_manifest, sha256_of
from blockyard_server.store.sqlite.store import SqliteStore

T = TypeVar("T")

_MADE_BY_SQLITE: Final = ("-wal", "-shm", "-journal")
_COPIED_BYTES: Final = 1024 * 1024


class RestoreRefused(Exception):
    """The backup or the place is not fit; nothing was changed. The message is a sentence."""


class RestoreFailed(Exception):
    """The restore did not end. The message is a sentence, and says what to do."""


@dataclass(frozen=True, slots=True)
class RestoredFile(Generic[T]):
    """A data file that a server may start on."""

    data: Path
    kept: Path | None
    """Where the old file is, with its log beside it; None: there was none."""
    had_manifest: bool
    done: T
    """What `take_above` answered."""


def _no_step(_name: str) -> None:
    pass


def restore_file(
    backup: Path,
    data: Path,
    stamp: str,
    take_above: Callable[[SqliteStore], T],
    step: Callable[[str], object] = _no_step,
) -> RestoredFile[T]:
    """Restores `backup` as `data`. The old file is kept with `stamp` in its name; the backup stays where it is.

    `take_above` is given the store of the copy, open. `step` is called before each step, with its name.

    Raises RestoreRefused, RestoreFailed, and what `take_above` raises.
    """
    backup, data = backup.expanduser().resolve(), data.expanduser().resolve()
    if backup == data or not backup.is_file():
        raise RestoreRefused(f"{backup} is {'the data file itself' if backup == data else 'not there, or no file'}.")
    if not data.parent.is_dir():
        raise RestoreRefused(f"There is no folder {data.parent}. Make it, or name another data file.")
    held = DataFile(data)
    try:
        held.hold_for_restore()
    except StoreRefused as refused:
        raise RestoreRefused(f"{refused}") from refused
    scratch = _with(data, RESTORING)
    try:
        step("copy")
        _remove(scratch)
        had_manifest = _copy(backup, scratch)
        step("take above")
        done = _taken_above(scratch, data, take_above)
        kept = _put_in_place(held, scratch, stamp, step)
        return RestoredFile(data, kept, had_manifest, done)
    except (OSError, sqlite3.Error, StoreFailed, StoreRefused) as failure:
        why = f"{failure.strerror or failure}: {failure.filename}" if isinstance(failure, OSError) else str(failure)
        raise RestoreFailed(f"The restore has not ended: {why.rstrip('.')}. Run it again.") from failure
    except (RestoreRefused, RestoreFailed):
        _remove(scratch)
        raise
    finally:
        held.close()


def _copy(backup: Path, scratch: Path) -> bool:
    """Copies and checks; whether there was a manifest. Raises RestoreRefused, OSError, sqlite3.Error."""
    try:
        manifest = read_manifest(backup)
    except ManifestRefused as refused:
        raise RestoreRefused(str(refused)) from refused
    beside = [path for path in (_with(backup, suffix) for suffix in _MADE_BY_SQLITE) if path.exists()]
    if beside:
        raise RestoreRefused(
            f"There is a {beside[0]}: {backup} is, or was, in use, and is no backup. Make one with `blockyard backup`."
        )
    descriptor = os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, OWNER_ONLY)
    with os.fdopen(descriptor, "wb") as copy, backup.open("rb") as source:
        shutil.copyfileobj(source, copy, _COPIED_BYTES)
        copy.flush()
        os.fsync(copy.fileno())
    if manifest is not None and manifest.sha256 != sha256_of(scratch):
        raise RestoreRefused(f"{backup} is not what its manifest {manifest_of(backup)} says. Take another backup.")
    with closing(sqlite3.connect(f"file:{quote(os.fsencode(scratch))}?mode=ro", uri=True)) as db:
        try:
            found = differences(db)
        except sqlite3.DatabaseError as failure:
            found = [str(failure)]
    if found:
        raise RestoreRefused(f"{backup} is damaged: {found[0]}. Take another backup.")
    return manifest is not None


def _taken_above(scratch: Path, data: Path, take_above: Callable[[SqliteStore], T]) -> T:
    store = SqliteStore(scratch, witnessed=data)
    store.open()
    try:
        done = take_above(store)
    finally:
        asyncio.run(store.close())
    if any(_with(scratch, suffix).exists() for suffix in _MADE_BY_SQLITE):
        raise RestoreFailed(f"Another program has {scratch} open. End it, and run the restore again.")
    _with(scratch, ".lock").unlink(missing_ok=True)
    with scratch.open("rb+") as file:
        os.fsync(file.fileno())
    return done


def _put_in_place(held: DataFile, scratch: Path, stamp: str, step: Callable[[str], object]) -> Path | None:
    """Where the old file is now. Raises OSError."""
    data, folder = held.path, held.path.parent
    kept = _second_name(data) or _with(data, f".replaced-{stamp}")
    sync_folder(folder)
    there = data.exists()
    if there and not kept.exists():
        step("second name")
        os.link(data, kept)
        sync_folder(folder)
    for suffix in SUFFIXES[1:]:
        if _with(data, suffix).exists():
            step(f"move {suffix}")
            _with(data, suffix).rename(_with(kept, suffix))
            sync_folder(folder)
    step("rename")
    scratch.rename(data)
    sync_folder(folder)
    step("end")
    held.mark_sync(failed=False)
    return kept if there else None


def _second_name(data: Path) -> Path | None:
    """The name that a restore which did not end has given to the data file."""
    if not data.exists():
        return None
    return next(
        (path for path in data.parent.glob(f"{glob.escape(data.name)}.replaced-*") if path.samefile(data)), None
    )


def _remove(scratch: Path) -> None:
    for suffix in ("", *_MADE_BY_SQLITE, ".lock"):
        with suppress(FileNotFoundError):
            _with(scratch, suffix).unlink()


def _with(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
