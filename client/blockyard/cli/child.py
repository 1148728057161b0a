"""The command of `blockyard run`, as the process that keeps the lease sees it.

A guard (`guard`) starts the command and ends it in time, whatever becomes of this process. The command has a process
group of its own, so that a Ctrl-C reaches it once. If this process owns the terminal, it hands it to the command and
takes it back, as a shell does for a job.
"""

import collections
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Self, TypeAlias

from blockyard._clock import lease_now
from blockyard.cli.command_times import CommandTimes
from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.cli.guard import fork_guard
from blockyard.cli.guard_messages import (
    CannotExecute,
    Forward,
    Gone,
    Leave,
    Order,
    Pause,
    Renewed,
    Report,
    Resume,
    Start,
    Started,
    Stop,
    TooLate,
)
from blockyard.cli.linux_calls import adopt_orphans
from blockyard.cli.own_cgroup import OwnCgroup
from blockyard.cli.process_tree import ProcessTree, own_children
from blockyard.cli.terminal import foreground_terminal, if_owned_hand_over
from blockyard.errors import LeaseLost

_RETRY_S = 0.05
"""Between two looks at what is left, where there is no guard to tell."""


@dataclass(frozen=True, slots=True)
class Signalled:
    """This process got a signal that the command should have."""

    number: signal.Signals


@dataclass(frozen=True, slots=True)
class LeaseGone:
    """The lease is lost."""


@dataclass(frozen=True, slots=True)
class GuardEnded:
    """The guard is no more; expected after `Gone`."""


Message: TypeAlias = Report | Signalled | LeaseGone | GuardEnded
Mailbox: TypeAlias = "SimpleQueue[Message]"
"""Where the signal handlers, the lease and the guard leave what happened; safe to put to in a handler."""


class ChildCommand:
    """A command, its guard, and all that it starts. Enter it while this process has no threads yet."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._terminal: int | None = None
        self._times = CommandTimes()
        self._pausing = False
        self._may_run = False
        self._gone = False
        self._sending = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        earlier_children = own_children()
        self._guard, self._orders = fork_guard()
        self._tree = ProcessTree(spared=self._guard, earlier_children=earlier_children)
        self._in_thread(self._wait_for_guard)
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.finish()
        adopt_orphans(wanted=False)

    def finish(self) -> None:
        """Returns once the guard and all of the command are gone; ends what is left of it."""
        self._send(Leave())
        for thread in self._threads:
            thread.join()
        if self._may_run and not self._gone:
            self.end_without_guard()

    def start(self, command: Sequence[str], environment: Mapping[str, str], times: CommandTimes) -> None:
        """Starts the command, in the terminal's foreground if this process has it.

        Raises:
            OSError: What exec said.
            LeaseLost: There was no time left for it.
            CommandFailed: The guard was ended by somebody.
        """
        self._terminal = foreground_terminal()
        self._times = times
        self._may_run = True
        self._send(Start(list(command), dict(environment), self._terminal, times))
        try:
            answer: Report = self._orders.recv()
        except (EOFError, OSError):
            raise CommandFailed("The guard of the command was ended.", exit_code=ExitCode.RUN_FAILED) from None
        match answer:
            case CannotExecute(error):
                self._may_run = False
                raise error
            case TooLate():
                self._may_run = False
                raise LeaseLost("the lease was lost before the command could be started")
            case Started(group, cgroup):
                self._tree.group = group
                self._tree.cgroup = None if cgroup is None else OwnCgroup(Path(cgroup))
            case _:
                raise AssertionError(answer)
        self._in_thread(self._listen)

    def renewed(self, times: CommandTimes) -> None:
        """Tells the guard how long the lease is good for now. Any thread may call it."""
        self._times = times
        self._send(Renewed(times))

    def forward(self, number: signal.Signals) -> None:
        """Sends a signal to the command's group; nothing if none of it may be signalled."""
        self._send(Forward(number))

    def stop(self) -> float:
        """SIGTERM for all of the command, SIGKILL after the grace, and when that is."""
        self._send(Stop())
        return self._times.kill_at(lease_now())

    def kill(self) -> None:
        """SIGKILL for all of the command, if the guard has not done it."""
        self._tree.kill()

    def pause(self) -> None:
        """Has the guard stop all of the command; it answers with `AllPaused`."""
        if not self._pausing:
            self._pausing = True
            self._send(Pause())

    @property
    def is_job(self) -> bool:
        """Whether the command has the terminal, so that a shell expects this process to stop when the command does."""
        return self._terminal is not None

    def stop_this_process(self, *, as_job: bool) -> None:
        """Stops this process until somebody lets it go on. `as_job`: with its group, as a shell expects of a job."""
        self._pausing = False
        if not as_job:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            return
        self.take_back_terminal()
        handler = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        os.kill(0, signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        # To this thread, which then goes no step further. The kernel drops it where no shell could say `fg`.
        signal.pthread_kill(threading.get_ident(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)

    def resume(self) -> None:
        """Lets the command go on: in the foreground after `fg`; after `bg` the terminal stays the shell's."""
        self._hand_terminal(os.getpgrp(), self._tree.group)
        self._send(Resume())

    def take_back_terminal(self) -> None:
        """Makes this process's group the terminal's foreground again, if the command's is."""
        self._hand_terminal(self._tree.group, os.getpgrp())

    def end_without_guard(self) -> None:
        """Kills all of the command, and returns when nothing of it is left. Without its guard it may not go on."""
        while not self._gone:
            self._tree.kill()
            collections.deque(self._tree.reap(), maxlen=0)
            self._gone = self._tree.is_gone()
            time.sleep(0 if self._gone else _RETRY_S)
        if self._tree.cgroup is not None:
            self._tree.cgroup.remove()

    def _hand_terminal(self, owner: int | None, other: int | None) -> None:
        if self._terminal is not None and owner is not None and other is not None:
            if_owned_hand_over(self._terminal, owner, other)

    def _send(self, order: Order) -> None:
        # A guard that is no more is told of by `GuardEnded`.
        with self._sending, contextlib.suppress(OSError):
            self._orders.send(order)

    def _in_thread(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name=f"blockyard-run{work.__name__}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                report: Report = self._orders.recv()
                self._gone = self._gone or isinstance(report, Gone)
                self._mailbox.put(report)
        self._mailbox.put(GuardEnded())

    def _wait_for_guard(self) -> None:
        """A guard that is stopped guards nothing, so it is let go on at once."""
        with contextlib.suppress(ChildProcessError):
            while True:
                _, status = os.waitpid(self._guard, os.WUNTRACED)
                if not os.WIFSTOPPED(status):
                    return
                os.kill(self._guard, signal.SIGCONT)
