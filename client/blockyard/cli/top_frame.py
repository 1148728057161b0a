"""One picture of `blockyard top`, cut to the height that there is. Pure: plain values in, rich text out.

gpu at revision 17: 6 of 16 blocks busy, 10 idle

node-1  AABB···· ········   4 of 16 busy
… and 2 more instances

A train-1 (2)  B train-2 (2)
· idle

16  12:00:01  GRANTED          allocations/16 of train-2  node-1:2-3
17  12:00:05  RENEWED          …
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from rich.text import Text

from blockyard.cli.block_map import draw_instances, draw_legend
from blockyard.cli.safe_text import safe
from blockyard.cli.watch import draw_event
from blockyard.types import Event, FleetPage, InstanceBlocks

EVENTS_KEPT: Final = 12
"""How many events are shown at most; on a low screen a third of its lines."""
LEGEND_LINES: Final = 3
_BLANK: Final = Text()


@dataclass(frozen=True, slots=True)
class Frame:
    """What there is to draw."""

    page: FleetPage
    """The fleet, with at least as many instances as there are lines, or all."""
    events: Sequence[Event]
    """The latest, ascending."""
    height: int
    """On how many lines."""
    note: str = ""
    """What the reader should know about the picture."""


def draw_frame(frame: Frame, *, width: int, ascii_only: bool, footer: str = "") -> list[Text]:
    """At most `frame.height` lines of at most `width` columns; never fewer than the first one."""
    below = _draw_events(frame, width, ascii_only=ascii_only)
    parts = [Text(frame.note, style="bold yellow"), Text(footer, style="dim")]
    last = [Text("  ").join(filter(None, parts))] if any(parts) else []
    room = frame.height - 2 - len(below) - len(last)
    lines = [_draw_title(frame), _BLANK, *_draw_map(frame, width, room, ascii_only=ascii_only), *below]
    lines = [*lines[: max(frame.height - len(last), 1)], *last][: max(frame.height, 1)]
    for line in lines:
        line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return lines


def _draw_title(frame: Frame) -> Text:
    totals = frame.page.totals
    closed = totals.idle_blocks - totals.acquirable_blocks
    return Text.assemble(
        (safe(frame.page.fleet), "bold"),
        f" at revision {frame.page.revision}: {totals.busy_blocks} of {totals.total_blocks} blocks busy, "
        f"{totals.idle_blocks} idle" + (f" ({closed} of them not acquirable)" if closed else ""),
    )


def _draw_events(frame: Frame, width: int, *, ascii_only: bool) -> list[Text]:
    count = min(EVENTS_KEPT, frame.height // 3)
    within = f"fleets/{frame.page.fleet}/"
    shown = frame.events[-count:] if count else ()
    lines = [draw_event(event, f"{event.time:%H:%M:%S}", within=within) for event in shown]
    for line in lines:
        line.truncate(width, overflow="crop" if ascii_only else "ellipsis")
    return [_BLANK, *lines] if lines else []


def _draw_map(frame: Frame, width: int, room: int, *, ascii_only: bool) -> list[Text]:
    """As many instances as there is room for, with their legend and how many there are besides."""
    if not frame.page.totals.instances:
        return [Text("It has no instances yet.")]
    fitting, most = 0, _at_most_fitting(frame.page.instances, width, room)
    # The fewest that do not fit are sought by halves: drawing is what takes time.
    while fitting < most:
        tried = (fitting + most + 1) // 2
        if len(_draw_some(frame, frame.page.instances[:tried], width, ascii_only=ascii_only)) <= room:
            fitting = tried
        else:
            most = tried - 1
    lines = _draw_some(frame, frame.page.instances[: max(fitting, 1)], width, ascii_only=ascii_only)
    # If there is not room for one: its first lines, at least one.
    return lines[: max(room, 1)]


def _at_most_fitting(instances: Sequence[InstanceBlocks], width: int, room: int) -> int:
    """How many instances could fit at best, so that nobody draws thousands of cells to leave them out."""
    least = accumulate(-(-instance.total_blocks // max(width, 1)) for instance in instances)
    return sum(1 for lines in least if lines <= room)


def _draw_some(frame: Frame, instances: Sequence[InstanceBlocks], width: int, *, ascii_only: bool) -> list[Text]:
    lines = list(draw_instances(instances, width=width, ascii_only=ascii_only))
    more = frame.page.totals.instances - len(instances)
    if more:
        lines.append(Text(f"{'...' if ascii_only else '…'} and {more} more instances", style="dim"))
    legend = list(draw_legend(instances, width=width, ascii_only=ascii_only))
    if len(legend) > LEGEND_LINES:
        # The last line says what the idle cells mean.
        legend = [*legend[: LEGEND_LINES - 1], legend[-1]]
    return [*lines, _BLANK, *legend]
