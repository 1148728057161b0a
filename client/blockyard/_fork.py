"""What a fork means to a client, a lease or a watch: it belongs to the process that made it, and to no child of that.

A child has copies of the parent's objects, and the parent's connections to the servers. If it released what the parent
holds, or if only its garbage collector ended a call of the parent's, the servers would take that for the parent's own
wish. So in a child these objects send nothing, raise `WrongProcess`, and are never collected (docs/adr/0011).
"""

import ctypes
import os
from typing import Final
from weakref import WeakSet

from blockyard.errors import WrongProcess

_forks = 0
"""How many forks lie between this process and the one that imported this module. Unlike a process id, no number comes
again."""
_keepsakes: Final[WeakSet[object]] = WeakSet()


class Origin:
    """The process in which a thing was made."""

    def __init__(self, owner: object) -> None:
        """`owner` is never garbage-collected in a forked child."""
        self._forks: Final = _forks
        _keepsakes.add(owner)

    @property
    def is_here(self) -> bool:
        """This is that process."""
        return self._forks == _forks

    def require(self, what: str) -> None:
        """Raises WrongProcess in any other process; `what` is the thing, in a word."""
        if not self.is_here:
            raise WrongProcess(f"this {what} belongs to the parent process: it was made before the fork")


def _after_fork_in_child() -> None:
    global _forks  # noqa: PLW0603  # the one place that counts
    _forks += 1
    for owner in list(_keepsakes):
        # gRPC cancels a call that is collected, and writes that to the connection that the parent uses. The extra
        # reference is never dropped, so the owner is never destroyed, nor its channel and calls, also while the
        # interpreter ends.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
