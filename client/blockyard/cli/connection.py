"""Opens the client that a command uses, and says at once if nobody listens there, or if TLS cannot be agreed on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.cli.probe import probe
from blockyard.cli.server_choice import ServerOptions, choose_server
from blockyard.client import Client


@contextmanager
def connect(server: ServerOptions, *, caller: str | None = None) -> Iterator[Client]:
    """A client for this server (docs/reference/cli.md says which that is), closed at the end.

    Raises:
        CommandFailed: Nobody listens there, or TLS cannot be agreed on. The SDK would go on trying for a while, which
            is right for a scheduler and wrong for a person who forgot to start the service. Also for an address of no
            known form, and for arguments that contradict each other.
        OSError: A file of the credentials cannot be read.
    """
    choice = choose_server(server)
    try:
        probe(choice.target, choice.tls)
        with Client(
            choice.target,
            caller=caller or os.environ.get("BLOCKYARD_CALLER") or choice.caller,
            token=choice.token,
            token_file=choice.token_file,
            tls=choice.tls,
        ) as client:
            yield client
    except ValueError as error:
        # The SDK's word for arguments that cannot be sent at all.
        raise CommandFailed(f"{error}.", exit_code=ExitCode.USAGE) from error
