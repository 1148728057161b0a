"""Takes a restored database above its lost future, while no server works on it (docs/adr/0030).

`Origin.restoring` is written first and taken away last, each durably, and no server starts while it stands: so
a restore that was killed half-way is run again, and harms nothing. Each fleet is one transaction.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from blockyard_server.domain.events import Restored
from blockyard_server.domain.formats import Formats
from blockyard_server.domain.restore import BumpTooSmall, check_bump, revision_after
from blockyard_server.engine.formats import LIVE_US
from blockyard_server.engine.store_protocol import ServerRow, Store, StoreRefused

_FORMATS: Final = Formats()


@dataclass(frozen=True, slots=True)
class RestoredFleet:
    """A fleet before and after."""

    backup_revision: int
    revision: int


@dataclass(frozen=True, slots=True)
class Report:
    """What was done."""

    epoch: int
    first_revision: int
    """New fleets begin above this."""
    fleets: Mapping[str, RestoredFleet] = field(default_factory=dict)


async def restore_alone(store: Store, now_us: int, bump: int | None) -> Report:
    """As `restored`, if no server is alive on the open store. Raises StoreRefused besides."""
    before = store.origin()
    store.set_origin(replace(before, restoring=True))
    # After that: a server says that it is alive before it looks whether a restore has begun.
    try:
        await _expect_no_server(store)
        return restored(store, now_us, bump)
    except (StoreRefused, BumpTooSmall):
        store.set_origin(replace(store.origin(), restoring=before.restoring))
        raise


def restored(store: Store, now_us: int, bump: int | None) -> Report:
    """Takes every fleet, and those to come, above what the lost future can have reached.

    `bump` is what is added at least. Raises BumpTooSmall, before anything is changed;
    StoreFailed, InvariantBroken.
    """
    origin, revisions = store.origin(), store.all_revisions()
    times = {fleet: _times(store, fleet, now_us) for fleet in revisions}
    if bump is not None:
        for fleet, each in times.items():
            check_bump(fleet, bump, *each)
    known = (origin.first_revision, *revisions.values(), *store.seen_revisions().values())
    after = revision_after(max(known), max([now_us, *(each.now_us for each in times.values())]), bump)
    begun = replace(origin, epoch=origin.epoch + 1, first_revision=after, restoring=True)
    store.set_origin(begun)
    for fleet in sorted(revisions):
        _skip(store, fleet, after, begun.epoch, times[fleet])
    store.set_origin(replace(begun, restoring=False))
    fleets = {fleet: RestoredFleet(revisions[fleet], after + 1) for fleet in sorted(revisions)}
    return Report(begun.epoch, after, fleets)


class _Times(NamedTuple):
    """Of a fleet, by its own time."""

    latest_us: int
    """When its latest event was; 0 if it has none."""
    now_us: int


def _times(store: Store, fleet: str, now_us: int) -> _Times:
    with store.transaction(fleet) as tx:
        if tx.head is None:
            return _Times(0, now_us)
        if not _FORMATS.knows(tx.head.format):
            raise StoreRefused(
                f"fleet {fleet} is of format {tx.head.format}, which this release does not know. Use a newer one"
            )
        # Of two clocks the one that is ahead, with what was added to it: too large a step harms nothing.
        ahead_us = max(now_us, tx.database_time_us or 0) + max(0, tx.head.clock_offset_us)
        return _Times(tx.latest_time_us(), ahead_us)


def _skip(store: Store, fleet: str, revision: int, epoch: int, times: _Times) -> None:
    with store.transaction(fleet) as tx:
        assert tx.head is not None, "it was there, and nobody else works on the database"
        event = Restored(revision + 1, max(times), tx.head.revision, epoch)
        if tx.head.format < _FORMATS.since[event.kind]:
            tx.raise_format(_FORMATS.since[event.kind])
        tx.skip_to(revision)
        tx.write([event], {})


async def _expect_no_server(store: Store) -> None:
    own = ServerRow(secrets.token_hex(8), "restored", _FORMATS.newest, holds_format=True)
    try:
        rows = await store.heartbeat(own)
    finally:
        await store.deregister(own.server)
    alive = [row for row in rows if row.server != own.server and row.silent_us <= LIVE_US]
    if alive:
        raise StoreRefused(
            f"{len(alive)} servers work on the database, or did so less than {LIVE_US // 1_000_000} s ago. "
            "Stop all of them, wait for that long, and run this again"
        )
