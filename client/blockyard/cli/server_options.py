"""The options that say which server a command calls and who calls, for all commands that call one.

Each may stand before the command (`blockyard --context prod fleet list`) or among the command's own options.
"""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeAlias, cast

import typer

from blockyard._defaults import DEFAULT_ADDRESS
from blockyard.cli.options import not_empty
from blockyard.cli.server_choice import ADDRESS, NO_OPTIONS, ServerOptions

_OPTIONS: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = MappingProxyType(
    {
        "address": (
            "--address",
            {
                "envvar": ADDRESS,
                "metavar": "HOST:PORT",
                "help": "Where the service is: HOST:PORT, several with commas between, or unix:PATH.",
                "show_default": DEFAULT_ADDRESS,
            },
        ),
        "context": ("--context", {"metavar": "NAME", "help": "A context of `blockyard context list`."}),
        "token_file": ("--token-file", {"metavar": "FILE", "help": "A file with the token that says who calls."}),
        "ca": ("--ca", {"metavar": "FILE", "help": "TLS: the authorities that vouch for the server."}),
        "cert": ("--cert", {"metavar": "FILE", "help": "TLS: the client's certificate."}),
        "key": ("--key", {"metavar": "FILE", "help": "TLS: the key of --cert."}),
        "server_name": ("--server-name", {"metavar": "NAME", "help": "TLS: the name in the server's certificate."}),
        "tls": (
            "--tls/--no-tls",
            {"help": "Whether to use TLS. By default, the four options before ask for it.", "show_default": False},
        ),
    }
)
"""By the fields of `ServerOptions`."""
_MORE: Final = "`blockyard --help` has the options for contexts, tokens and TLS."
"""The help of a command has no more of them."""
_PREFIX: Final = "server_option_"

Command: TypeAlias = Callable[..., Any]


def calls_server(command: Command) -> Command:
    """Gives a command the options. It gets them, and what stands before it, as its argument `server`."""

    def with_options(*, typer_context: typer.Context, **given: Any) -> Any:
        before = typer_context.find_root().obj
        server = _take(typer_context, given).over(before if isinstance(before, ServerOptions) else NO_OPTIONS)
        return command(**given, server=server)

    return _declare(with_options, command, in_command=True)


def before_commands(callback: Command) -> Command:
    """Gives them to the program itself. Its `callback` gets the context first."""

    def with_options(*, typer_context: typer.Context, **given: Any) -> Any:
        typer_context.obj = _take(typer_context, given)
        return callback(typer_context, **given)

    return _declare(with_options, callback, in_command=False)


def _take(context: typer.Context, given: dict[str, Any]) -> ServerOptions:
    """Takes the options out of what the command was given."""
    values = {name: given.pop(f"{_PREFIX}{name}") for name in _OPTIONS}
    source = context.get_parameter_source(f"{_PREFIX}address")
    if source is None or source.name != "COMMANDLINE":
        values["address"] = None  # the variable is read where the others are
    return ServerOptions(**values)


def _declare(with_options: Command, function: Command, *, in_command: bool) -> Command:
    """Makes typer see the function's own arguments and the options."""
    own = [each for each in inspect.signature(function).parameters.values() if each.name not in {"server", "context"}]
    parameters = [
        inspect.Parameter("typer_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own),
        *(_parameter(name, in_command=in_command) for name in _OPTIONS),
    ]
    setattr(with_options, "__signature__", inspect.Signature(parameters))  # noqa: B010  # functions do not declare it
    with_options.__doc__, with_options.__name__ = function.__doc__, function.__name__
    return with_options


def _parameter(name: str, *, in_command: bool) -> inspect.Parameter:
    flag, details = _OPTIONS[name]
    kind = bool if name == "tls" else str
    callback = None if name in {"tls", "address"} else not_empty
    if name == "address" and in_command:
        details = {**details, "help": f"{details['help']} {_MORE}"}
    option = typer.Option(flag, hidden=in_command and name != "address", callback=callback, **details)
    # The kind is a value here, so the type is made as one.
    annotation = cast("Any", Annotated)[kind | None, option]
    return inspect.Parameter(f"{_PREFIX}{name}", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
