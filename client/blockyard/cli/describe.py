"""`blockyard describe`: a fleet at one revision, its blocks drawn."""

from blockyard.cli.block_map import draw_instances, draw_legend
from blockyard.cli.connection import connect
from blockyard.cli.options import FleetArgument, Output
from blockyard.cli.output import OutputFormat, ascii_only, drawing_width, print_document, print_line, screen, tell
from blockyard.cli.server_choice import NO_OPTIONS, ServerOptions
from blockyard.cli.server_options import calls_server
from blockyard.enums import DescribeView
from blockyard.types import FleetSnapshot


@calls_server
def describe(fleet: FleetArgument, server: ServerOptions = NO_OPTIONS, output: Output = OutputFormat.TEXT) -> None:
    """Draws a fleet. Each line is an instance, each cell a block; each holder has a letter and a colour."""
    with connect(server) as client:
        snapshot = client.describe(fleet, view=DescribeView.FULL)
    if output is OutputFormat.JSON:
        print_document(snapshot)
    else:
        _print_snapshot(snapshot)


def _print_snapshot(snapshot: FleetSnapshot) -> None:
    totals = snapshot.totals
    closed = totals.idle_blocks - totals.acquirable_blocks
    print_line(
        f"{snapshot.fleet} at revision {snapshot.revision}: {totals.busy_blocks} of {totals.total_blocks} blocks busy, "
        f"{totals.idle_blocks} idle" + (f" ({closed} of them not acquirable)" if closed else "")
    )
    if not snapshot.consistent:
        tell("The fleet changed while its pages were read: instances may differ from the totals.")
    if not snapshot.instances:
        print_line("It has no instances yet; `blockyard instance create` registers one.")
        return
    console = screen()
    width = drawing_width(console)
    only_ascii = ascii_only()
    console.print()
    for line in draw_instances(snapshot.instances, width=width, ascii_only=only_ascii):
        console.print(line, soft_wrap=True)
    console.print()
    for line in draw_legend(snapshot.instances, width=width, ascii_only=only_ascii):
        console.print(line, soft_wrap=True)
