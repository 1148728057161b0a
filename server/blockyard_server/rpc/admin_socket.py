"""The admin socket: a Unix socket whose file says who may do everything. The way in when nothing else lets anybody in.

Python's gRPC does not tell who is at the other end, so the file's mode is the access control. gRPC takes a socket from
a server that has it, and removes it at its own end; so a lock beside it keeps a second server away.
"""

import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final
from urllib.parse import quote

import grpc
from filelock import FileLock, Timeout

from blockyard_server.rpc.auth.authenticator import Certificate, Metadata, Unauthenticated
from blockyard_server.rpc.auth.principal import Principal

OWNER_ONLY: Final = 0o600
ROOT: Final = Principal("root", "@socket", "socket")
"""Who may open the socket: an admin of every fleet. The tenant is no id: no auth file and no JWT can name it."""
_PROBE_S: Final = 1.0


class RootOnly:
    """Takes everybody for `ROOT`: the system has let him open the socket."""

    def authenticate(self, metadata: Metadata, certificate: Certificate) -> Principal:
        """As in the protocol."""
        return ROOT

    def note_refusal(self, peer: str, stranger: Unauthenticated) -> None:
        """As in the protocol. Nobody is refused."""

    def is_still_valid(self, principal: Principal) -> bool:
        """As in the protocol."""
        return principal is ROOT


class AdminSocket:
    """A listener at a Unix socket."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.authenticator = RootOnly()
        self.by_certificate = False
        self.is_port = False
        self.replaces_connections = False
        # No soft lock: it outlives a kill -9.
        self._lock = FileLock(
            self.path.with_name(f"{self.path.name}.lock"),
            mode=OWNER_ONLY,
            thread_local=False,
            fallback_to_soft=False,
            preserve_lock_file=True,
        )

    def bind(self, server: grpc.aio.Server) -> str:
        """As in `Listener`. Makes the socket with mode 0600; one that a killed server has left is replaced."""
        self._take_lock()
        try:
            self._expect_free()
            self._make(server)
        except BaseException:
            self._lock.release()
            raise
        return f"unix:{self.path}"

    def close(self) -> None:
        """Removes the socket, if the server was not started and so has not, and lets the next server have it."""
        if self._lock.is_locked:
            self.path.unlink(missing_ok=True)
            self._lock.release()

    def _take_lock(self) -> None:
        if not self.path.parent.is_dir():
            # The lock would make it, open to whomever the umask lets in.
            raise self._refused("its folder is not there; make it, or choose another --admin-socket")
        try:
            self._lock.acquire(blocking=False)
        except Timeout as taken:
            raise self._refused("another server has it; stop that one, or choose another --admin-socket") from taken
        except OSError as error:
            raise self._refused(f"{error.strerror}; this user must be able to write the folder") from error

    def _expect_free(self) -> None:
        """Expects nothing at the path, or a socket that nobody listens at. Raises OSError."""
        try:
            mode = self.path.lstat().st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(mode):
            raise self._refused("something else is there; remove it, or choose another --admin-socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_PROBE_S)
            found = probe.connect_ex(str(self.path))
        if found != errno.ECONNREFUSED:
            raise self._refused("another program listens there; stop it, or choose another --admin-socket")

    def _make(self, server: grpc.aio.Server) -> None:
        # By the umask, so that nobody can open it before a chmod. Files that other threads make just now get less, too.
        before = os.umask(0o177)
        try:
            # Percent signs and the like are decoded again by gRPC.
            server.add_insecure_port(f"unix:{quote(str(self.path))}")
        except RuntimeError as error:
            raise self._refused("the path is too long, or this user may not write the folder") from error
        finally:
            os.umask(before)

    def _refused(self, reason: str) -> OSError:
        return OSError(f"cannot make the admin socket {self.path}: {reason}")
