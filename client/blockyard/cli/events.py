"""`blockyard events`: a fleet's journal."""

from itertools import islice
from typing import Annotated, Final

import typer

from blockyard.cli.connection import connect
from blockyard.cli.options import FleetArgument, OfHolder, OfInstance, OfKind, Output
from blockyard.cli.output import (
    OutputFormat,
    print_document,
    print_table,
    tell,
    write_pairs,
    write_placements,
    write_time,
)
from blockyard.cli.safe_text import safe
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.client import Client
from blockyard.enums import EventKind
from blockyard.types import Event

OF_SYSTEM: Final = "system"
"""The actor of what the server does by itself, which the kind of the event says already."""


@calls_server
def list_events(
    fleet: FleetArgument,
    from_revision: Annotated[
        int | None,
        typer.Option("--from", min=0, help="From this revision on.", show_default="the first that is kept"),
    ] = None,
    kind: OfKind = None,
    holder: OfHolder = None,
    instance: OfInstance = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="At most this many events.", show_default="all")
    ] = None,
    server: ServerOptions = NO_OPTIONS,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Lists a fleet's events in order, one for each revision. It works for a deleted fleet, too."""
    with connect(server) as client:
        journal = client.list_events(
            fleet, from_revision=from_revision or 0, kinds=kind, holder=holder, instance=instance
        )
        events = list(islice(journal, limit))
        if from_revision is None:
            _tell_what_is_gone(client, fleet)
    if output is OutputFormat.JSON:
        print_document({"events": events})
        return
    rows = ((str(event.revision), write_time(event.time), event.kind, describe_event(event)) for event in events)
    print_table(("REVISION", "TIME", "EVENT", "WHAT"), rows, if_empty="No such events.")


def _tell_what_is_gone(client: Client, fleet: str) -> None:
    """Says on stderr where the journal begins, if that is not with the fleet's first change."""
    for first in islice(client.list_events(fleet, page_size=1), 1):
        if first.revision > 1:
            tell(f"The journal of {fleet} is kept from revision {first.revision} on.")


def describe_event(event: Event) -> str:
    """What an event was about, in words, safe to be shown; `-` if its kind says it all."""
    parts: list[str] = []
    if event.allocation:
        parts.append(f"{event.allocation} of {event.holder}")
    if event.placements:
        parts.append(write_placements(event.placements))
    if event.instance_after:
        after = event.instance_after
        parts.append(f"{after.id}: {after.total_blocks} blocks, {after.state}, labels {write_pairs(after.labels)}")
    elif event.instance:
        parts.append(event.instance)
    if event.fleet:
        parts.append(f"{event.fleet.default_placement_strategy}, labels {write_pairs(event.fleet.labels)}")
    if event.expire_time:
        cap = event.kind is EventKind.LEASES_EXTENDED
        until = write_time(event.expire_time)
        parts.append(f"each by its own ttl, until {until} at most" if cap else f"until {until}")
    if event.kind is EventKind.TOKEN_CANCELLED and event.idempotency_token:
        parts.append(f"token {event.idempotency_token}")
    if event.kind is EventKind.RELEASED and not event.ended:
        parts.append("(a part)")
    parts += _describe_repair(event)
    if event.actor and event.actor != OF_SYSTEM:
        parts.append(f"by {event.actor}")
    return safe("  ".join(parts)) or "-"


def _describe_repair(event: Event) -> list[str]:
    if event.epoch is not None:
        return [f"from a backup at revision {event.backup_revision}, epoch {event.epoch}"]
    if not event.corrections:
        return []
    kinds = [each.kind.value for each in event.corrections]
    return [", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))]
