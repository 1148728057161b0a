"""A cgroup for one command, where this process may make one: as root, or where its cgroup is delegated to its user.

The kernel ends all of a cgroup at once, also processes that fork as fast as they are killed, and those of other users.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_KILL: Final = "cgroup.kill"


class OwnCgroup:
    """A cgroup (version 2) below this process's own."""

    def __init__(self, folder: Path) -> None:
        self.folder: Final = folder
        """Where the kernel shows it."""

    @classmethod
    def make(cls, name: str) -> "OwnCgroup | None":
        """A new one; None where there is no cgroup 2, or this process may not make one, or the kernel is too old."""
        with contextlib.suppress(OSError):
            for parent in _own_folders():
                made = cls(parent / name)
                made.folder.mkdir()
                if (made.folder / _KILL).exists() and os.access(made.folder / "cgroup.procs", os.W_OK):
                    return made
                made.remove()
        return None

    def join(self) -> None:
        """Moves this process into it; nothing if the kernel does not allow it."""
        with contextlib.suppress(OSError):
            (self.folder / "cgroup.procs").write_text("0")

    def kill(self) -> None:
        """SIGKILL for all that is in it."""
        with contextlib.suppress(OSError):
            (self.folder / _KILL).write_text("1")

    def is_empty(self) -> bool:
        """Whether no process is in it or below it."""
        try:
            return "populated 1" not in (self.folder / "cgroup.events").read_text()
        except OSError:
            return True

    def remove(self) -> None:
        """Removes it, and what the command has made below it; nothing if somebody is still in it."""
        for folder, _, _ in os.walk(self.folder, topdown=False):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()


def _own_folders() -> Iterator[Path]:
    """Where this process's own cgroup is; nothing where there is no cgroup 2."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = [line.removeprefix("0::") for line in lines if line.startswith("0::")]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        root, mount_point = fields.split()[3:5]
        if own and kind.startswith("cgroup2 ") and Path(own[0]).is_relative_to(root):
            yield Path(mount_point) / Path(own[0]).relative_to(root)
