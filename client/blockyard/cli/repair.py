"""`blockyard repair`: makes a fleet's records agree again, or says what that would take."""

from datetime import timedelta
from typing import Annotated, Final

import typer

from blockyard.cli.connection import connect
from blockyard.cli.failures import ExitCode, Recoded
from blockyard.cli.options import FleetArgument, Output, parse_timeout
from blockyard.cli.output import OutputFormat, print_document, print_line, print_table
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.cli.verify import describe_difference
from blockyard.enums import CorrectionKind
from blockyard.types import Correction, RepairReport

DEFAULT_TIMEOUT: Final = timedelta(minutes=5)

_WORDS: Final = {
    CorrectionKind.COUNTER_SET: "busy_blocks from {before} to {after}",
    CorrectionKind.BLOCK_FREED: "block {block} is freed; it is not {allocation}'s",
    CorrectionKind.BLOCK_HELD: "block {block} is held for {allocation} again",
    CorrectionKind.TOKEN_RECORDED: "its idempotency token is recorded again",
    CorrectionKind.JOURNAL_RECONCILED: "from now on the journal gives block {block} to {owner}",
    CorrectionKind.SHAPE_RECONCILED: "from now on the journal says {after} blocks instead of {before}",
    CorrectionKind.MEMORY_RELOADED: "the server reads it again",
    CorrectionKind.JOURNAL_SETTLED: "the journal cannot be replayed at {before} place(s), which are left behind",
    CorrectionKind.UNKNOWN: "a change that only a newer version can name",
}


@calls_server
def repair(
    fleet: FleetArgument,
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Make the changes. Without it, only list them.")] = False,
    timeout: Annotated[
        timedelta | None,
        typer.Option(
            "--timeout",
            metavar="DURATION",
            parser=parse_timeout,
            help="How long it may take; a longer journal takes more time.",
            show_default="5m",
        ),
    ] = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Lists the changes that make a fleet's records agree again; with --apply, makes them and ends the halt.

    A live allocation keeps its blocks unless another one has the same block: that is left to people.

    Exit code 0: nothing is left to do. 1: a change is needed or is left. 2: could not repair.
    """
    try:
        with connect(server) as client:
            timeout_s = (DEFAULT_TIMEOUT if timeout is None else timeout).total_seconds()
            report = client.repair(fleet, apply=apply, timeout_s=timeout_s)
    except Exception as error:
        raise Recoded(error, ExitCode.USAGE) from error
    if output is OutputFormat.JSON:
        print_document(report)
    else:
        print_report(fleet, report, apply=apply)
    if report.unrepaired or report.halted or report.truncated or (report.corrections and not report.applied):
        raise typer.Exit(ExitCode.REFUSED)


def print_report(fleet: str, report: RepairReport, *, apply: bool) -> None:
    """Prints the verdict, each change, what is left and, after a repair, whether the fleet is served."""
    changes = _count(len(report.corrections), "change", truncated=report.truncated)
    left_over = _count(len(report.unrepaired), "difference", truncated=report.truncated)
    if report.unrepaired and not report.corrections:
        verb = "is" if len(report.unrepaired) == 1 and not report.truncated else "are"
        print_line(
            f"Repair: nothing in {fleet} can be changed by a rule at revision {report.revision}; "
            f"{left_over} {verb} left to people."
        )
    elif not report.corrections:
        print_line(f"Repair: {fleet} needs no change at revision {report.revision}.")
    elif report.applied:
        print_line(f"Repair: {changes} made in {fleet}, now at revision {report.revision}:")
    else:
        them = "it" if len(report.corrections) == 1 and not report.truncated else "them"
        print_line(f"Repair: {fleet} needs {changes} at revision {report.revision}; --apply makes {them}:")
    if report.corrections:
        rows = ((each.kind, each.instance or each.allocation or fleet, describe(each)) for each in report.corrections)
        print_table(("CHANGE", "WHERE", "WHAT"), rows, if_empty="")
    if report.unrepaired:
        print_line("No rule repairs these; they are left as they are, for people:")
        for left in report.unrepaired:
            print_line(describe_difference(fleet, left))
    if apply:
        print_line("The fleet's writes stay stopped." if report.halted else "The fleet is served.")
    elif report.halted:
        ends = "" if report.unrepaired else "; --apply ends that"
        print_line(f"The fleet's writes are stopped{ends}.")


def describe(correction: Correction) -> str:
    """What a change changes, in words."""
    c = correction
    return _WORDS[c.kind].format(
        block=c.block, allocation=c.allocation, owner=c.allocation or "nobody", before=c.before, after=c.after
    )


def _count(number: int, what: str, *, truncated: bool) -> str:
    return f"{number}{' or more' if truncated else ''} {what}{'' if number == 1 and not truncated else 's'}"
