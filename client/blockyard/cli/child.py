"""Runs a command beside a lease: forwards signals, minds the terminal, stops the command when the lease is lost.

The command has a process group of its own, so that a lost lease stops all of it, and so that a Ctrl-C reaches it once.
If this process owns the terminal, it hands it to the command and takes it back, as a shell does for a job.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Final, TypeAlias

FORWARDED: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""What is passed on to the command."""
_SIGNAL_EXIT: Final = 128
"""A shell's code for a command that signal n ended is 128 + n."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The command is over, with this exit code as a shell has it."""

    code: int


@dataclass(frozen=True, slots=True)
class Paused:
    """The command was stopped, by Ctrl-Z say; it is not over."""


@dataclass(frozen=True, slots=True)
class Signalled:
    """This process got a signal that the command should have."""

    number: signal.Signals


@dataclass(frozen=True, slots=True)
class LeaseGone:
    """The lease is lost."""


Message: TypeAlias = Ended | Paused | Signalled | LeaseGone
Mailbox: TypeAlias = "SimpleQueue[Message]"
"""Where the signal handlers, the lease and the waiting thread leave what happened; safe to put to in a handler."""


class SignalledBeforeStart(BaseException):
    """A signal came while there was no command to pass it on to. Not an `Exception`: nothing may swallow it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"ended by {number.name}")
        self.exit_code: Final = _SIGNAL_EXIT + number
        """What the process ends with."""


class Switchboard:
    """Takes this process's signals while it runs a command.

    Before the command starts they end the wait for blocks, after that they go into the mailbox.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._connected = False

    def connect(self) -> None:
        """From now on there is, or was, a command to pass signals on to."""
        self._connected = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals of `FORWARDED`; those that are ignored (as under nohup) stay ignored."""
        before = {number: signal.getsignal(number) for number in FORWARDED}
        heard = [number for number in FORWARDED if before[number] is not signal.SIG_IGN]
        for number in heard:
            signal.signal(number, self._take)
        try:
            yield
        finally:
            for number in heard:
                signal.signal(number, before[number] or signal.SIG_DFL)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if not self._connected:
            raise SignalledBeforeStart(signal.Signals(number))
        self._mailbox.put(Signalled(signal.Signals(number)))


class ChildCommand:
    """A command that runs in a process group of its own.

    Raises the `OSError` of exec if it cannot start.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], mailbox: Mailbox) -> None:
        self._terminal = _foreground_terminal()
        self._process = subprocess.Popen(command, env=dict(environment), process_group=0)  # noqa: S603  # the user's own
        self._group = self._process.pid
        self._mailbox = mailbox
        self._hand_over_terminal()
        threading.Thread(target=self._wait, name="blockyard-run-wait", daemon=True).start()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the whole group; nothing if none of it is left, or none of it may be signalled.

        The latter is a command that became another user (`sudo`): it goes on, and what it works with must stay held.
        """
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._group, number)

    def pause_together(self) -> None:
        """Stops this process too, as the shell expects of a job, and goes on with the command afterwards.

        Without a terminal the command's being stopped is nobody else's business, and the lease goes on.
        """
        if self._terminal is None:
            return
        self.take_back_terminal()
        os.kill(0, signal.SIGTSTP)
        # The shell has said `fg`, and this process is in the foreground, or `bg`, and the terminal stays the shell's.
        if _is_foreground(self._terminal, os.getpgrp()):
            _set_foreground(self._terminal, self._group)
        self.send(signal.SIGCONT)

    def take_back_terminal(self) -> None:
        """Makes this process's group the terminal's foreground again, if the command's is."""
        if self._terminal is not None and _is_foreground(self._terminal, self._group):
            _set_foreground(self._terminal, os.getpgrp())

    def _hand_over_terminal(self) -> None:
        if self._terminal is not None:
            _set_foreground(self._terminal, self._group)
            # It may have asked for input before it was in the foreground, and been stopped for that.
            self.send(signal.SIGCONT)

    def _wait(self) -> None:
        while True:
            _, status = os.waitpid(self._process.pid, os.WUNTRACED)
            if os.WIFSTOPPED(status):
                self._mailbox.put(Paused())
                continue
            code = os.waitstatus_to_exitcode(status)
            self._process.returncode = code
            self._mailbox.put(Ended(code if code >= 0 else _SIGNAL_EXIT - code))
            return


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a supervised command ended."""

    code: int
    """Its exit code, as a shell has it."""
    stopped: bool
    """It was told to stop because the lease was lost."""


def supervise(child: ChildCommand, mailbox: Mailbox, *, grace_s: float) -> Outcome:
    """Waits for the command's end. If the lease is lost, sends SIGTERM, and after `grace_s` seconds SIGKILL."""
    stopped = False
    kill_at: float | None = None
    while True:
        try:
            message = mailbox.get(timeout=None if kill_at is None else max(kill_at - time.monotonic(), 0))
        except Empty:
            kill_at = None
            child.send(signal.SIGKILL)
            continue
        match message:
            case Ended(code):
                child.take_back_terminal()
                return Outcome(code, stopped)
            case Paused():
                child.pause_together()
            case Signalled(number):
                child.send(number)
            case LeaseGone():
                if not stopped:
                    stopped = True
                    kill_at = time.monotonic() + grace_s
                    child.send(signal.SIGTERM)
                    # A stopped process takes no SIGTERM.
                    child.send(signal.SIGCONT)


def _foreground_terminal() -> int | None:
    """The terminal that stdin is, if this process's group is in its foreground."""
    try:
        terminal = sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):
        return None
    return terminal if os.isatty(terminal) and _is_foreground(terminal, os.getpgrp()) else None


def _is_foreground(terminal: int, group: int) -> bool:
    try:
        return os.tcgetpgrp(terminal) == group
    except OSError:
        return False


def _set_foreground(terminal: int, group: int) -> None:
    """A process that is not in the foreground may do this only while it blocks SIGTTOU."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, group)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
