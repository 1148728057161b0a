"""The calls of Linux that Python has no name for. Each says what it could do; elsewhere none can do anything."""

import ctypes
import os
import signal
import sys
import time
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_TFD_TIMER_ABSTIME: Final = 1
_NS: Final = 10**9

IS_LINUX: Final = sys.platform == "linux"
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if IS_LINUX else None


def adopt_orphans(*, wanted: bool = True) -> bool:
    """Whether the orphans among this process's descendants become its own children from now on."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, int(wanted))


def die_with_parent() -> bool:
    """Whether this process gets SIGKILL as soon as the thread that forked it ends. An exec keeps that."""
    return _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_process_name(name: str) -> bool:
    """Names this process as `ps` shows it, in at most 15 bytes."""
    return _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


class BootTimer:
    """A file descriptor that can be read from a moment of CLOCK_BOOTTIME on.

    A timeout of `poll` stands still while the machine is suspended. This timer does not: it is due at once when the
    machine is awake again.
    """

    def __init__(self) -> None:
        self.fd: Final[int | None] = self._make()
        """None where there is no such timer."""

    def arm(self, moment: float) -> None:
        """Sets the moment, in seconds on CLOCK_BOOTTIME; replaces the one before."""
        if _LIBC is None or self.fd is None:
            return
        seconds, nanoseconds = divmod(max(int(moment * _NS), 1), _NS)
        times = (ctypes.c_long * 4)(0, 0, seconds, nanoseconds)
        _LIBC.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, ctypes.byref(times), None)

    @staticmethod
    def _make() -> int | None:
        if _LIBC is None:
            return None
        descriptor = int(_LIBC.timerfd_create(time.CLOCK_BOOTTIME, os.O_CLOEXEC | os.O_NONBLOCK))
        return descriptor if descriptor >= 0 else None


def _prctl(option: int, value: "int | ctypes.c_char_p") -> bool:
    if _LIBC is None:
        return False
    number = ctypes.c_ulong(value) if isinstance(value, int) else value
    return int(_LIBC.prctl(option, number, 0, 0, 0)) == 0
