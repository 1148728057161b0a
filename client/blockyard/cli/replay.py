"""`blockyard replay`: drives a log of requests through the real service, and reports what came of it."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from blockyard.cli.connection import connect
from blockyard.cli.failures import ExitCode, Recoded
from blockyard.cli.options import Output
from blockyard.cli.output import Document, OutputFormat, document, print_document, print_line
from blockyard.cli.progress import counting
from blockyard.cli.replay_drive import MAX_OPERATIONS, Replay, create_fresh_fleet
from blockyard.cli.replay_log import LogEvent, events_in_order, read_instances, read_requests
from blockyard.cli.replay_tally import ReplayFigures, ReplayTally
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.cli.verify import print_report
from blockyard.client import Client
from blockyard.enums import PlacementStrategy
from blockyard.errors import BlockyardError
from blockyard.types import VerifyReport

DEFAULT_BATCH: Final = 200
"""Operations in a call: enough that the way there and back no longer counts, and the progress bar still moves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    """What a replay came to."""

    fleet: str
    """The fleet that it made, and left as it was at the end."""
    strategy: PlacementStrategy
    """The strategy of each acquire."""
    hold: bool
    """Whether nothing was released."""
    figures: ReplayFigures
    """The log's outcome."""
    calls: int
    """How many Batch calls it took."""
    elapsed_s: float
    """How long they took, without the registration of the instances and the final check."""
    verify: VerifyReport | None
    """The check at the end; `None`: it could not be made."""


@calls_server
def replay(
    instances_csv: Annotated[
        Path, typer.Argument(metavar="INSTANCES.csv", help="name,total_blocks,label: registered in this order.")
    ],
    requests_csv: Annotated[
        Path,
        typer.Argument(
            metavar="REQUESTS.csv",
            help="id,arrival_s,duration_s,n_instances,blocks,label_any,owner and perhaps exclusive: one Acquire a row.",
        ),
    ],
    *,
    strategy: Annotated[
        PlacementStrategy, typer.Option("--strategy", case_sensitive=False, help="How instances are chosen.")
    ] = PlacementStrategy.BEST_FIT,
    hold: Annotated[bool, typer.Option("--hold", help="Never release.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first requests of the file.", show_default="all")
    ] = None,
    fleet: Annotated[
        str | None, typer.Option("--fleet", help="The fleet to create; it must not exist.", show_default="replay-…")
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=MAX_OPERATIONS, help="At most this many operations in a call.")
    ] = DEFAULT_BATCH,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Sends a log of requests to the service, in a fresh fleet, and ends with Verify.

    The requests are carried out one after the other: by time, releases before acquires, then by row. A request that is
    refused is not tried again. The fleet stays as it is at the end, so that you can look at it.

    Exit code 1: Verify found that the records disagree. 2: could not check.
    """
    instances = read_instances(instances_csv)
    requests = read_requests(requests_csv, limit=limit)
    events = list(events_in_order(requests, hold=hold))
    name = fleet or f"replay-{secrets.token_hex(4)}"
    tally = ReplayTally(instances)
    with connect(server) as client:
        with counting("Registering instances", len(instances)) as advance:
            create_fresh_fleet(client, name, instances, advance=advance)
        with counting("Replaying", len(events)) as advance:
            run = Replay(client, name, tally, strategy=strategy, batch_size=batch, advance=advance)
            elapsed_s = _timed(run, events)
        verdict, failure = _verify(client, name)
    report = ReplayReport(
        fleet=name,
        strategy=strategy,
        hold=hold,
        figures=tally.figures(),
        calls=run.calls,
        elapsed_s=elapsed_s,
        verify=verdict,
    )
    if output is OutputFormat.JSON:
        print_document(_flat(report))
    else:
        _print_report(report)
    if failure is not None:
        raise Recoded(failure, ExitCode.USAGE)
    if verdict is None or not verdict.clean:
        raise typer.Exit(ExitCode.REFUSED)


def _verify(client: Client, fleet: str) -> tuple[VerifyReport | None, BlockyardError | None]:
    """The verdict, or why there is none: the figures are worth printing all the same."""
    try:
        return client.verify(fleet), None
    except BlockyardError as failure:
        return None, failure


def _timed(run: Replay, events: Sequence[LogEvent]) -> float:
    started = time.monotonic()
    run.play(events)
    return time.monotonic() - started


def _flat(report: ReplayReport) -> Document:
    """The report as one object, with the figures beside the rest."""
    whole = {key: value for key, value in _fields(report).items() if key != "figures"}
    return {**_fields(report.figures), **whole}


def _fields(value: object) -> dict[str, Document]:
    fields = document(value)
    assert isinstance(fields, dict)
    return fields


def _print_report(report: ReplayReport) -> None:
    figures = report.figures
    share = figures.allocated_share_before_first_refusal
    before_refusal = "none was refused" if share is None else f"{share:.2%}"
    rate = figures.requests / report.elapsed_s if report.elapsed_s else 0.0
    mode = f"{report.strategy.lower()}{', never released' if report.hold else ''}"
    never = f"{figures.unsatisfiable:,} of them would not fit an idle fleet either"
    matching = (
        f"{figures.refused_although_matching_idle:,} counting only instances with a label that the request allows"
    )
    for label, value in (
        ("fleet", f"{report.fleet}  ({mode})"),
        ("requests", f"{figures.requests:,}"),
        ("accepted", f"{figures.accepted:,}"),
        ("refused", f"{figures.refused:,}  ({never})"),
        ("accepted block-seconds", f"{figures.accepted_block_seconds:,.0f}"),
        ("allocated before the first refusal", before_refusal),
        ("refused although enough blocks were idle", f"{figures.refused_although_idle:,}  ({matching})"),
        ("elapsed", f"{report.elapsed_s:.1f} s  ({rate:,.0f} requests a second, in {report.calls:,} calls)"),
        ("digest", figures.digest),
    ):
        print_line(f"{label:<42}{value}")
    if report.verify is None:
        print_line(f"Verify: {report.fleet} could not be checked.")
    else:
        print_report(report.fleet, report.verify)
