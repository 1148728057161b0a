"""`blockyard verify`: do all records of a fleet agree?"""

from datetime import timedelta
from typing import Annotated, Final

import typer

from blockyard.cli.connection import connect
from blockyard.cli.failures import ExitCode, Recoded
from blockyard.cli.options import FleetArgument, Output, parse_timeout
from blockyard.cli.output import OutputFormat, print_document, print_line
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.types import Discrepancy, VerifyReport

DEFAULT_TIMEOUT: Final = timedelta(minutes=5)


@calls_server
def verify(
    fleet: FleetArgument,
    timeout: Annotated[
        timedelta | None,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            parser=parse_timeout,
            help="How long the check may take; a longer journal takes more time.",
            show_default="5m",
        ),
    ] = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Compares blocks, counters, allocations, exclusive owners, the journal and the server's memory; changes nothing.

    Exit code 0: all agree. 1: they do not. 2: could not check.
    """
    try:
        with connect(server) as client:
            report = client.verify(fleet, timeout_s=(DEFAULT_TIMEOUT if timeout is None else timeout).total_seconds())
    except Exception as error:
        raise Recoded(error, ExitCode.USAGE) from error
    if output is OutputFormat.JSON:
        print_document(report)
    else:
        print_report(fleet, report)
    if not report.clean:
        raise typer.Exit(ExitCode.REFUSED)


def print_report(fleet: str, report: VerifyReport) -> None:
    """Prints the verdict, and each difference."""
    checked = (
        f"{report.instances_checked} instances, {report.held_blocks_checked} held blocks, "
        f"{report.allocations_checked} live allocations, {report.events_replayed} events"
    )
    if report.clean:
        print_line(f"Verify: {fleet} is clean at revision {report.revision} ({checked}).")
        return
    number = len(report.discrepancies)
    count = f"{number}{' or more' if report.truncated else ''} difference{'' if number == 1 else 's'}"
    print_line(f"Verify: {fleet} has DRIFTED, {count} at revision {report.revision} ({checked}):")
    for difference in report.discrepancies:
        print_line(describe_difference(fleet, difference))
    print_line("Copy the data as it is: it is the evidence. Then `blockyard repair` says what would repair it.")


def describe_difference(fleet: str, difference: Discrepancy) -> str:
    """A difference on a line: its check, the instance and the allocation that it is about, and what was found."""
    where = ", ".join(filter(None, (difference.instance, difference.allocation))) or fleet
    return f"  {difference.check}  {where}: expected {difference.expected}, found {difference.actual}"
