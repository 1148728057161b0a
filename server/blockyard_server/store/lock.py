"""One server for one data file: a lock that the system takes away with the process, however it ends."""

import os
from pathlib import Path

from filelock import FileLock, Timeout

from blockyard_server.engine.store_protocol import StoreRefused


class DataLock:
    """The lock file beside a data file, `<data>.lock`.

    It holds the number of the process that has the lock, for people. It stays when the lock is given back, so that
    no two processes ever lock different files of one name.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self.path = data.with_name(data.name + ".lock")
        # Not of a thread: the writer's thread may close what another has opened. No soft lock: it outlives a kill -9.
        self._lock = FileLock(
            self.path, thread_local=False, fallback_to_soft=False, preserve_lock_file=True, on_acquired=_sign
        )

    def acquire(self) -> None:
        """Takes the lock at once or raises StoreRefused, which says who has it."""
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise StoreRefused(
                f"{self._data} is in use by another Blockyard server{self._owner()}. "
                "Only one at a time may write it: stop that one, or name another data file with --data."
            ) from None
        except OSError as failure:
            raise StoreRefused(
                f"{self.path} cannot be locked: {failure.strerror or failure}. "
                "Check that its folder can be written by this user, or name another data file with --data."
            ) from failure

    def release(self) -> None:
        """Gives the lock back."""
        self._lock.release()

    def _owner(self) -> str:
        try:
            number = self.path.read_text().strip()
        except OSError:
            return ""
        return f" (process {number})" if number.isdigit() else ""


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
