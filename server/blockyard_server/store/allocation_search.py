"""Which allocations a filter finds, in ascending order of the id, without looking at more than a bounded number.

Filters for which there is an index are answered by it. For what is left of a filter (an ended state, an instance of an
ended allocation), SCANNED_ROWS rows are looked at for one page; the next page goes on from there.
"""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, func, literal_column, select
from sqlalchemy.ext.asyncio import AsyncConnection

from blockyard_server.domain.answers import AllocationFilter
from blockyard_server.store.codec import naming
from blockyard_server.store.schema import allocations, held_blocks

SCANNED_ROWS: Final = 10_000
"""How many rows that an index has found are compared with the rest of a filter for one page."""

_Condition = ColumnElement[bool]
_LIVE: Final = allocations.c.live == literal_column("1")
_ENDED: Final = allocations.c.live == literal_column("0")


class AllocationSearch:
    """One page's search. `begin` first, then `after` as often as needed."""

    def __init__(self, connection: AsyncConnection, fleet: str, where: AllocationFilter) -> None:
        self._connection = connection
        self._fleet = fleet
        self._where = where
        self._indexed, self._rest = _conditions(fleet, where)
        self._on_instance: list[int] | None = None
        """The held allocations on the filter's instance, from `begin` on; None if it names none."""
        self._upto: int | None = None

    async def begin(self, after: int) -> int | None:
        """Sets the page's end: the last id that this page looks at; None if it may look at all."""
        if self._rest:
            scanned = select(allocations.c.allocation).where(*self._indexed, allocations.c.allocation > after)
            last = scanned.order_by(allocations.c.allocation).offset(SCANNED_ROWS - 1).limit(1)
            self._upto = await self._connection.scalar(last)
        if self._where.instance is not None:
            self._on_instance = await self._held_on_instance(self._where.instance, after)
        return self._upto

    async def after(self, allocation: int, count: int) -> Sequence[int]:
        """The next ids above this one."""
        if self._on_instance is None:
            return await self._numbers(allocation, count)
        held = [number for number in self._on_instance if number > allocation]
        ended = [] if self._where.state == "HELD" else await self._numbers(allocation, count)
        return sorted([*held, *ended])[:count]

    async def _numbers(self, allocation: int, count: int) -> Sequence[int]:
        found = select(allocations.c.allocation).where(
            *self._indexed, *self._rest, allocations.c.allocation > allocation
        )
        if self._upto is not None:
            found = found.where(allocations.c.allocation <= self._upto)
        rows = await self._connection.execute(found.order_by(allocations.c.allocation).limit(count))
        return [row[0] for row in rows]

    async def _held_on_instance(self, instance: str, after: int) -> list[int]:
        """Live ones by the blocks they hold: at most as many as an instance has blocks."""
        if self._where.state not in {None, "HELD"}:
            return []
        found = select(held_blocks.c.allocation).where(
            held_blocks.c.fleet == self._fleet, held_blocks.c.instance == instance, held_blocks.c.allocation > after
        )
        if self._where.holder is not None:
            found = found.join(
                allocations,
                (allocations.c.fleet == held_blocks.c.fleet) & (allocations.c.allocation == held_blocks.c.allocation),
            ).where(allocations.c.holder == self._where.holder)
        if self._upto is not None:
            found = found.where(held_blocks.c.allocation <= self._upto)
        rows = await self._connection.execute(found.distinct())
        return sorted(row[0] for row in rows)


def _conditions(fleet: str, where: AllocationFilter) -> tuple[list[_Condition], list[_Condition]]:
    """What an index answers, and what is compared row by row."""
    indexed: list[_Condition] = [allocations.c.fleet == fleet]
    rest: list[_Condition] = []
    if where.instance is not None:
        # The live ones are found by their held blocks; these are the ended ones.
        indexed.append(_ENDED)
        placements: Any = func.coalesce(allocations.c.remaining, allocations.c.granted)
        rest.append(placements.contains(naming(where.instance), autoescape=True))
        rest += [allocations.c.holder == where.holder] if where.holder is not None else []
        rest += [allocations.c.state == where.state] if where.state is not None else []
    elif where.holder is not None:
        indexed.append(allocations.c.holder == where.holder)
        rest += [allocations.c.state == where.state] if where.state is not None else []
    elif where.state is not None:
        indexed.append(_LIVE if where.state == "HELD" else _ENDED)
        rest += [allocations.c.state == where.state] if where.state != "HELD" else []
    return indexed, rest
