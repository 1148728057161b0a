"""Opens the client that a command uses, and says at once if nobody listens there."""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.client import Client

DEFAULT_ADDRESS: Final = "127.0.0.1:7350"
"""Where `blockyard serve` listens unless it is told otherwise; the SDK's default too."""
_PROBE_TIMEOUT_S: Final = 3.0
_HOST_PORT: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
_MAX_PORT: Final = 65_535
_GRPC_FORMS: Final = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:")
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")


@contextmanager
def connect(address: str | None, *, caller: str | None = None) -> Iterator[Client]:
    """A client for this address (else BLOCKYARD_ADDRESS, else the default), closed at the end.

    Raises:
        CommandFailed: Nobody listens there. The SDK would go on trying for a while, which is right for a scheduler and
            wrong for a person who forgot to start the service. Also for an address of no known form, and for arguments
            that contradict each other.
    """
    target = (os.environ.get("BLOCKYARD_ADDRESS") or DEFAULT_ADDRESS) if address is None else address
    _probe(target)
    try:
        with Client(target, caller=caller) as client:
            yield client
    except ValueError as error:
        # The SDK's word for arguments that cannot be sent at all.
        raise CommandFailed(f"{error}.".replace("..", "."), exit_code=ExitCode.USAGE) from error


def _probe(target: str) -> None:
    """Tries to connect, unless the target is of a form that only gRPC understands, or behind a proxy."""
    if target.startswith(_GRPC_FORMS):
        return
    found = _HOST_PORT.fullmatch(target)
    if found is None or int(found["port"]) > _MAX_PORT:
        # gRPC would take port 443, or look for a host of this whole name.
        raise CommandFailed(
            f"{target!r} is not an address of the form HOST:PORT.",
            next_step=f"Write it as {DEFAULT_ADDRESS}, in --address or BLOCKYARD_ADDRESS.",
            exit_code=ExitCode.USAGE,
        )
    if any(os.environ.get(name) for name in _PROXIES):
        return
    try:
        with socket.create_connection((found["host"].strip("[]"), int(found["port"])), timeout=_PROBE_TIMEOUT_S):
            pass
    except (OSError, UnicodeError) as error:
        cause = getattr(error, "strerror", None) or str(error) or "no answer"
        raise CommandFailed(
            f"No service answers at {target}: {cause}.",
            next_step="Start one with `blockyard serve`, or say where it is with --address or BLOCKYARD_ADDRESS.",
            exit_code=ExitCode.NO_ANSWER,
        ) from error
