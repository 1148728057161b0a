"""Opens the client that a command uses, and says at once if nobody listens there."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from blockyard._defaults import DEFAULT_ADDRESS
from blockyard._target import Server, decode_servers, names_a_form_of_grpc
from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.client import Client
from blockyard.errors import InvalidTarget

_PROBE_TIMEOUT_S: Final = 3.0
"""For all servers of the address together."""
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
        raise CommandFailed(str(error), exit_code=ExitCode.USAGE) from error


def _probe(target: str) -> None:
    """Tries to connect, unless the target is of a form that only gRPC understands, or behind a proxy."""
    if names_a_form_of_grpc(target):
        return
    try:
        servers = decode_servers(target)
    except InvalidTarget as error:
        # gRPC would take port 443, or look for a host of this whole name.
        raise CommandFailed(
            f"{error}.",
            next_step=f"Write it as {DEFAULT_ADDRESS}, in --address or BLOCKYARD_ADDRESS; several with commas between.",
            exit_code=ExitCode.USAGE,
        ) from error
    # Only an only server may be behind a proxy.
    if len(servers) == 1 and any(os.environ.get(name) for name in _PROXIES):
        return
    causes = []
    for server in servers:
        cause = _refusal_of(server, _PROBE_TIMEOUT_S / len(servers))
        if cause is None:
            return
        causes.append(cause if len(servers) == 1 else f"{server}: {cause}")
    raise CommandFailed(
        f"No service answers at {target}: {'; '.join(causes)}.",
        next_step="Start one with `blockyard serve`, or say where it is with --address or BLOCKYARD_ADDRESS.",
        exit_code=ExitCode.NO_ANSWER,
    )


def _refusal_of(server: Server, timeout_s: float) -> str | None:
    """Why no connection to it can be had; None if one can."""
    try:
        with socket.create_connection((server.host, server.port), timeout=timeout_s):
            return None
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error) or "no answer"
