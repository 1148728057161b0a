"""Where a client's token comes from, and when the client reads it again.

A token is sent as `authorization: Bearer …` with each call. It may be a constant, a file that somebody else writes (a
Kubernetes volume, an agent), or a function. Nothing in here ever shows a token: not in an error, not in the log.
"""

import logging
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import ClassVar, Final, TypeAlias

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

AUTHORIZATION: Final = "authorization"
LOOK_S: Final = 60.0
"""At a call, the file is looked at if the last look is this long ago."""
BETWEEN_QUESTIONS_S: Final = 1.0
"""Between two calls of a function for a new token, at least, however many calls were refused."""
MAX_TOKEN: Final = 16_384
"""Characters. What is longer fits no server's limit for metadata."""
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")

_log = logging.getLogger("blockyard.credentials")


def checked_token(text: str, origin: str) -> str:
    """A token that can be sent.

    Raises:
        ValueError: It cannot. The message says where it is from, and nothing of it.
    """
    token = text.strip()
    if not token:
        raise ValueError(f"{origin} is empty")
    if len(token) > MAX_TOKEN:
        raise ValueError(f"{origin} has {len(token)} characters; at most {MAX_TOKEN} can be sent")
    if not _VISIBLE.fullmatch(token):
        raise ValueError(
            f"{origin} has a space or another character that no token has; give it alone, without `Bearer`"
        )
    return token


class TokenSource(ABC):
    """Gives the token."""

    may_wait: ClassVar = False
    """Whether reading takes time, so that an event loop must not do it."""

    @abstractmethod
    def read(self) -> str:
        """The token as it is now. Raises ValueError, and whatever else its origin raises."""

    def is_due(self, now: float) -> bool:  # noqa: ARG002  # of a constant and of a function
        """Whether it may have changed by itself, so that it has to be looked at before the next call."""
        return False

    def may_be_new(self, now: float) -> bool:  # noqa: ARG002  # of a constant
        """Whether to look at it after a refusal."""
        return False


class ConstantToken(TokenSource):
    """A token that never changes."""

    def __init__(self, token: str) -> None:
        self._token = checked_token(token, "token")

    def read(self) -> str:
        return self._token


class TokenFile(TokenSource):
    """A file with the token in it, and nothing else but space around it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.fspath(path):
            raise ValueError("token_file is empty; omit it instead")
        self._path = Path(path)
        self._stamp: tuple[int, int, int] | None = None
        self._token = ""
        self._next_look = -inf

    def read(self) -> str:
        """Reads it again only if it has changed. Raises OSError, ValueError."""
        self._next_look = time.monotonic() + LOOK_S
        found = self._path.stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            with self._path.open(encoding="ascii", errors="replace") as file:
                self._token = checked_token(file.read(MAX_TOKEN + 2), f"the token in {self._path}")
            self._stamp = stamp
        return self._token

    def is_due(self, now: float) -> bool:
        return now >= self._next_look

    def may_be_new(self, now: float) -> bool:  # noqa: ARG002  # a look costs nothing
        return True


class TokenFunction(TokenSource):
    """A function that gives the token."""

    may_wait: ClassVar = True

    def __init__(self, function: Callable[[], str]) -> None:
        self._function = function
        self._last_question = -inf

    def read(self) -> str:
        token = self._function()
        if not isinstance(token, str):
            raise TypeError(f"the function for the token returned a {type(token).__name__}, and not a str")
        return checked_token(token, "the token that the function returned")

    def may_be_new(self, now: float) -> bool:
        if now < self._last_question + BETWEEN_QUESTIONS_S:
            return False
        self._last_question = now
        return True


class Bearer:
    """The metadata of each call of a client, with the token as it is now. For any number of threads."""

    def __init__(self, source: TokenSource, others: Metadata) -> None:
        """`others` is the metadata besides. A file is read now: OSError, ValueError."""
        self._source = source
        self._others = others
        self._lock = threading.Lock()
        self._metadata: Metadata | None = None
        if not source.may_wait:
            self._take()

    @property
    def may_wait(self) -> bool:
        """Whether the next call has to wait for a function."""
        return self._source.may_wait and self._metadata is None

    @property
    def renewal_may_wait(self) -> bool:
        """Whether a renewal waits for a function."""
        return self._source.may_wait

    def metadata(self) -> Metadata:
        """Of the next call. Raises what the function raises, if there is no token yet."""
        known = self._metadata
        if known is None:
            with self._lock:
                # Somebody else may have asked meanwhile.
                return self._metadata or self._take()
        if self._source.is_due(time.monotonic()) and self._lock.acquire(blocking=False):
            try:
                return self._take_if_possible()
            finally:
                self._lock.release()
        return known

    def renew(self, refused: Metadata) -> bool:
        """Whether there is another token than the one that was refused. Asks for it, if it may be there."""
        with self._lock:
            if self._metadata == refused and self._source.may_be_new(time.monotonic()):
                self._take_if_possible()
            return self._metadata != refused

    def _take(self) -> Metadata:
        taken: Metadata = (*self._others, (AUTHORIZATION, f"Bearer {self._source.read()}"))
        if taken != self._metadata:
            self._metadata = taken
        return taken

    def _take_if_possible(self) -> Metadata:
        """One that was good once is better than none: the server decides."""
        try:
            return self._take()
        except Exception as error:  # noqa: BLE001  # whatever a function of somebody else raises
            _log.warning("there is no new token, and the one before is used on: %s", error)
            assert self._metadata is not None, "it is replaced, and so there is one"
            return self._metadata
