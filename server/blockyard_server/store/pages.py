"""Fills a page: as many rows as asked for, but no more bytes than an answer may have.

A size is an upper estimate of the bytes that a row takes in an answer, where names are written in full.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from blockyard_server.domain import limits
from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.answers import FleetRecord, InstanceRecord
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.events import (
    Event,
    Expired,
    FleetCreated,
    FleetDeleted,
    FleetUpdated,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceUpdated,
    LeasesExtended,
    Released,
    Renewed,
    Repaired,
    Restored,
    TokenWasCancelled,
)
from blockyard_server.store.codec import Row

CHUNK_ROWS: Final = 128
"""How many rows are fetched at a time: the default page and one more fit."""

_FIXED: Final = 400
"""Every row's own fields: a name, numbers, times, an id of at most 64 characters."""
_NAME: Final = 192
"""A full name of an instance of at most 63 characters in a fleet of at most 63, with its tags."""

Key = TypeVar("Key", str, int)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Rows, and whether there are more."""

    items: list[Item]
    more: bool


async def fill_page(
    fetch: Callable[[Key, int], Awaitable[Sequence[Row]]],
    decode: Callable[[Row], Item],
    key: Callable[[Item], Key],
    estimate_size: Callable[[Item], int],
    *,
    after: Key,
    limit: int,
) -> Page[Item]:
    """Rows with keys above `after`. `fetch(after, count)` gives the next ones, fewer than `count` only at the end.

    A page has at least one row, if there is one, and ends once it has `limits.MAX_PAGE_BYTES`.
    """
    items: list[Item] = []
    size = 0
    while True:
        count = min(CHUNK_ROWS, limit - len(items) + 1)
        rows = await fetch(after, count)
        for row in rows:
            if len(items) >= limit or size >= limits.MAX_PAGE_BYTES:
                return Page(items, more=True)
            item = decode(row)
            items.append(item)
            size += estimate_size(item)
            after = key(item)
        if len(rows) < count:
            return Page(items, more=False)


def estimate_allocation_size(allocation: Allocation) -> int:
    """The size of an allocation: its instances may be named twice, as places and as offline."""
    return (
        _FIXED
        + len(allocation.holder.encode())
        + _pairs_size(allocation.annotations)
        + 2 * _placements_size(allocation.placements)
    )


def estimate_event_size(event: Event) -> int:
    """The size of an event."""
    match event:
        case Granted():
            return _FIXED + len(event.holder.encode()) + _placements_size(event.placements)
        case Released() | Expired():
            return _FIXED + len(event.holder.encode()) + _placements_size(event.freed)
        case InstanceCreated() | InstanceUpdated() | FleetCreated() | FleetUpdated():
            return 2 * _FIXED + _pairs_size(event.fields.labels) + 80 * limits.MAX_RESOURCES
        case Repaired():
            return _FIXED + (2 * _NAME + 48) * len(event.corrections)
        case Renewed() | TokenWasCancelled() | LeasesExtended() | InstanceDeleted() | FleetDeleted() | Restored():
            return 2 * _FIXED


def estimate_instance_size(instance: InstanceRecord) -> int:
    """The size of an instance."""
    return _FIXED + _pairs_size(instance.fields.labels) + 80 * len(instance.fields.resources)


def estimate_fleet_size(fleet: FleetRecord) -> int:
    """The size of a fleet."""
    return _FIXED + _pairs_size(fleet.fields.labels)


def estimate_holds_size(holders: Iterable[str], blocks: int) -> int:
    """The size of the holds on one instance."""
    return _FIXED + 3 * blocks + sum(_NAME + len(holder.encode()) for holder in holders)


def _pairs_size(pairs: Mapping[str, str]) -> int:
    return sum(16 + len(key.encode()) + len(value.encode()) for key, value in pairs.items())


def _placements_size(placements: Placements) -> int:
    return sum(_NAME + 2 * len(blocks) for _, blocks in placements)
