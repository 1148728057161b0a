"""Ends what only a client can see: a connection on which the server never answers.

A statement's own limits are the server's to keep. A server that is frozen, or a network that swallows every answer,
keeps none: then the waiting thread would wait for as long as the system does. The watchdog shuts the socket down, and
the call that waits on it ends with an error.
"""

import os
import socket
import threading
import time
import weakref
from contextlib import suppress
from typing import Final, Protocol

import psycopg

LOOK_S: Final = 0.25
"""Between two looks at all connections."""
_NEVER: Final = float("inf")


class _Open(Protocol):
    @property
    def socket(self) -> int:
        """The descriptor."""
        ...


class Watch:
    """One connection's bound. Used and kept by the one who waits on it; `end` before it is closed."""

    def __init__(self, connection: _Open) -> None:
        self._connection: _Open | None = connection
        self._lock = threading.Lock()
        self._until = _NEVER
        self.cut = False
        """The socket was shut down."""

    def begin(self, limit_s: float) -> None:
        """From now on an answer must come within so many seconds."""
        self._until = time.monotonic() + limit_s

    def rest(self) -> None:
        """Nobody waits."""
        self._until = _NEVER

    def end(self) -> None:
        """The descriptor is about to be closed: it may be another file's in a moment."""
        with self._lock:
            self._connection = None

    def look(self, now: float) -> None:
        """The watchdog's side."""
        if now < self._until:
            return
        with self._lock:
            if self._connection is None or now < self._until:
                return
            self._until = _NEVER
            self.cut = True
            with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self._connection.socket)) as twin:
                twin.shutdown(socket.SHUT_RDWR)


class Watchdog:
    """A thread that looks at every watched connection."""

    def __init__(self) -> None:
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to look."""
        self._thread = threading.Thread(target=self._run, name="blockyard-watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def watch(self, connection: _Open) -> Watch:
        """A watch over this connection."""
        made = Watch(connection)
        with self._lock:
            self._watches.add(made)
        return made

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            with self._lock:
                watches = list(self._watches)
            now = time.monotonic()
            for watch in watches:
                watch.look(now)
