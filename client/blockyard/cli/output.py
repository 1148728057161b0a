"""What commands print: one JSON document, or text for people. Results go to stdout."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Final, TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from blockyard.cli.failures import OutputClosed
from blockyard.cli.safe_text import safe
from blockyard.types import Placement

Document: TypeAlias = "str | int | float | bool | list[Document] | dict[str, Document] | None"
"""What JSON can say."""

_PIPE_MAP_WIDTH: Final = 100
"""For drawings that go to a file or a pipe."""


class OutputFormat(StrEnum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


class _QuietConsole(Console):
    """A console that ends the command, instead of the process, when nobody reads it any more."""

    def on_broken_pipe(self) -> None:
        raise OutputClosed


def document(value: object) -> Document:
    """The JSON form of a value of the SDK.

    Dataclasses become objects with the same field names, times RFC 3339 in UTC, durations protobuf's form (`30s`,
    `0.5s`), enums their names.
    """
    form: Document
    match value:
        case Enum():
            form = str(value.value)
        case None | bool() | int() | float() | str():
            form = value
        case datetime():
            form = value.isoformat().replace("+00:00", "Z")
        case timedelta():
            form = f"{_write_seconds(_seconds(value))}s"
        case Mapping():
            form = {str(key): document(entry) for key, entry in value.items()}
        case Iterable():
            form = [document(entry) for entry in value]
        case _ if is_dataclass(value):
            form = {field.name: document(getattr(value, field.name)) for field in fields(value)}
        case _:
            raise TypeError(f"{type(value).__name__} has no JSON form")
    return form


def print_document(value: object) -> None:
    """Prints the one JSON document of a command."""
    _write(json.dumps(document(value), indent=2) + "\n")


def print_json_line(value: object) -> None:
    """Prints one of many JSON documents, on a line of its own, at once."""
    _write(json.dumps(document(value)) + "\n")


def print_line(text: str | Text = "") -> None:
    """Prints a line for people, with nothing in it that a terminal would obey."""
    screen().print(_safe_line(text), soft_wrap=True)


def tell(sentence: str) -> None:
    """Says a sentence on stderr, at once: other threads and other programs write there, too. Raises OSError."""
    sys.stderr.write(f"{safe(sentence)}\n")
    sys.stderr.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, if_empty: str) -> None:
    """Prints rows under headings, or the sentence `if_empty`.

    A terminal folds long cells. Elsewhere each row is a line, however long, with two spaces or more between cells.
    """
    cells = [[safe(cell) for cell in row] for row in rows]
    if not cells:
        print_line(if_empty)
    elif goes_to_terminal():
        _print_folding(columns, cells)
    else:
        _print_lines([list(columns), *cells])


def _print_folding(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    screen().print(table)


def _print_lines(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = [set_cell_size(cell, width) for cell, width in zip(row, widths, strict=True)]
        _write("  ".join(padded).rstrip(" ") + "\n")


def _safe_line(text: str | Text) -> Text:
    """Text whose parts were not made safe loses its style with what is hidden in it."""
    plain = text if isinstance(text, str) else text.plain
    cleaned = safe(plain)
    return text if isinstance(text, Text) and cleaned == plain else Text(cleaned)


def screen() -> Console:
    """Stdout, with colour where it goes to a terminal (NO_COLOR and FORCE_COLOR are heeded)."""
    return _QuietConsole(highlight=False, markup=False, emoji=False)


def drawing_width(console: Console) -> int:
    """How many columns a drawing may have."""
    return console.width if goes_to_terminal() else _PIPE_MAP_WIDTH


def goes_to_terminal() -> bool:
    """Whether people read stdout as it is written; FORCE_COLOR asks for colour elsewhere, and for no other form."""
    return sys.stdout.isatty()


def ascii_only() -> bool:
    """Whether stdout cannot say more than ASCII."""
    return "utf" not in (sys.stdout.encoding or "").lower()


def write_placements(placements: Sequence[Placement]) -> str:
    """`node-1:0-3,6 node-2:0`."""
    return " ".join(f"{placement.instance}:{write_blocks(placement.blocks)}" for placement in placements)


def write_blocks(blocks: Sequence[int]) -> str:
    """Ascending block numbers with their runs drawn together: `0-3,6`."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][1] + 1:
            runs[-1][1] = block
        else:
            runs.append([block, block])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def write_pairs(pairs: Mapping[str, object]) -> str:
    """`a=1, b=2`, or `-` for none."""
    return ", ".join(f"{key}={value}" for key, value in pairs.items()) or "-"


def write_time(time: datetime | None) -> str:
    """To the second, in UTC; `-` for none."""
    return "-" if time is None else time.strftime("%Y-%m-%d %H:%M:%SZ")


def write_duration(duration: timedelta | None, *, if_none: str = "-") -> str:
    """`30s`, `1h30m`; a fraction only where there is one."""
    if duration is None:
        return if_none
    left = _seconds(duration)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    if left or not parts:
        parts.append(f"{_write_seconds(left)}s")
    return "".join(parts)


def _seconds(duration: timedelta) -> Decimal:
    return Decimal(duration // timedelta(microseconds=1)) / 1_000_000


def _write_seconds(seconds: Decimal) -> str:
    return f"{seconds:f}".rstrip("0").rstrip(".") if seconds % 1 else f"{seconds:.0f}"


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise OutputClosed from None
