"""The guard of `blockyard run`: a process beside it that starts the command and ends it in time.

`run` keeps the lease and tells the guard of each renewal. If it does not, since it was stopped or killed, or since the
machine was suspended, the guard ends the command before the lease ends. The guard adopts the command's orphans, so that
it knows when nothing of the command is left. It has no threads, and a process group of its own.
"""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable
from math import inf
from multiprocessing.connection import Connection, Pipe
from typing import Final

from blockyard._clock import lease_now
from blockyard.cli.alarm import Alarm
from blockyard.cli.command_times import CommandTimes
from blockyard.cli.guard_messages import (
    AllPaused,
    CannotExecute,
    Ended,
    Forward,
    Gone,
    Leave,
    Order,
    Pause,
    Paused,
    Renewed,
    Report,
    Resume,
    Start,
    Started,
    Stop,
    Stopping,
    TooLate,
    Unkillable,
)
from blockyard.cli.linux_calls import die_with_parent, set_process_name
from blockyard.cli.own_cgroup import OwnCgroup
from blockyard.cli.process_tree import ProcessTree
from blockyard.cli.terminal import set_foreground

FORWARDED: Final = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""What is passed on to the command."""
SIGNAL_EXIT: Final = 128
"""A shell's code for a command that signal n ended is 128 + n."""
LINGER_S: Final = 0.5
"""What the command leaves behind may end by itself for so long: the `tee` of a shell's process substitution, say."""
_SAME_SIGNAL_S: Final = 0.1
"""The same signal twice within this is one: who signals all of a service sends it to `run` and to its guard."""
_RETRY_S: Final = 0.05
"""Between two rounds of SIGKILL."""
_PATIENCE_S: Final = 2.0
"""What is left so long after SIGKILL may not be signalled, or hangs in the kernel: it is said, and tried less often."""


def fork_guard() -> tuple[int, Connection]:
    """Starts the guard: its process id, and the connection to it. Call it while this process has no threads yet."""
    ours, theirs = Pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # No signal may meet the copy of a handler of ours in there.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = os.fork()
    if pid == 0:
        ours.close()
        _live(theirs, before)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return pid, ours


def _live(keeper: Connection, unblocked: Iterable[int]) -> None:
    """The whole life of the guard's process."""
    code = 1
    try:
        os.setpgid(0, 0)
        set_process_name("blockyard-guard")
        guard = Guard(keeper)
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        guard.serve()
        code = 0
    except BaseException:  # noqa: BLE001  # it must not return into the copy of its parent, whatever happened
        if os.environ.get("BLOCKYARD_TRACEBACK"):
            traceback.print_exc()
    finally:
        os._exit(code)


