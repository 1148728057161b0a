"""The channels of a client: one, or the newest of several after its TLS files have changed.

A channel keeps the certificates that it was opened with. When the files change, a new channel is opened beside the old
one. New calls go over the new one; calls that are under way end on the old one, which is closed then. A watch on it
ends there, and begins again on the new one.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import grpc

from blockyard._tls import TlsFiles

ChannelT = TypeVar("ChannelT")

LOOK_S: Final = 60.0
"""At a call, the TLS files are looked at if the last look is this long ago."""
MAX_RETIRED: Final = 8
"""Old channels that may still have calls under way. One more, and the oldest is closed with its calls."""


class OpenedChannel(Generic[ChannelT]):
    """A channel and what belongs to it."""

    __slots__ = ("calls", "channel", "retired", "stubs")

    def __init__(self, channel: ChannelT) -> None:
        self.channel: Final = channel
        self.stubs: Final[dict[str, Any]] = {}
        """By the path of the method."""
        self.calls = 0
        """How many are under way; only what `enter` and `leave` were told of."""
        self.retired = False


class Channels(Generic[ChannelT]):
    """Opens them, and counts calls so as to know when an old one may be closed. For any number of threads."""

    def __init__(
        self,
        open_channel: Callable[[grpc.ChannelCredentials | None], ChannelT],
        credentials: grpc.ChannelCredentials | TlsFiles | None,
    ) -> None:
        self._open_channel = open_channel
        self._files = credentials if isinstance(credentials, TlsFiles) else None
        self._lock = threading.Lock()
        self._next_look = time.monotonic() + LOOK_S
        self._retired: list[OpenedChannel[ChannelT]] = []
        self.current = OpenedChannel(
            open_channel(credentials.credentials() if isinstance(credentials, TlsFiles) else credentials)
        )
        """The one for new calls."""

    @property
    def look_is_due(self) -> bool:
        """Whether to call `replace` before the next call."""
        return self._files is not None and time.monotonic() >= self._next_look

    def replace(self) -> list[ChannelT]:
        """Opens a new channel if the files have changed; the caller closes those that are returned."""
        if self._files is None:
            return []
        with self._lock:
            self._next_look = time.monotonic() + LOOK_S
            if not self._files.look():
                return []
            old, self.current = self.current, OpenedChannel(self._open_channel(self._files.credentials()))
            old.retired = True
            self._retired.append(old)
            over = [each for each in self._retired if not each.calls] or self._retired[:-MAX_RETIRED]
            self._retired = [each for each in self._retired if each not in over]
            return [each.channel for each in over]

    def enter(self) -> OpenedChannel[ChannelT]:
        """The channel for a call that begins now. `leave` has to follow."""
        if self._files is None:
            return self.current
        with self._lock:
            self.current.calls += 1
            return self.current

    def leave(self, opened: OpenedChannel[ChannelT]) -> list[ChannelT]:
        """A call is over; the caller closes the channels that are returned."""
        if self._files is None:
            return []
        with self._lock:
            opened.calls -= 1
            if opened.calls or opened not in self._retired:
                return []
            self._retired.remove(opened)
            return [opened.channel]

    def all(self) -> list[ChannelT]:
        """Every one that is open."""
        return [self.current.channel, *(each.channel for each in self._retired)]
