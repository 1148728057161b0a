"""`blockyard watch`: a fleet's journal as it grows, a line for each event."""

from itertools import islice
from typing import Annotated, Final

import typer
from rich.text import Text

from blockyard.cli.connection import connect
from blockyard.cli.events import describe_event
from blockyard.cli.options import Address, FleetArgument, OfHolder, OfInstance, OfKind, Output
from blockyard.cli.output import OutputFormat, print_json_line, print_line, write_time
from blockyard.enums import EventKind
from blockyard.types import Event

_KIND_WIDTH: Final = max(map(len, EventKind))
_STYLES: Final = {
    EventKind.GRANTED: "green",
    EventKind.RELEASED: "cyan",
    EventKind.EXPIRED: "yellow",
    EventKind.RENEWED: "dim",
    EventKind.LEASES_EXTENDED: "dim",
    EventKind.REPAIRED: "bold red",
}
_OTHER_STYLE: Final = "magenta"


def watch_events(
    fleet: FleetArgument,
    from_revision: Annotated[
        int,
        typer.Option("--from-revision", "--from", min=0, help="From this revision on.", show_default="from now on"),
    ] = 0,
    kind: OfKind = None,
    holder: OfHolder = None,
    instance: OfInstance = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Ends after so many events.", show_default="never")
    ] = None,
    address: Address = None,
    output: Output = OutputFormat.TEXT,
) -> None:
    """Shows each change of a fleet as soon as it is made, until you press Ctrl-C. Servers may come and go meanwhile.

    With --output json each event is one line. Exit code 1 with COMPACTED: the journal is no longer kept from there on.
    """
    with (
        connect(address) as client,
        client.watch(fleet, from_revision=from_revision, kinds=kind or (), holder=holder, instance=instance) as watch,
    ):
        for event in islice(watch, limit):
            if output is OutputFormat.JSON:
                print_json_line(event)
            else:
                print_line(draw_event(event, write_time(event.time)))


def draw_event(event: Event, time: str, *, within: str = "") -> Text:
    """An event on one line: its revision, this time, its kind in its colour, and what it was about.

    Names lose what they begin with, `within`, where that goes without saying.
    """
    kind = f"{event.kind:<{_KIND_WIDTH}}"
    style = _STYLES.get(event.kind, _OTHER_STYLE)
    what = describe_event(event).replace(within, "") if within else describe_event(event)
    return Text.assemble(f"{event.revision:>6}  {time}  ", (kind, style), f"  {what}")
