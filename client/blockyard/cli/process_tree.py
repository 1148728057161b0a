"""All processes that a command has started: who they are, how they are signalled, and whether any is left.

On Linux they are the descendants of the process that looks after them, which adopts their orphans: also what has left
the process group is among them. Elsewhere they are the process group.
"""

import contextlib
import os
import signal
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blockyard.cli.linux_calls import adopt_orphans
from blockyard.cli.own_cgroup import OwnCgroup

_PROC: Final = Path("/proc")
_ROUNDS: Final = 20
"""How often those that have appeared since the round before are stopped, too: a stopped process forks no more."""


@dataclass(frozen=True, slots=True)
class _Process:
    """One process, told apart from a later one with the same number by when it was started."""

    pid: int
    started: int
    parent: int = field(compare=False)
    zombie: bool = field(compare=False)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to this process, and to none that has got its number since.

        Where the system has no handles of processes (Linux before 5.3, some containers), there is a moment between the
        look and the signal in which the number could be given to another process.
        """
        handle = _handle_of(self.pid)
        try:
            now = _look(self.pid)
            if now is not None and now.started == self.started:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if handle is None:
                        os.kill(self.pid, number)
                    else:
                        signal.pidfd_send_signal(handle, number)
        finally:
            if handle is not None:
                os.close(handle)


class ProcessTree:
    """What a command consists of. None of it is signalled that may not be: a command that became another user."""

    def __init__(self, *, spared: int | None = None, earlier_children: Collection[int] = ()) -> None:
        """`spared` is a child of this process that is no part of the command, but has it among its own children.

        `earlier_children` are those that this process had before: a script may have started them, and then become us
        by `exec`.
        """
        self.group: int | None = None
        """The command's process group, once it has one."""
        self.cgroup: OwnCgroup | None = None
        """The command's own cgroup, if it has one."""
        self._spared = spared
        self._earlier_children = frozenset(earlier_children)
        self._childless = False
        self._by_descent = adopt_orphans() and _shows_our_processes()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to all of it. What is being forked meanwhile may not get it."""
        if self._by_descent:
            for process in self._descendants():
                process.send(number)
        elif self.group is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, number)

    def pause(self) -> None:
        """SIGSTOP for all of it, and for what is forked meanwhile."""
        if not self._by_descent:
            self.send(signal.SIGSTOP)
            return
        stopped: set[_Process] = set()
        for _ in range(_ROUNDS):
            new = [process for process in self._descendants() if process not in stopped]
            if not new:
                return
            for process in new:
                process.send(signal.SIGSTOP)
            stopped.update(new)

    def kill(self) -> None:
        """SIGKILL for all of it. What is being forked meanwhile may be left, so look again."""
        if self.cgroup is not None:
            self.cgroup.kill()
        self.send(signal.SIGKILL)

    def reap(self) -> Iterator[tuple[int, int]]:
        """The children of this process that ended, stopped or went on, each with its status."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            except ChildProcessError:
                self._childless = True
                return
            self._childless = False
            if pid == 0:
                return
            yield pid, status

    def count(self) -> int:
        """How many processes are left; at least one as long as not `is_gone`."""
        left = [process for process in self._descendants() if not process.zombie] if self._by_descent else []
        return max(len(left), int(not self.is_gone()))

    def is_gone(self) -> bool:
        """Whether nothing is left. Only after a `reap` that has taken everything."""
        if self.cgroup is not None and not self.cgroup.is_empty():
            return False
        if self._earlier_children and self._by_descent:
            return all(process.zombie for process in self._descendants())
        return self._childless and (self._by_descent or not self._group_lives())

    def _descendants(self) -> Sequence[_Process]:
        """Parents before their children."""
        children: dict[int, list[_Process]] = {}
        for process in _all_processes():
            children.setdefault(process.parent, []).append(process)
        others = self._earlier_children | {self._spared}
        found = [process for process in children.get(os.getpid(), ()) if process.pid not in others]
        if self._spared is not None:
            found += children.get(self._spared, ())
        for process in found:
            found += children.get(process.pid, ())
        return found

    def _group_lives(self) -> bool:
        if self.group is None:
            return False
        try:
            os.killpg(self.group, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True


def _shows_our_processes() -> bool:
    """Whether /proc is there, and is that of this process's own PID namespace: in another, numbers mean others."""
    try:
        return str((_PROC / "self").readlink()) == str(os.getpid())
    except OSError:
        return False


def own_children() -> frozenset[int]:
    """The children that this process has now; none where /proc does not show them."""
    if not _shows_our_processes():
        return frozenset()
    return frozenset(process.pid for process in _all_processes() if process.parent == os.getpid())


def _handle_of(pid: int) -> int | None:
    """A descriptor that stands for this process alone; None where the system gives none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _all_processes() -> Iterator[_Process]:
    for entry in os.scandir(_PROC):
        if entry.name.isdecimal() and (process := _look(int(entry.name))) is not None:
            yield process


def _look(pid: int) -> _Process | None:
    """The process as /proc shows it (proc_pid_stat(5)); None if there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The name stands in parentheses, and may contain some.
    fields = text.rpartition(b")")[2].split()
    return _Process(pid, parent=int(fields[1]), started=int(fields[19]), zombie=fields[0] in b"ZX")
