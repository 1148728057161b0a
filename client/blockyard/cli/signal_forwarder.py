"""Takes the signals of `blockyard run` while it holds blocks for a command."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from blockyard.cli.guard import FORWARDED, SIGNAL_EXIT

_TAKEN: Final = (*FORWARDED, signal.SIGTSTP)


class SignalledBeforeStart(BaseException):
    """A signal came while there was no command to forward it to. Not an `Exception`: nothing may swallow it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"ended by {number.name}")
        self.exit_code: Final = SIGNAL_EXIT + number
        """What the process ends with."""


class SignalForwarder:
    """Takes this process's signals while it runs a command.

    Before the command starts they end the wait for blocks, after that they are forwarded to it. SIGTSTP stops this
    process while there is no command.
    """

    def __init__(self, forward: Callable[[signal.Signals], object]) -> None:
        """`forward` is called in a signal handler."""
        self._forward = forward
        self._forwarding = False

    def start_forwarding(self) -> None:
        """From now on there is, or was, a command to forward signals to."""
        self._forwarding = True

    @contextlib.contextmanager
    def handling(self) -> Iterator[None]:
        """Handles the signals of `FORWARDED`, and SIGTSTP; those that are ignored (as under nohup) stay ignored."""
        before = {number: signal.getsignal(number) for number in _TAKEN}
        taken = [number for number in _TAKEN if before[number] is not signal.SIG_IGN]
        for number in taken:
            signal.signal(number, self._take)
        try:
            yield
        finally:
            for number in taken:
                signal.signal(number, before[number] or signal.SIG_DFL)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._forwarding:
            self._forward(signal.Signals(number))
        elif number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            raise SignalledBeforeStart(signal.Signals(number))
