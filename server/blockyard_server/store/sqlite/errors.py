"""What SQLite's result codes mean: a damaged file, a sync that failed, no room, another program's lock.

The codes are explained in SQLite's page "Result and Error Codes".
"""

import sqlite3
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from blockyard_server.engine.store_protocol import StoreCorrupt, StoreFailed

_PRIMARY: Final = 0xFF
"""The lower bits of an extended code are the primary one."""
_DAMAGE: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FAILED_SYNCS: Final = (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC)


def is_damage(failure: BaseException) -> bool:
    """The file is not what SQLite has written: no other attempt will read it."""
    code = _code(failure)
    return code & _PRIMARY in _DAMAGE or code == sqlite3.SQLITE_IOERR_CORRUPTFS


def is_failed_sync(failure: BaseException) -> bool:
    """What was written may be lost, though it can still be read."""
    return _code(failure) in _FAILED_SYNCS


def is_full(failure: BaseException) -> bool:
    """There is no room on the disk."""
    return _code(failure) & _PRIMARY == sqlite3.SQLITE_FULL


def is_busy(failure: BaseException) -> bool:
    """Another connection has the file, or its lock."""
    return _code(failure) & _PRIMARY in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def cause(failure: BaseException) -> BaseException:
    """What the driver raised, without the statement that SQLAlchemy quotes."""
    found = getattr(failure, "orig", None) if isinstance(failure, SQLAlchemyError) else None
    return found if isinstance(found, BaseException) else failure


def failure_of(failure: BaseException, doing: str) -> StoreFailed:
    """What the engine is told: StoreCorrupt for a damaged file, or else StoreFailed."""
    kind = StoreCorrupt if is_damage(failure) else StoreFailed
    return kind(f"{doing}: {cause(failure)}")


def refusal(path: object, failure: BaseException) -> str:
    """Why the file cannot be opened, and what to do, for the operator."""
    why = cause(failure)
    code = _code(failure) & _PRIMARY
    if code == sqlite3.SQLITE_NOTADB:
        return f"{path} is not a SQLite database. Name another data file with --data, or restore a backup."
    if is_damage(failure):
        return f"{path} is damaged ({why}). Keep a copy of it, and restore the last good backup."
    if is_busy(failure):
        return f"{path} is locked by another program ({why}). Find it with `fuser {path}`, and stop it."
    if is_full(failure):
        return f"{path} cannot be opened: there is no room on its disk ({why}). Make room, and start again."
    if code == sqlite3.SQLITE_IOERR or (isinstance(failure, OSError) and not isinstance(failure, PermissionError)):
        return f"{path} cannot be opened: {why}. Look at the disk, and whether it is full, and start again."
    return f"{path} cannot be opened: {why}. Check that the file and its folder can be written by this user."


def _code(failure: BaseException) -> int:
    """The extended result code; 0 if it is not SQLite's."""
    return int(getattr(cause(failure), "sqlite_errorcode", 0))
