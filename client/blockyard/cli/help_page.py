"""What a command that only has subcommands says when it is called alone."""

import typer

from blockyard.cli.failures import ExitCode


def show_help(context: typer.Context) -> None:
    """Shows the help of `blockyard`, `blockyard fleet` or `blockyard instance` on stderr, if no subcommand follows."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(ExitCode.USAGE)
