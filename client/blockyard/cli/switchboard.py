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
    """A signal came while there was no command to pass it on to. Not an `Exception`: nothing may swallow it."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"ended by {number.name}")
        self.exit_code: Final = SIGNAL_EXIT + number
        """What the process ends with."""


class Switchboard:
    """Takes this process's signals while it runs a command.

    Before the command starts they end the wait for blocks, after that they are handed on. SIGTSTP stops this process
    while there is no command.
    """

    def __init__(self, hand_on: Callable[[signal.Signals], object]) -> None:
        """`hand_on` is called in a signal handler."""
        self._hand_on = hand_on
        self._connected = False

    def connect(self) -> None:
        """From now on there is, or was, a command to pass signals on to."""
        self._connected = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the signals of `FORWARDED`, and SIGTSTP; those that are ignored (as under nohup) stay ignored."""
        before = {number: signal.getsignal(number) for number in _TAKEN}
        heard = [number for number in _TAKEN if before[number] is not signal.SIG_IGN]
        for number in heard:
            signal.signal(number, self._take)
        try:
            yield
        finally:
            for number in heard:
                signal.signal(number, before[number] or signal.SIG_DFL)

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._connected:
            self._hand_on(signal.Signals(number))
        elif number == signal.SIGTSTP:
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            raise SignalledBeforeStart(signal.Signals(number))
