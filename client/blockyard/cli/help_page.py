"""What `blockyard` says of itself: its help, also where a command that only has subcommands is called alone."""

from typing import Annotated, Final

import typer

from blockyard._version import __version__
from blockyard.cli.failures import ExitCode
from blockyard.cli.output import print_line
from blockyard.cli.server_options import before_commands

HELP_NAMES: Final = ("-h", "--help")
"""The options that show a command's help, of every command."""


def show_help(context: typer.Context) -> None:
    """Shows the help of `blockyard fleet` or `blockyard instance` on stderr, if no subcommand follows."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)


def _print_version(asked: bool) -> None:  # noqa: FBT001  # typer calls it with the option's value
    if asked:
        print_line(f"blockyard {__version__}")
        raise typer.Exit


@before_commands
def show_overview(
    context: typer.Context,
    *,
    version: Annotated[  # noqa: ARG001  # its callback has done it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Shows the help of `blockyard` itself in the same way, or its version."""
    show_help(context)
