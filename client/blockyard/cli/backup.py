"""`blockyard backup`: copies a data file, also under a running server. Reads the file itself and asks no service."""

import os
from pathlib import Path
from typing import Annotated, Final

import typer

from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.cli.options import Output
from blockyard.cli.output import OutputFormat, print_document, print_line
from blockyard.cli.progress import copying
from blockyard_server.settings import Settings

_MIB: Final = 1024 * 1024
_DEFAULT_DATA: Final = Settings().data


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The copy to make, in an existing folder.")],
    *,
    data: Annotated[
        Path, typer.Option("--data", envvar="BLOCKYARD_DATA", help="The server's SQLite file. A server may use it.")
    ] = _DEFAULT_DATA,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing FILE, after the new copy was checked.")
    ] = False,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Copies the data file as it is at one moment, and checks the copy. A server may work on the file meanwhile.

    Only this user can read FILE. Until the copy is whole, checked and on the disk, it is called FILE.partial. A copy
    that is wrong is kept as FILE.damaged, as evidence.

    Exit code 0: FILE is a good backup. 1: the backup could not be made, or the data is wrong. 2: nothing was written.
    """
    _expect_file(context)
    try:
        from blockyard_server.store.sqlite.backup import BackupFailed, BackupRefused, make_backup  # noqa: PLC0415  # see serve
    except ModuleNotFoundError as missing:
        raise CommandFailed(
            f"A backup needs a part of the service that is not installed: {missing.name}.",
            next_step="Install it: pip install 'blockyard[server]'.",
            exit_code=ExitCode.USAGE,
        ) from missing
    try:
        with copying("Copying", then="Checking the copy") as progress:
            made = make_backup(data, file, replace=force, progress=progress)
    except BackupRefused as refused:
        raise CommandFailed(str(refused), exit_code=ExitCode.USAGE) from refused
    except BackupFailed as failed:
        raise CommandFailed(str(failed), exit_code=ExitCode.REFUSED) from failed
    if output is OutputFormat.JSON:
        print_document(
            {"file": str(made.file), "data": str(made.data), "size_bytes": made.size_bytes, "fleets": made.fleets}
        )
        return
    fleets = f"{len(made.fleets):,} fleet{'' if len(made.fleets) == 1 else 's'}"
    print_line(f"{made.file} is a backup of {made.data}: {made.size_bytes / _MIB:,.1f} MiB, {fleets}, checked.")


def _expect_file(context: typer.Context) -> None:
    """Refuses if the data is in a PostgreSQL, unless the command line itself names a file."""
    source = context.get_parameter_source("data")
    if os.environ.get("BLOCKYARD_DATABASE") and (source is None or source.name != "COMMANDLINE"):
        raise CommandFailed(
            "The data is in a PostgreSQL (BLOCKYARD_DATABASE), and that makes its backups itself.",
            next_step="Use pg_dump -Fc for one database, or pg_basebackup for the whole server; "
            "for a data file beside it, name that with --data.",
            exit_code=ExitCode.USAGE,
        )
