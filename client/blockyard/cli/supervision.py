"""Waits for a command beside a lease: hands on signals, stops with it, ends it when the lease is lost."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from queue import Empty

from blockyard._clock import lease_now
from blockyard._leasing import LONGEST_SLEEP_S
from blockyard.cli.child import ChildCommand, GuardEnded, LeaseGone, Mailbox, Message, Signalled
from blockyard.cli.failures import ExitCode
from blockyard.cli.guard_messages import AllPaused, Ended, Gone, Paused, Stopping, Unkillable


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a supervised command ended."""

    code: int
    """Its exit code, as a shell has it."""
    stopped: bool
    """It was told to stop because the lease was lost."""


class Supervision:
    """Waits until nothing of a command is left, and carries out what is asked for meanwhile."""

    def __init__(self, child: ChildCommand, *, lease_holds: Callable[[], bool], tell: Callable[[str], object]) -> None:
        self._child = child
        self._lease_holds = lease_holds
        self._tell = tell
        self._code: int | None = None
        self._stopped = False
        self._stop_as_job = False
        self._kill_at = inf

    def run(self, mailbox: Mailbox) -> Outcome:
        """Returns how the command ended, once nothing of it is left."""
        while True:
            wait_s = None if self._kill_at == inf else min(max(self._kill_at - lease_now(), 0), LONGEST_SLEEP_S)
            try:
                message = mailbox.get(timeout=wait_s)
            except Empty:
                self._kill_if_it_is_time()
                continue
            if isinstance(message, GuardEnded):
                self._child.end_without_guard()
                self._tell("The guard of the command was ended, so the command was killed.")
            if isinstance(message, GuardEnded | Gone):
                self._child.take_back_terminal()
                return Outcome(ExitCode.RUN_FAILED if self._code is None else self._code, self._stopped)
            self._take(message)

    def _take(self, message: Message) -> None:
        match message:
            case Ended(code):
                self._code = code
                self._child.take_back_terminal()
            case LeaseGone():
                self._stop()
            case Stopping():
                self._stop()
                # A look at the lease says why it is lost, if that was not said before.
                if self._lease_holds():
                    self._tell("The lease was renewed too late, stopping the command.")
            case Paused() if self._child.is_job:
                self._stop_as_job = True
                self._child.pause()
            case AllPaused():
                self._stop_together()
            case Signalled(number):
                self._take_signal(number)
            case Unkillable(count):
                self._tell(f"Processes of the command that did not end after SIGKILL: {count}. Waiting for them.")
            case _:
                pass  # without a terminal it is nobody else's business that the command was stopped

    def _take_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGTSTP:
            self._stop_as_job = False
            self._child.pause()
        elif self._code is None:
            self._child.forward(number)
        else:
            self._child.stop()

    def _stop_together(self) -> None:
        self._child.stop_this_process(as_job=self._stop_as_job)
        # The first thing afterwards: the command must not work with blocks that are somebody else's.
        if self._lease_holds():
            self._child.resume()

    def _stop(self) -> None:
        if self._kill_at == inf:
            self._stopped = self._code is None
            self._kill_at = self._child.stop()

    def _kill_if_it_is_time(self) -> None:
        """The guard does the same at this moment, unless somebody keeps it from it."""
        if lease_now() >= self._kill_at:
            self._child.kill()
            self._kill_at = lease_now() + LONGEST_SLEEP_S
