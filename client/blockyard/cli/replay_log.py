"""Reads a log of requests and puts its events in order. Pure: no service, no clock.

The order is that of the replay rules: by time, releases before acquires, then by row. A request that holds its blocks
for no time at all is released right after its own acquire, before anything else of that instant.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import Enum
from pathlib import Path
from typing import Final

MAX_BLOCKS: Final = 4096
"""The most blocks that an instance can have."""
MAX_INSTANCES: Final = 1000
"""The most instances that one demand can ask for."""
_MAX_DIGITS: Final = 9


class MalformedLog(Exception):
    """A log cannot be read; the message is a sentence that names the file, the line and the column."""


@dataclass(frozen=True, slots=True)
class LoggedInstance:
    """One row of an instances file."""

    name: str
    """The instance's id."""
    total_blocks: int
    """1..4096."""
    label: str
    """The value of the instance's label `label`; empty: it has none."""


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One row of a requests file: one Acquire, and how long its blocks are held."""

    row: int
    """Its place in the file, from 0; breaks ties."""
    request_id: str
    """The log's own name for it; part of the digest."""
    arrival_s: Decimal
    """When it arrives, in seconds from the log's start."""
    duration_s: Decimal | None
    """How long it holds its blocks, in seconds; `None`: it is never released."""
    instances: int
    """On how many distinct instances, 1..1000."""
    blocks: int
    """How many blocks on each; with `exclusive`, how many each must have at least."""
    exclusive: bool
    """Whether it wants wholly idle instances, all of each."""
    any_label: tuple[str, ...]
    """The alternatives for the instance's label `label`; empty: any instance."""
    owner: str
    """The holder; the request's id if the log names none."""


class EventKind(Enum):
    """What happens at an event of the log."""

    RELEASE = 0
    ACQUIRE = 1


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One thing to do. A release counts only if its acquire was granted."""

    kind: EventKind
    request: LoggedRequest


def read_instances(path: Path) -> list[LoggedInstance]:
    """The rows of `name,total_blocks,label,…`, in the file's order, which is the order of registration.

    Raises `MalformedLog`, also for a name that comes twice and for a file without a row.
    """
    instances = [
        LoggedInstance(
            name=row.text("name"),
            total_blocks=row.integer("total_blocks", 1, MAX_BLOCKS),
            label=row.optional("label"),
        )
        for row in _rows(path, required=("name", "total_blocks"))
    ]
    names: set[str] = set()
    for instance in instances:
        if instance.name in names:
            raise MalformedLog(f"{path}: the instance {instance.name!r} comes twice.")
        names.add(instance.name)
    return instances


def read_requests(path: Path, *, limit: int | None = None) -> list[LoggedRequest]:
    """The rows of `id,arrival_s,duration_s,n_instances,blocks[,label_any,owner,exclusive],…`, at most `limit` of them.

    An empty `arrival_s` means: together with the row before. Raises `MalformedLog`.
    """
    requests: list[LoggedRequest] = []
    arrival_s = Decimal(0)
    for row in _rows(path, required=("id", "arrival_s", "duration_s", "n_instances", "blocks")):
        if limit is not None and len(requests) >= limit:
            break
        arrival = row.seconds("arrival_s")
        arrival_s = arrival_s if arrival is None else arrival
        request_id = row.text("id")
        exclusive = row.flag("exclusive")
        requests.append(
            LoggedRequest(
                row=len(requests),
                request_id=request_id,
                arrival_s=arrival_s,
                duration_s=row.seconds("duration_s"),
                instances=row.integer("n_instances", 1, MAX_INSTANCES),
                blocks=row.integer("blocks", 0 if exclusive else 1, MAX_BLOCKS),
                exclusive=exclusive,
                any_label=tuple(label for label in row.optional("label_any").split("|") if label),
                owner=row.optional("owner") or request_id,
            )
        )
    return requests


def events_in_order(requests: Sequence[LoggedRequest], *, hold: bool) -> Iterator[LogEvent]:
    """Every event of the log in the order of the replay rules; with `hold`, without releases."""
    keyed: list[tuple[tuple[Decimal, int, int, int], LogEvent]] = []
    for request in requests:
        arrival = (request.arrival_s, EventKind.ACQUIRE.value, request.row, 0)
        keyed.append((arrival, LogEvent(EventKind.ACQUIRE, request)))
        if hold or request.duration_s is None:
            continue
        end = (request.arrival_s + request.duration_s, EventKind.RELEASE.value, request.row, 0)
        keyed.append((max(end, (*arrival[:3], 1)), LogEvent(EventKind.RELEASE, request)))
    keyed.sort(key=lambda entry: entry[0])
    return (event for _, event in keyed)


class _Row:
    """One line of a CSV file, which knows where it is for the sake of its errors."""

    def __init__(self, path: Path, line: int, fields: dict[str, str]) -> None:
        self._path = path
        self._line = line
        self._fields = fields

    def optional(self, column: str) -> str:
        return self._fields.get(column, "")

    def text(self, column: str) -> str:
        value = self.optional(column)
        if not value:
            raise self._malformed(column, "is empty")
        return value

    def integer(self, column: str, least: int, most: int) -> int:
        value = self.text(column)
        is_number = value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS
        if not is_number or not least <= int(value) <= most:
            raise self._malformed(column, f"must be a whole number from {least} to {most}, not {value!r}")
        return int(value)

    def seconds(self, column: str) -> Decimal | None:
        value = self.optional(column)
        if not value:
            return None
        try:
            seconds = Decimal(value)
        except InvalidOperation:
            seconds = Decimal("NaN")
        if not seconds.is_finite() or seconds < 0:
            raise self._malformed(column, f"must be a number of seconds, 0 or more, not {value!r}")
        return seconds

    def flag(self, column: str) -> bool:
        value = self.optional(column)
        if value not in ("", "0", "1"):
            raise self._malformed(column, f"must be 0 or 1, not {value!r}")
        return value == "1"

    def _malformed(self, column: str, fault: str) -> MalformedLog:
        return MalformedLog(f"{self._path}, line {self._line}: {column} {fault}.")


def _rows(path: Path, *, required: Sequence[str]) -> Iterator[_Row]:
    """The file's lines. Raises `MalformedLog` if it is not a CSV file with these columns and at least one row."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [column for column in required if column not in (reader.fieldnames or ())]
            if missing:
                raise MalformedLog(f"{path} has no column {', '.join(missing)}: its first line must name the columns.")
            empty = True
            for fields in reader:
                empty = False
                if None in fields or None in fields.values():
                    raise MalformedLog(f"{path}, line {reader.line_num}: not as many fields as the first line names.")
                yield _Row(path, reader.line_num, {name: value.strip() for name, value in fields.items()})
            if empty:
                raise MalformedLog(f"{path} has no row below its first line.")
    except OSError as error:
        raise MalformedLog(f"{path} cannot be read: {error.strerror or error}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise MalformedLog(f"{path} is not a CSV file in UTF-8: {error}.") from error
