"""Which allocations a filter finds, in ascending order of the id, without looking at more than a bounded number.

Filters for which there is an index are answered by it. For what is left of a filter (an ended state, an instance of an
ended allocation), SCANNED_ROWS rows are looked at for one page; the next page goes on from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, literal_column, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from blockyard_server.domain.actor import SEPARATOR
from blockyard_server.domain.answers import AllocationFilter
from blockyard_server.store.codec import placement_pattern
from blockyard_server.store.schema import allocations, held_blocks

SCANNED_ROWS: Final = 10_000
"""How many rows that an index has found are compared with the rest of a filter for one page."""

_LIVE: Final = allocations.c.live == literal_column("1")
_ENDED: Final = allocations.c.live == literal_column("0")


@dataclass(slots=True)
class _Plan:
    """What an index answers, and what is compared row by row."""

    indexed: list[ColumnElement[bool]]
    rest: list[ColumnElement[bool]] = field(default_factory=list)


class AllocationSearch:
    """One page's search. `begin` first, then `after` as often as needed."""

    def __init__(self, connection: AsyncConnection, fleet: str, where: AllocationFilter) -> None:
        self._connection = connection
        self._fleet = fleet
        self._where = where
        self._plan = _plan(fleet, where)
        self._on_instance: list[int] | None = None
        """The held allocations on the filter's instance, from `begin` on; None if it names none."""
        self._upto: int | None = None

    async def begin(self, after: int) -> int | None:
        """Sets the page's end: the last id that this page looks at; None if it may look at all."""
        if self._plan.rest:
            self._upto = await self._connection.scalar(self._found(after).offset(SCANNED_ROWS - 1).limit(1))
        if self._where.instance is not None:
            self._on_instance = await self._held_on_instance(self._where.instance)
        return self._upto

    async def after(self, allocation: int, count: int) -> Sequence[int]:
        """The next ids above this one."""
        if self._on_instance is None:
            return await self._numbers(allocation, count)
        held = [number for number in self._on_instance if number > allocation]
        ended = [] if self._where.state == "HELD" else await self._numbers(allocation, count)
        return sorted([*held, *ended])[:count]

    def _found(self, after: int) -> Select[int]:
        """The ids above this one that the index finds, up to the page's end."""
        found = select(allocations.c.allocation).where(*self._plan.indexed, allocations.c.allocation > after)
        if self._upto is not None:
            found = found.where(allocations.c.allocation <= self._upto)
        return found.order_by(allocations.c.allocation)

    async def _numbers(self, allocation: int, count: int) -> Sequence[int]:
        found = self._found(allocation)
        if self._plan.rest:
            # In one statement with the rest of the filter, SQLite would walk the table instead of the index.
            among = allocations.c.allocation.in_(found.limit(SCANNED_ROWS))
            found = self._among(among).where(*self._plan.rest).order_by(allocations.c.allocation)
        return [row[0] for row in await self._connection.execute(found.limit(count))]

    async def _held_on_instance(self, instance: str) -> list[int]:
        """Live ones by the blocks they hold: at most as many as an instance has blocks.

        They are compared with the page's bounds here: a bound in the statement lures SQLite to another index.
        """
        if self._where.state not in {None, "HELD"}:
            return []
        found: Select[Any] = select(held_blocks.c.allocation).where(
            held_blocks.c.fleet == self._fleet, held_blocks.c.instance == instance
        )
        wanted: list[ColumnElement[bool]] = []
        if self._where.holder is not None:
            wanted.append(allocations.c.holder == self._where.holder)
        if self._where.tenant is not None:
            wanted.append(_owned_by(self._where.tenant, self._where.callers))
        if wanted:
            found = self._among(allocations.c.allocation.in_(found)).where(*wanted)
        numbers: set[int] = {row[0] for row in await self._connection.execute(found)}
        return sorted(number for number in numbers if self._upto is None or number <= self._upto)

    def _among(self, some: ColumnElement[bool]) -> Select[int]:
        return select(allocations.c.allocation).where(allocations.c.fleet == self._fleet, some)


def _plan(fleet: str, where: AllocationFilter) -> _Plan:
    plan = _Plan([allocations.c.fleet == fleet])
    in_state = [allocations.c.state == where.state] if where.state is not None else []
    of_holder = [allocations.c.holder == where.holder] if where.holder is not None else []
    if where.instance is not None:
        # The live ones are found by their held blocks; these are the ended ones.
        placements: Any = func.coalesce(allocations.c.remaining, allocations.c.granted)
        named = placements.contains(placement_pattern(where.instance), autoescape=True)
        plan = _Plan([*plan.indexed, _ENDED], [named, *of_holder, *in_state])
    elif of_holder and where.tenant is None:
        plan = _Plan([*plan.indexed, *of_holder], in_state)
    elif where.state == "HELD":
        plan = _Plan([*plan.indexed, _LIVE])
    elif in_state:
        plan = _Plan([*plan.indexed, _ENDED], in_state)
    if where.tenant is not None:
        if where.instance is None:
            # By the index of holders a page would end where others' allocations are, which the reader may not see.
            plan.rest += of_holder
        plan.rest.append(_owned_by(where.tenant, where.callers))
    return plan


def _owned_by(tenant: str, callers: Sequence[str]) -> ColumnElement[bool]:
    caller = allocations.c.caller
    below = caller.startswith(f"{tenant}{SEPARATOR}", autoescape=True)
    return or_(caller == tenant, below, caller.in_(callers))
