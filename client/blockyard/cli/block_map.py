"""Draws a fleet: one cell a block, a letter and a colour for each holder. Pure: plain values in, rich text out.

    node-1  AABB···· ········   4 of 16 busy
    node-2  CC------            2 of 8 busy  CORDONED

    A train-1 (2)  B train-2 (2)  C eval (2)
    · idle  - idle, but takes no new grants

The letters say everything that the colours say, so the drawing survives a pipe, a log and a colour-blind reader.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from blockyard.cli.safe_text import safe
from blockyard.enums import InstanceState
from blockyard.types import InstanceBlocks

_LETTERS: Final = ascii_uppercase + ascii_lowercase + digits
_CROWD: Final = "#"
"""The cell of every holder beyond the letters."""
_CLOSED: Final = "-"
_COLOURS: Final = (
    "bright_cyan",
    "bright_yellow",
    "bright_magenta",
    "bright_green",
    "bright_blue",
    "bright_red",
    "cyan",
    "yellow",
    "magenta",
    "green",
    "blue",
    "red",
)
_STATE_STYLES: Final = {InstanceState.CORDONED: "bold yellow", InstanceState.OFFLINE: "bold red"}
_GROUP: Final = 8
"""Cells between two gaps: what people count in."""
_MAX_NAME: Final = 24
_MIN_CELLS: Final = _GROUP
_TAIL: Final = len("  4096 of 4096 busy  CORDONED")


@dataclass(frozen=True, slots=True)
class HolderMark:
    """How a holder's blocks are drawn."""

    symbol: str
    """One character; distinct for the first 62 holders, `#` for all others."""
    style: str
    """A rich style; may repeat."""


def mark_holders(instances: Sequence[InstanceBlocks]) -> dict[str, HolderMark]:
    """A mark for each holder, in the order in which the instances show them.

    The holders that get no letter of their own are those with the fewest blocks.
    """
    busy = _blocks_by_holder(instances)
    lettered = {holder for holder, _ in busy.most_common(len(_LETTERS))}
    letters = iter(_LETTERS)
    colours = cycle(_COLOURS)
    return {
        holder: HolderMark(next(letters), f"black on {next(colours)}")
        if holder in lettered
        else HolderMark(_CROWD, "black on white")
        for holder in busy
    }


def draw_instances(instances: Sequence[InstanceBlocks], *, width: int, ascii_only: bool = False) -> Iterator[Text]:
    """The lines of the map, at most `width` columns wide where that leaves room for eight cells.

    Long instances wrap; each further line begins with the number of its first block.
    """
    if not instances:
        return
    marks = mark_holders(instances)
    name_width = min(max(cell_len(_short_name(instance.instance)) for instance in instances), _MAX_NAME)
    room = max(width - name_width - 2 - _TAIL, _MIN_CELLS)
    per_line = max((room + 1) // (_GROUP + 1), 1) * _GROUP
    cells_width = min(max(_cells_width(min(instance.total_blocks, per_line)) for instance in instances), room)
    for instance in instances:
        yield from _draw_instance(instance, marks, name_width, per_line, cells_width, ascii_only=ascii_only)


def draw_legend(instances: Sequence[InstanceBlocks], *, width: int, ascii_only: bool = False) -> Iterator[Text]:
    """What the cells mean: each holder with its number of blocks, then the idle ones."""
    marks = mark_holders(instances)
    busy = _blocks_by_holder(instances)
    entries = [
        Text.assemble((mark.symbol, mark.style), f" {safe(holder)} ({busy[holder]})")
        for holder, mark in marks.items()
        if mark.symbol != _CROWD
    ]
    crowd = [holder for holder, mark in marks.items() if mark.symbol == _CROWD]
    if crowd:
        blocks = sum(busy[holder] for holder in crowd)
        entries.append(Text.assemble((_CROWD, "black on white"), f" {len(crowd)} more holders ({blocks})"))
    yield from _flow(entries, width)
    idle = [Text(f"{_idle_cell(ascii_only=ascii_only)} idle")]
    if any(instance.state is not InstanceState.ACTIVE for instance in instances):
        idle.append(Text(f"{_CLOSED} idle, but takes no new grants"))
    yield from _flow(idle, width)


def _draw_instance(
    instance: InstanceBlocks,
    marks: Mapping[str, HolderMark],
    name_width: int,
    per_line: int,
    cells_width: int,
    *,
    ascii_only: bool,
) -> Iterator[Text]:
    name = _short_name(instance.instance)
    if cell_len(name) > name_width:
        name = set_cell_size(name, name_width - 1) + ("~" if ascii_only else "…")
    idle = _idle_cell(ascii_only=ascii_only) if instance.state is InstanceState.ACTIVE else _CLOSED
    holder_of = {block: hold.holder for hold in instance.holds for block in hold.blocks}
    for first in range(0, instance.total_blocks, per_line):
        last = min(first + per_line, instance.total_blocks)
        line = Text(f"{set_cell_size(name, name_width)}  " if first == 0 else f"{first:>{name_width}}  ", no_wrap=True)
        line.append_text(_draw_cells(range(first, last), holder_of, marks, idle))
        if first == 0:
            line.append(" " * max(cells_width - _cells_width(last), 0))
            line.append(f"  {instance.busy_blocks} of {instance.total_blocks} busy")
            if instance.state is not InstanceState.ACTIVE:
                line.append(f"  {instance.state.name}", style=_STATE_STYLES.get(instance.state, "bold"))
        yield line


def _draw_cells(blocks: range, holder_of: Mapping[int, str], marks: Mapping[str, HolderMark], idle: str) -> Text:
    cells = Text()
    for place, block in enumerate(blocks):
        if place and place % _GROUP == 0:
            cells.append(" ")
        holder = holder_of.get(block)
        if holder is None:
            cells.append(idle, style="dim")
        else:
            cells.append(marks[holder].symbol, style=marks[holder].style)
    return cells


def _flow(entries: Sequence[Text], width: int) -> Iterator[Text]:
    """The entries side by side, on as many lines as they need."""
    line = Text()
    for entry in entries:
        if line and line.cell_len + 2 + entry.cell_len > width:
            yield line
            line = Text()
        if line:
            line.append("  ")
        line.append_text(entry)
    if line:
        yield line


def _blocks_by_holder(instances: Sequence[InstanceBlocks]) -> Counter[str]:
    busy: Counter[str] = Counter()
    for instance in instances:
        for hold in sorted(instance.holds, key=lambda hold: hold.blocks[:1]):
            busy[hold.holder] += len(hold.blocks)
    return busy


def _cells_width(cells: int) -> int:
    return cells + max(cells - 1, 0) // _GROUP


def _short_name(instance: str) -> str:
    return safe(instance.rpartition("/")[2])


def _idle_cell(*, ascii_only: bool) -> str:
    return "." if ascii_only else "·"
