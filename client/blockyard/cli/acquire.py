"""`blockyard acquire`: asks for blocks."""

from collections.abc import Sequence
from typing import Annotated

import typer

from blockyard.cli.connection import connect
from blockyard.cli.failures import unanswered_acquire
from blockyard.cli.option_values import read_amounts, read_pairs
from blockyard.cli.options import (
    Annotate,
    Blocks,
    Caller,
    Exclusive,
    FleetOption,
    Holder,
    Match,
    On,
    Output,
    Require,
    Strategy,
    Ttl,
    Where,
    own_holder,
)
from blockyard.cli.output import OutputFormat, print_document, print_line, write_blocks, write_duration, write_time
from blockyard.cli.selector_text import read_selector
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.errors import OutcomeUnknown
from blockyard.types import Demand, Grant, Selector


@calls_server
def acquire(
    *,
    fleet: FleetOption,
    blocks: Blocks = None,
    instances: Annotated[
        int, typer.Option("--instances", "-n", min=1, max=1000, help="On how many distinct instances.")
    ] = 1,
    exclusive: Exclusive = False,
    require: Require = None,
    match: Match = None,
    where: Where = None,
    on: On = None,
    holder: Holder = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            help="The idempotency token: the same token gives the same grant, however often.",
            show_default="a random one",
        ),
    ] = None,
    ttl: Ttl = None,
    strategy: Strategy = None,
    annotate: Annotate = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be granted or why not; change nothing.")
    ] = False,
    caller: Caller = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Acquires blocks: all that is asked for, or nothing. Exit code 4: the request fits the fleet, but not now."""
    demand = read_demand(
        blocks=blocks,
        instances=instances,
        exclusive=exclusive,
        require=require or (),
        match=match or (),
        where=where or (),
        on=on or (),
    )
    annotations = read_pairs(annotate or (), option="--annotate")
    with connect(server, caller=caller) as client:
        try:
            grant = client.acquire(
                fleet,
                demands=[demand],
                holder=own_holder() if holder is None else holder,
                token=token,
                ttl=ttl,
                strategy=strategy,
                annotations=annotations,
                validate_only=dry_run,
            )
        except OutcomeUnknown as unknown:
            raise unanswered_acquire(unknown, fleet, caller) from unknown
    if output is OutputFormat.JSON:
        print_document(grant)
    else:
        _print_grant(grant)


def read_demand(
    *,
    blocks: int | None,
    exclusive: bool,
    require: Sequence[str],
    match: Sequence[str],
    where: Sequence[str],
    on: Sequence[str],
    instances: int = 1,
) -> Demand:
    """The demand that the options describe; one block if they say nothing of the size.

    Raises:
        MalformedValue: An option is not of its form.
    """
    requirements = read_amounts(require, option="--require")
    selector = Selector(
        match_labels=read_pairs(match, option="--match"),
        match_expressions=tuple(term for text in where for term in read_selector(text)),
    )
    return Demand(
        instances=instances,
        blocks=1 if blocks is None and not requirements and not exclusive else blocks,
        requirements=requirements,
        exclusive=exclusive,
        selector=selector,
        instance_names=tuple(on) or None,
    )


def _print_grant(grant: Grant) -> None:
    allocation = grant.allocation
    if not allocation.name:
        print_line(f"Would be granted at revision {grant.revision} (nothing was changed):")
    else:
        again = ", as recorded before" if grant.replayed else ""
        print_line(f"{allocation.name} is held by {allocation.holder} at revision {grant.revision}{again}:")
    for placement in allocation.placements:
        print_line(f"  {placement.instance}  blocks {write_blocks(placement.blocks)}")
    if allocation.ttl is None:
        print_line("Held until released.")
    else:
        lease = write_duration(allocation.ttl)
        print_line(f"The lease of {lease} ends at {write_time(allocation.expire_time)} unless renewed.")
