"""Which server a command calls, and with which credentials: out of its options, the environment and the contexts.

Credentials belong to a server. So a context's are never sent to an address that was named otherwise; and the
environment's are not used with a context that was named on the command line.
"""

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from blockyard._defaults import DEFAULT_ADDRESS
from blockyard.cli.contexts import Config, Context, read_config
from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.cli.token_command import TokenCommand
from blockyard.credentials import CA, CERT, KEY, SERVER_NAME, TOKEN, TOKEN_FILE, Tls, switch_of, tls_of

ADDRESS: Final = "BLOCKYARD_ADDRESS"
CONTEXT: Final = "BLOCKYARD_CONTEXT"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What the command line says. None: nothing."""

    address: str | None = None
    context: str | None = None
    token_file: str | None = None
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    server_name: str | None = None
    tls: bool | None = None

    def over(self, others: "ServerOptions") -> "ServerOptions":
        """These, and the others' where these say nothing."""
        chosen = {each.name: getattr(self, each.name) for each in fields(self)}
        return ServerOptions(
            **{name: getattr(others, name) if value is None else value for name, value in chosen.items()}
        )


NO_OPTIONS: Final = ServerOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerChoice:
    """The server and the credentials of a command."""

    target: str
    origin: str
    """What has named it, in a few words."""
    context: str | None = None
    tls: Tls | None = None
    token: str | Callable[[], str] | None = field(default=None, repr=False)
    token_file: str | None = None
    token_origin: str | None = None
    """Where the token is from, in a few words. None: there is no token."""
    caller: str | None = None
    """The context's."""


def choose_server(
    options: ServerOptions,
    environment: Mapping[str, str] | None = None,
    read: Callable[[], Config] = read_config,
) -> ServerChoice:
    """The choice. The file of the contexts is read only if a context may be meant.

    Raises:
        CommandFailed: Two things are named that exclude each other, or a context that is not there, or the file is
            malformed.
        OSError: The file cannot be read.
    """
    variables = os.environ if environment is None else environment
    name, target, origin = _name_server(options, variables)
    context = None
    if target is None:
        config = read()
        name = name or config.current
        if name is None:
            target, origin = DEFAULT_ADDRESS, "the default"
        else:
            context = config.context(name)
            target = context.address
            origin = origin or "the current context"
    own = variables if options.context is None else {}
    try:
        tls = _choose_tls(options, own, context)
        token = _choose_token(options, own, context)
    except ValueError as error:
        raise CommandFailed(f"{error}.", exit_code=ExitCode.USAGE) from error
    return ServerChoice(
        target=target,
        origin=origin,
        context=name if context else None,
        tls=tls,
        token=token.value,
        token_file=token.file,
        token_origin=token.origin,
        caller=context.caller if context else None,
    )


def _name_server(options: ServerOptions, variables: Mapping[str, str]) -> tuple[str | None, str | None, str]:
    """The context's name or the address, and what has named it; nothing of all that if neither is named."""
    ways = (
        (options.context, options.address, "--context", "--address"),
        (variables.get(CONTEXT), variables.get(ADDRESS), CONTEXT, ADDRESS),
    )
    for context, address, context_word, address_word in ways:
        if context and address is not None and address:
            raise CommandFailed(
                f"{context_word} and {address_word} both say which server is meant.",
                next_step="Leave out one of them.",
                exit_code=ExitCode.USAGE,
            )
        if context:
            return context, None, context_word
        if address is not None and (address or address_word == "--address"):
            return None, address, address_word
    return None, None, ""


def _choose_tls(options: ServerOptions, variables: Mapping[str, str], context: Context | None) -> Tls | None:
    """Each part is the first that is given: options, environment, context. A certificate and its key go together."""
    pairs = (
        (options.cert, options.key),
        (variables.get(CERT), variables.get(KEY)),
        (context.cert, context.key) if context else (None, None),
    )
    cert, key = next((pair for pair in pairs if any(pair)), (None, None))
    switch = options.tls if options.tls is not None else switch_of(variables)
    if switch is None and context is not None:
        switch = context.tls
    return tls_of(
        switch,
        ca=options.ca or variables.get(CA) or (context.ca if context else None),
        cert=cert,
        key=key,
        server_name=options.server_name or variables.get(SERVER_NAME) or (context.server_name if context else None),
    )


@dataclass(frozen=True, slots=True)
class _Token:
    """At most one of the two, and where it is from."""

    origin: str | None = None
    value: str | Callable[[], str] | None = field(default=None, repr=False)
    file: str | None = None


def _choose_token(options: ServerOptions, variables: Mapping[str, str], context: Context | None) -> _Token:
    if options.token_file:
        return _Token(f"the file {options.token_file} (--token-file)", file=options.token_file)
    token, token_file = variables.get(TOKEN), variables.get(TOKEN_FILE)
    if token and token_file:
        raise ValueError(f"{TOKEN} and {TOKEN_FILE} are both set; unset one of them")
    if token:
        return _Token(TOKEN, token)
    if token_file:
        return _Token(f"the file {token_file} ({TOKEN_FILE})", file=token_file)
    return _Token() if context is None else _token_of_context(context)


def _token_of_context(context: Context) -> _Token:
    if context.token_command:
        return _Token(f"the command `{shlex.join(context.token_command)}`", TokenCommand(context.token_command))
    if context.token_file:
        return _Token(f"the file {context.token_file}", file=context.token_file)
    return _Token("the context itself", context.token) if context.token else _Token()