class Guard:
    """Starts one command, and ends it when its time is over, when it is told to, or when nobody is there to tell."""

    def __init__(self, keeper: Connection) -> None:
        self._keeper = keeper
        self._keeper_left = False
        self._tree = ProcessTree()
        self._command: subprocess.Popen[bytes] | None = None
        self._times = CommandTimes()
        self._paused = False
        self._linger_until = inf
        self._stopped_at: float | None = None
        self._kill_again_at: float | None = None
        self._told_unkillable = False
        self._forwarded_at: dict[int, float] = {}
        self._wakes = _signal_numbers()
        self._alarm = Alarm([keeper.fileno(), self._wakes])

    def serve(self) -> None:
        """Until nothing of the command is left; at once if there is no command and nobody who could send one."""
        while not self._is_over():
            self._alarm.wait(self._next_look())
            # A renewal that waits to be read counts.
            while not self._keeper_left and self._keeper.poll():
                self._take_order()
            self._look_at_the_time()
            self._take_signals()
            self._reap()
            self._look_at_the_time()
        if self._tree.cgroup is not None:
            self._tree.cgroup.remove()
        self._report(Gone())

    def _take_signals(self) -> None:
        """Passes on what this process itself got: the command takes its parent for `run`."""
        with contextlib.suppress(BlockingIOError):
            for number in os.read(self._wakes, 1024):
                if number in FORWARDED:
                    self._forward(number)

    def _is_over(self) -> bool:
        if self._command is None:
            return self._keeper_left
        return self._command.returncode is not None and self._tree.is_gone()

    def _next_look(self) -> float:
        if self._command is None:
            return inf
        if self._stopped_at is None:
            return min(self._times.stop_at, self._linger_until)
        return self._kill_again_at or self._times.kill_at(self._stopped_at)

    def _look_at_the_time(self) -> None:
        """Stops the command, or kills it, if the time for that has come."""
        now = lease_now()
        if self._command is None or self._is_over():
            return
        if self._stopped_at is None and now >= self._times.stop_at:
            self._report(Stopping())
            self._stop(now)
        elif now >= self._linger_until:
            self._stop(now)
        if self._stopped_at is not None and now >= self._next_look():
            self._kill(now, self._stopped_at)

    def _stop(self, now: float) -> None:
        if self._stopped_at is not None or self._command is None:
            return
        self._stopped_at = now
        if now < self._times.kill_at(now):
            self._tree.send(signal.SIGTERM)
            # A stopped process takes no SIGTERM.
            self._tree.send(signal.SIGCONT)

    def _kill(self, now: float, stopped_at: float) -> None:
        self._tree.kill()
        late_s = now - self._times.kill_at(stopped_at)
        self._kill_again_at = now + (_RETRY_S if late_s < _PATIENCE_S else _PATIENCE_S)
        if late_s >= _PATIENCE_S and not self._told_unkillable:
            self._told_unkillable = True
            self._report(Unkillable(self._tree.count()))

    def _take_order(self) -> None:
        try:
            order: Order = self._keeper.recv()
        except (EOFError, OSError):
            # It was killed.
            order = Leave()
        match order:
            case Start():
                self._start(order)
            case Renewed(times):
                self._times = times
            case Stop():
                self._stop(lease_now())
            case Forward(number):
                self._forward(number)
            case Pause():
                self._tree.pause()
                self._paused = True
                self._report(AllPaused())
            case Resume():
                self._resume()
            case Leave():
                # Nobody renews any more.
                self._keeper_left = True
                self._stop(lease_now())

    def _start(self, start: Start) -> None:
        self._times = start.times
        if lease_now() >= start.times.stop_at:
            self._report(TooLate())
            return
        cgroup = OwnCgroup.make(f"blockyard-run-{os.getpid()}")
        try:
            command = subprocess.Popen(  # noqa: S603  # the user's own
                start.command,
                env=dict(start.environment),
                process_group=0,
                preexec_fn=lambda: _before_exec(cgroup, start.terminal),  # noqa: PLW1509  # the guard has no threads
            )
        except (OSError, ValueError) as error:  # ValueError: a zero byte in an argument, or in what the server has said
            if cgroup is not None:
                cgroup.remove()
            failure = error if isinstance(error, OSError) else OSError(errno.EINVAL, str(error))
            self._report(CannotExecute(failure))
            return
        self._command, self._tree.group, self._tree.cgroup = command, command.pid, cgroup
        self._report(Started(command.pid, None if cgroup is None else str(cgroup.folder)))

    def _forward(self, number: int) -> None:
        command, now = self._command, lease_now()
        if command is None or command.returncode is not None:
            return
        if now >= self._forwarded_at.get(number, -inf) + _SAME_SIGNAL_S:
            self._forwarded_at[number] = now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(command.pid, number)

    def _resume(self) -> None:
        if self._stopped_at is None and lease_now() < self._times.stop_at:
            self._paused = False
            self._tree.send(signal.SIGCONT)

    def _reap(self) -> None:
        for pid, status in self._tree.reap():
            command = self._command
            if command is None or pid != command.pid:
                continue
            if os.WIFSTOPPED(status):
                if not self._paused:
                    self._paused = True
                    self._report(Paused())
            elif os.WIFCONTINUED(status):
                self._paused = False
            else:
                code = os.waitstatus_to_exitcode(status)
                command.returncode = code
                self._linger_until = lease_now() + LINGER_S
                self._report(Ended(code if code >= 0 else SIGNAL_EXIT - code))

    def _report(self, report: Report) -> None:
        # Its reader may have been killed.
        with contextlib.suppress(OSError):
            self._keeper.send(report)


def _signal_numbers() -> int:
    """A file descriptor with the number of each signal that this process gets from now on."""
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (*FORWARDED, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD):
        # A handler and not SIG_IGN, which the command would inherit; what is ignored already stays ignored for it.
        if number == signal.SIGCHLD or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    return reading


def _before_exec(cgroup: OwnCgroup | None, terminal: int | None) -> None:
    """In the command's process, before it becomes the command."""
    if cgroup is not None:
        cgroup.join()
    # Only its first process: for the case that somebody kills both `run` and the guard.
    die_with_parent()
    if terminal is not None:
        set_foreground(terminal, os.getpgrp())
