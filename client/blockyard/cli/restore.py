"""`blockyard restore`: puts a backup in the place of a data file. Works on files, and asks no service."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.cli.options import Output
from blockyard.cli.output import OutputFormat, print_document, print_line
from blockyard_server.settings import Settings

if TYPE_CHECKING:
    from blockyard_server.engine.restore import Report

_DEFAULT_DATA: Final = Settings().data

Bump = Annotated[
    int | None,
    typer.Option(
        "--bump",
        metavar="N",
        min=1,
        help="How much is added to each fleet's revision, besides 100,000 for each second since its last event. "
        "Not given: 1,000,000,000, or more if that is too small.",
    ),
]


def restore(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `blockyard backup` made.")],
    *,
    data: Annotated[
        Path, typer.Option("--data", envvar="BLOCKYARD_DATA", help="The server's SQLite file, which is replaced.")
    ] = _DEFAULT_DATA,
    bump: Bump = None,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Puts a backup in the place of the data file, so that no name and no fencing token is issued twice.

    The server must not run. The old file and its log are kept under another name, and the backup stays where it is.
    If the command is killed, run it again: no server starts on what is half done.

    Exit code 0: a server may start. 1: the restore has not ended; run it again. 2: nothing was changed.
    """
    expect_parts()
    from blockyard_server.domain.restore import BumpTooSmall  # noqa: PLC0415  # see serve
    from blockyard_server.engine.restore import restored  # noqa: PLC0415  # see serve
    from blockyard_server.store.sqlite.restore_file import RestoreFailed, RestoreRefused, restore_file  # noqa: PLC0415  # see serve

    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    try:
        done = restore_file(backup, data, stamp, lambda store: restored(store, now_us(), bump))
    except (RestoreRefused, BumpTooSmall) as refused:
        raise CommandFailed(str(refused), exit_code=ExitCode.USAGE) from refused
    except RestoreFailed as failed:
        raise CommandFailed(str(failed), exit_code=ExitCode.REFUSED) from failed
    kept = None if done.kept is None else str(done.kept)
    if output is OutputFormat.JSON:
        more = {"data": str(done.data), "kept": kept, "manifest": done.had_manifest}
        print_document({**more, **document_of(done.done)})
        return
    print_line(f"{backup} is restored as {done.data}.")
    if kept:
        print_line(f"The old file is kept: {kept}")
    if not done.had_manifest:
        print_line("The backup has no manifest: that it is whole was seen only by what it holds.")
    print_report(done.done, done.done.fleets)


def print_report(report: "Report", fleets: Mapping[str, object]) -> None:
    """What was done, and what to do next."""
    print_line(f"Epoch {report.epoch}. Names and fencing tokens go on above all that were issued since the backup:")
    for fleet in fleets:
        step = report.fleets[fleet]
        print_line(f"  {fleet}: revision {step.backup_revision} -> {step.revision}")
    print_line(f"  new fleets: above revision {report.first_revision}")
    print_line("Next: start the server, and run `blockyard verify FLEET` for each fleet. Stop the holders of what was")
    print_line("granted since the backup: they cannot renew or release it any more.")


def document_of(report: "Report") -> dict[str, object]:
    """The same for programs."""
    fleets = {
        fleet: {"backup_revision": step.backup_revision, "revision": step.revision}
        for fleet, step in report.fleets.items()
    }
    return {"epoch": report.epoch, "first_revision": report.first_revision, "fleets": fleets}


def expect_parts() -> None:
    """Raises CommandFailed if the service is not installed."""
    try:
        from blockyard_server.store.sqlite import store  # noqa: F401, PLC0415  # see serve
    except ModuleNotFoundError as missing:
        raise CommandFailed(
            f"A restore needs a part of the service that is not installed: {missing.name}.",
            next_step="Install it: pip install 'blockyard[server]'.",
            exit_code=ExitCode.USAGE,
        ) from missing


def now_us() -> int:
    """The time, in microseconds since the epoch."""
    return time.time_ns() // 1000
