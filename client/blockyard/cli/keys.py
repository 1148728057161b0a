"""The keys that are pressed while something is shown, one by one, without waiting for Enter."""

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

try:
    import termios
    import tty

    _READABLE = True
except ImportError:  # Windows has neither
    _READABLE = False

Pressed: TypeAlias = Callable[[float], str]
"""Waits for a key for at most the given seconds; empty if none was pressed."""


@contextmanager
def pressed_keys() -> Iterator[Pressed]:
    """Reads keys from the terminal while the block runs, and leaves it as it was.

    Where stdin is no terminal, or of a kind that cannot do this, no key is ever pressed.
    """
    if not _READABLE or not sys.stdin.isatty():
        yield _nothing
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([number], [], [], seconds)
        return os.read(number, 1).decode(errors="replace") if ready else ""

    try:
        tty.setcbreak(number)
        yield pressed
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _nothing(seconds: float) -> str:
    time.sleep(seconds)
    return ""
