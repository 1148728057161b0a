"""Which events a filter finds. The journal is read by revision alone, SCANNED_ROWS of them for one page."""

from typing import Final

from sqlalchemy import ColumnElement, and_, or_

from blockyard_server.domain.answers import EventFilter
from blockyard_server.domain.events import Expired, Granted, Released
from blockyard_server.store.codec import placement_pattern
from blockyard_server.store.schema import journal

SCANNED_ROWS: Final = 10_000
"""How many events are compared with a filter for one page."""


class EventSearch:
    """One page's search in a journal that ends at `revision`. `begin` first, then `after` as often as needed."""

    def __init__(self, fleet: str, where: EventFilter, revision: int) -> None:
        self._fleet = fleet
        self._revision = revision
        self._filter = _conditions(where)
        self._upto: int | None = None

    def begin(self, after: int) -> int | None:
        """Sets the page's end: the last revision that this page looks at; None if it may look at all."""
        if self._filter and after + SCANNED_ROWS < self._revision:
            self._upto = after + SCANNED_ROWS
        return self._upto

    def after(self, revision: int) -> list[ColumnElement[bool]]:
        """What the events above this revision satisfy."""
        conditions = [journal.c.fleet == self._fleet, journal.c.revision > revision, *self._filter]
        if self._upto is not None:
            conditions.append(journal.c.revision <= self._upto)
        return conditions


def _conditions(where: EventFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if where.kinds:
        conditions.append(journal.c.kind.in_(where.kinds))
    if where.holder is not None:
        conditions.append(journal.c.holder == where.holder)
    if where.instance is not None:
        conditions.append(_of_instance(where.instance))
    return conditions


def _of_instance(instance: str) -> ColumnElement[bool]:
    """The event is of the instance itself, or grants or frees blocks of it.

    What a release leaves held does not count; in the body it comes after what is freed.
    """
    named = journal.c.body.contains(placement_pattern(instance), autoescape=True)
    freed = _escaped(placement_pattern(instance))
    return or_(
        journal.c.instance == instance,
        and_(journal.c.kind.in_([Granted.kind, Expired.kind]), named),
        and_(journal.c.kind == Released.kind, journal.c.body.like(f'%{freed}%"left":%', escape="/")),
    )


def _escaped(text: str) -> str:
    return text.replace("/", "//").replace("%", "/%").replace("_", "/_")
