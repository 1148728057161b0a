"""`blockyard context`: servers by name, each with the credentials for it. Tokens are never shown."""

import os
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from blockyard.cli.contexts import CONTEXTS, CURRENT, Context, config_path, read_config, write_changes
from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.cli.help_page import show_help
from blockyard.cli.options import Caller, Output
from blockyard.cli.output import OutputFormat, print_document, print_line, print_table
from blockyard.cli.server_choice import NO_OPTIONS, ServerChoice, ServerOptions, choose_server
from blockyard.cli.server_options import calls_server

context_app = typer.Typer(
    callback=show_help, invoke_without_command=True, help="Servers by name, and the credentials for each."
)
_NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The context's name.")]
_FILES: Final = ("ca", "cert", "key", "token_file")


@context_app.command("add")
@calls_server
def add_context(
    name: _NameArgument,
    *,
    token_command: Annotated[
        str | None,
        typer.Option(
            "--token-command",
            metavar="WORDS",
            help="Instead of --token-file: a program and its arguments that print the token. No shell reads them.",
        ),
    ] = None,
    caller: Caller = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a context of this name.")] = False,
    use: Annotated[bool, typer.Option("--use", help="Make it the current one.")] = False,
    server: ServerOptions = NO_OPTIONS,
) -> None:
    """Adds a context: --address, and what of --ca, --cert, --key, --server-name, --tls and --token-file is needed.

    The first one becomes the current one. The file has only the names of files, and no token.
    """
    if server.context is not None:
        raise _wrong("--context names a context that is there; the new one's name stands alone.")
    if not server.address:
        raise _wrong("A context needs --address.", "Such as --address blockyard.example:7350.")
    values: dict[str, Any] = {
        each.name: getattr(server, each.name) for each in fields(ServerOptions) if each.name != "context"
    }
    for key in _FILES:
        if values[key] is not None:
            values[key] = str(Path(values[key]).expanduser().absolute())
    values["token_command"] = None if token_command is None else shlex.split(token_command)
    values["caller"] = caller
    written = {key: value for key, value in values.items() if value is not None}

    def change(document: Any) -> None:
        contexts = document.setdefault(CONTEXTS, {})
        if name in contexts and not replace:
            raise _wrong(f"There is a context {name!r} already.", "--replace replaces it.")
        if use or not contexts:
            document[CURRENT] = name
        contexts[name] = written

    write_changes(change)
    print_line(f"Added {name} to {config_path()}.")


@context_app.command("remove")
def remove_context(name: _NameArgument) -> None:
    """Removes a context. Files that it names stay."""
    read_config().context(name)

    def change(document: Any) -> None:
        del document[CONTEXTS][name]
        if document.get(CURRENT) == name:
            del document[CURRENT]

    write_changes(change)
    print_line(f"Removed {name}.")


@context_app.command("use")
def use_context(name: _NameArgument) -> None:
    """Makes a context the current one: commands that name neither a context nor an address take it."""
    read_config().context(name)

    def change(document: Any) -> None:
        document[CURRENT] = name

    write_changes(change)
    print_line(f"The current context is {name}.")


@context_app.command("list")
def list_contexts(output: Output = OutputFormat.TEXT) -> None:
    """Lists all contexts by name; a star is at the current one."""
    config = read_config()
    contexts = sorted(config.contexts.items())
    if output is OutputFormat.JSON:
        print_document({"contexts": [_described(name, context, config.current) for name, context in contexts]})
        return
    rows = (
        ("*" if name == config.current else "", name, context.address, _encryption(context), _token_of(context) or "-")
        for name, context in contexts
    )
    columns = ("", "NAME", "ADDRESS", "TLS", "TOKEN")
    print_table(columns, rows, if_empty="There are no contexts; `blockyard context add` makes one.")


@context_app.command("show")
@calls_server
def show_context(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A context, instead of what is used now.")
    ] = None,
    *,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Shows which server a command calls and with which credentials, and where each is from. Asks no server."""
    if name is not None and server.context is not None:
        raise _wrong("Name one context.")
    options = server if name is None else ServerOptions(context=name).over(server)
    choice = choose_server(options)
    if output is OutputFormat.JSON:
        print_document(_chosen(choice))
        return
    print_line(f"context      {choice.context or '-'}")
    print_line(f"address      {choice.target} ({choice.origin})")
    print_line(f"tls          {_tls_of(choice)}")
    print_line(f"token        {choice.token_origin or 'none'}")
    if choice.tls is not None:
        print_line(f"certificate  {choice.tls.cert or 'none'}")
    print_line(f"caller       {os.environ.get('BLOCKYARD_CALLER') or choice.caller or '-'}")


def _tls_of(choice: ServerChoice) -> str:
    if choice.tls is None:
        return "no"
    authorities = f"authorities of {choice.tls.ca}" if choice.tls.ca else "public authorities"
    return f"{authorities}, name {choice.tls.server_name or 'as in the address'}"


def _chosen(choice: ServerChoice) -> dict[str, object]:
    return {
        "context": choice.context,
        "address": choice.target,
        "address_from": choice.origin,
        "tls": choice.tls is not None,
        "ca": choice.tls and choice.tls.ca,
        "cert": choice.tls and choice.tls.cert,
        "server_name": choice.tls and choice.tls.server_name,
        "token_from": choice.token_origin,
        "caller": os.environ.get("BLOCKYARD_CALLER") or choice.caller,
    }


def _described(name: str, context: Context, current: str | None) -> dict[str, object]:
    """Without the token."""
    shown = {each.name: getattr(context, each.name) for each in fields(Context) if each.name != "token"}
    return {"name": name, "current": name == current, "has_token": context.token is not None, **shown}


def _encryption(context: Context) -> str:
    if context.tls is False:
        return "no"
    if not (context.tls or context.ca or context.cert or context.server_name):
        return "no"
    return "with a client certificate" if context.cert else "yes"


def _token_of(context: Context) -> str | None:
    if context.token_command:
        return shlex.join(context.token_command)
    return context.token_file or ("in the file" if context.token else None)


def _wrong(message: str, next_step: str = "") -> CommandFailed:
    return CommandFailed(message, next_step=next_step, exit_code=ExitCode.USAGE)
