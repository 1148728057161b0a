"""Which process group has the terminal, as a shell's job control sees it."""

import contextlib
import os
import signal
import sys


def foreground_terminal() -> int | None:
    """The terminal that stdin is, if this process's group is in its foreground."""
    try:
        terminal = sys.stdin.fileno()
    except (OSError, ValueError, AttributeError):
        return None
    return terminal if os.isatty(terminal) and is_foreground(terminal, os.getpgrp()) else None


def is_foreground(terminal: int, group: int) -> bool:
    """Whether the group has the terminal."""
    try:
        return os.tcgetpgrp(terminal) == group
    except OSError:
        return False


def if_owned_hand_over(terminal: int, owner: int, other: int) -> None:
    """Gives the terminal to the other group, if the owner has it."""
    if is_foreground(terminal, owner):
        set_foreground(terminal, other)


def set_foreground(terminal: int, group: int) -> None:
    """Gives the terminal to the group. A process that is not in the foreground may do this while it blocks SIGTTOU."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        with contextlib.suppress(OSError):
            os.tcsetpgrp(terminal, group)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
