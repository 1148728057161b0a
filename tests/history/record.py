"""What a history is made of: each call with its answer and the real time of both, and the journal's events.

One history is of one fleet. Instances are numbers in the order of registration, blocks are bits of a mask, times
are nanoseconds of one monotonic clock (`start_ns`, `end_ns`) or microseconds of the server's clock (`_us`).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Placements: TypeAlias = tuple[tuple[int, int], ...]
"""(instance, mask of blocks), in the order of choice."""

HELD: Final = "HELD"
RELEASED: Final = "RELEASED"
EXPIRED: Final = "EXPIRED"
ALREADY_RELEASED: Final = "ALREADY_RELEASED"
ALREADY_EXPIRED: Final = "ALREADY_EXPIRED"
CANCELLED: Final = "CANCELLED_BEFORE_GRANT"


@dataclass(frozen=True, slots=True)
class Shape:
    """One demand."""

    instances: int
    blocks: int
    """On each of them; of an exclusive demand, at least."""
    exclusive: bool = False
    on: int | None = None
    """Only this instance."""


@dataclass(frozen=True, slots=True)
class Acquire:
    token: str
    shapes: tuple[Shape, ...]
    ttl_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """Of an allocation, or of what a token was granted."""

    allocation: int | None = None
    token: str | None = None
    placements: Placements = ()
    """Only these blocks. Empty: all."""


@dataclass(frozen=True, slots=True)
class Renew:
    allocation: int
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Describe:
    full: bool


@dataclass(frozen=True, slots=True)
class Get:
    allocation: int


@dataclass(frozen=True, slots=True)
class ListHeld:
    """All allocations that are held."""


Asked: TypeAlias = Acquire | Release | Renew | Describe | Get | ListHeld


@dataclass(frozen=True, slots=True)
class View:
    """An allocation as an answer shows it."""

    allocation: int
    token: str
    state: str
    placements: Placements
    revision: int
    """Of its last change."""
    expire_us: int | None = None


@dataclass(frozen=True, slots=True)
class Granted:
    view: View
    replayed: bool


@dataclass(frozen=True, slots=True)
class Freed:
    """The answer to a release. No view for a cancellation."""

    outcome: str
    view: View | None
    revision: int


@dataclass(frozen=True, slots=True)
class Renewed:
    view: View


@dataclass(frozen=True, slots=True)
class Described:
    revision: int
    total_busy: int
    total_idle: int
    busy: tuple[int, ...]
    """Of each instance."""
    idle: tuple[int, ...]
    holds: tuple[tuple[int, int, int], ...] | None
    """(instance, allocation, mask), with the FULL view."""


@dataclass(frozen=True, slots=True)
class Got:
    view: View


@dataclass(frozen=True, slots=True)
class Listed:
    revision: int
    views: tuple[View, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str
    allocation: int | None = None


Answer: TypeAlias = Granted | Freed | Renewed | Described | Got | Listed | Refused


@dataclass(frozen=True, slots=True)
class Op:
    """One call."""

    number: int
    """Its place in the history."""
    client: int
    start_ns: int
    """Before it was sent."""
    end_ns: int | None
    """After its answer came. None: none came, and what it asked for may happen at any time from `start_ns` on."""
    asked: Asked
    answer: Answer | None

    def __str__(self) -> str:
        """One line for people."""
        return f"#{self.number} of client {self.client} [{self.start_ns}, {self.end_ns}] {self.asked} -> {self.answer}"


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the journal."""

    revision: int
    kind: str
    time_us: int
    allocation: int | None = None
    placements: Placements = ()
    expire_us: int | None = None
    token: str | None = None
    ended: bool = False


@dataclass(frozen=True, slots=True)
class History:
    """All that was asked and answered, and the journal as it was read in the end.

    `sizes` has how many blocks each instance has. The fleet and its instances are there before the first call.
    """

    sizes: tuple[int, ...]
    ops: Sequence[Op]
    journal: Iterable[Event]


_ASKED: Final = (Acquire, Release, Renew, Describe, Get, ListHeld)
_ANSWERS: Final = (Granted, Freed, Renewed, Described, Got, Listed, Refused)


def encode_op(op: Op) -> str:
    """One line of JSON, without the end of the line."""
    asked = [_ASKED.index(type(op.asked)), *_fields(op.asked)]
    answer = None if op.answer is None else [_ANSWERS.index(type(op.answer)), *_fields(op.answer)]
    return json.dumps([op.client, op.start_ns, op.end_ns, asked, answer], separators=(",", ":"))


def decode_op(number: int, line: str | bytes) -> Op:
    """The call of such a line."""
    client, start_ns, end_ns, asked, answer = json.loads(line)
    return Op(
        number, client, start_ns, end_ns, _decode_asked(*asked), None if answer is None else _decode_answer(*answer)
    )


def encode_event(event: Event) -> str:
    """One line of JSON, without the end of the line."""
    return json.dumps(_fields(event), separators=(",", ":"))


def decode_event(line: str | bytes) -> Event:
    """The event of such a line."""
    revision, kind, time_us, allocation, placements, expire_us, token, ended = json.loads(line)
    return Event(revision, kind, time_us, allocation, _placements(placements), expire_us, token, ended)


def _fields(value: Any) -> list[Any]:
    return [_plain(getattr(value, name)) for name in value.__slots__]


def _plain(value: Any) -> Any:
    if isinstance(value, Shape | View):
        return _fields(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value


def _placements(plain: list[list[int]]) -> Placements:
    return tuple([(instance, mask) for instance, mask in plain])


def _view(plain: list[Any]) -> View:
    allocation, token, state, placements, revision, expire_us = plain
    return View(allocation, token, state, _placements(placements), revision, expire_us)


def _decode_asked(kind: int, *fields: Any) -> Asked:
    made = _ASKED[kind]
    if made is Acquire:
        return Acquire(fields[0], tuple([Shape(*shape) for shape in fields[1]]), fields[2])
    if made is Release:
        return Release(fields[0], fields[1], _placements(fields[2]))
    return made(*fields)


def _decode_answer(kind: int, *fields: Any) -> Answer:
    made = _ANSWERS[kind]
    if made is Described:
        revision, total_busy, total_idle, busy, idle, holds = fields
        tuples = None if holds is None else tuple([(i, a, m) for i, a, m in holds])
        return Described(revision, total_busy, total_idle, tuple(busy), tuple(idle), tuples)
    if made is Listed:
        return Listed(fields[0], tuple([_view(view) for view in fields[1]]))
    if made is Freed:
        return Freed(fields[0], None if fields[1] is None else _view(fields[1]), fields[2])
    if made is Refused:
        return Refused(*fields)
    if made is Granted:
        return Granted(_view(fields[0]), fields[1])
    return Renewed(_view(fields[0])) if made is Renewed else Got(_view(fields[0]))
