"""File descriptors: how many this process may have, which the server itself needs, and what is left for connections.

A server whose connections use all descriptors cannot open its database, and says that the database is away. So
connections are limited below what the server keeps for itself (docs/adr/0015).
"""

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blockyard_server.http_server import OWN_DESCRIPTORS as OF_HTTP
from blockyard_server.rpc.server import MAX_LOCAL_CONNECTIONS
from blockyard_server.settings import Settings
from blockyard_server.store.postgres.store import WRITER_SHARDS

MOST_DESCRIPTORS: Final = 65_536
"""The limit is raised to this, if the system allows it; a hard limit may be far higher than anybody needs."""
LEAST_CONNECTIONS: Final = 16
"""A server that could not accept so many refuses to start."""
OF_GRPC: Final = 32
"""The listening sockets, polls and wake-ups of gRPC and of the event loop."""
OF_DATA_FILE: Final = 8
"""The file, its log and index; the lock, and what looks after them."""
OF_READER: Final = 2
"""SQLite: the file and its log. PostgreSQL: the connection, and the poll that waits for it to be made."""
OF_VERIFY: Final = 8
"""Verify's own connection, and SQLite's temporary files."""
OF_ADMIN_SOCKET: Final = MAX_LOCAL_CONNECTIONS + 2
"""Its connections, itself and its lock."""
OF_SIGNALS: Final = 4
"""What hears and tells of other servers by way of PostgreSQL."""
SPARE: Final = 64
"""What is open for a moment: names that are looked up, certificates, a connection that is closed at once."""


class TooFewDescriptors(Exception):
    """The system's limit does not leave enough for connections; the message says what to raise it to."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What the descriptors of this process are for."""

    limit: int
    """As many may be open."""
    own: int
    """So many are kept for the server itself."""
    connections: int
    """So many connections are accepted."""

    def __str__(self) -> str:
        """For the log."""
        own = f"this process may open {self.limit} files, and keeps {self.own} for itself"
        return f"{self.connections} connections: {own}"


def share_out(settings: Settings) -> Descriptors:
    """Raises the limit as far as the system allows, and shares it out. Raises TooFewDescriptors."""
    limit = _raise_limit()
    own = open_now() + _needed(settings)
    if limit - own < LEAST_CONNECTIONS:
        raise TooFewDescriptors(
            f"this process may open {limit} files, the server itself needs {own}, and clients need at least "
            f"{LEAST_CONNECTIONS}; raise the limit to 1024 or more (`ulimit -n`, systemd's LimitNOFILE)"
        )
    return Descriptors(limit, own, min(settings.max_connections, limit - own))


def _raise_limit() -> int:
    """The limit, after the soft one was raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft == resource.RLIM_INFINITY:
        return MOST_DESCRIPTORS
    if soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):  # a system may allow less than it says
            return soft
        return most
    return soft


def open_now() -> int:
    """What is open already, also what was inherited."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


def _needed(settings: Settings) -> int:
    """What the server will open, at most."""
    own = OF_GRPC + OF_READER * settings.readers + OF_VERIFY + SPARE
    own += OF_DATA_FILE if settings.database is None else OF_READER * WRITER_SHARDS + OF_SIGNALS
    own += 0 if settings.admin_socket is None else OF_ADMIN_SOCKET
    return own + (OF_HTTP if settings.ops_address else 0)
