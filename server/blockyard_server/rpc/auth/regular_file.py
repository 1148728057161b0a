"""Reads a file that somebody else writes: a regular one, and no more of it than is allowed.

To open a pipe would wait for its writer, and nobody would follow the file any more.
"""

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple


class Content(NamedTuple):
    """What is in a file, and who may use it."""

    data: bytes
    mode: int
    """Its permission bits."""


def read_regular_file(path: Path, most: int) -> Content:
    """The first `most` bytes. Raises OSError, also if it is no regular file; ValueError if no file has such a path."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return Content(file.read(most), stat.S_IMODE(mode))
    finally:
        os.close(descriptor)
