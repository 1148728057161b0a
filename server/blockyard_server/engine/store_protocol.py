"""What the engine needs of a store. The engine owns this protocol; `store` implements it.

Writes are synchronous and happen in the engine's writer thread, one transaction at a time for a fleet. Reads are
asynchronous, each out of one snapshot. What a store raises: `InvariantBroken`, `StoreFailed`, `StoreRefused`.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

from blockyard_server.domain.allocation import Allocation, TokenRecord
from blockyard_server.domain.answers import FleetRecord, InstanceRecord
from blockyard_server.domain.events import Event, Repaired
from blockyard_server.domain.requests import TokenKey
from blockyard_server.domain.retention import FleetAge
from blockyard_server.engine.reader_protocol import Reader

RESTORE_BEGAN: Final = "a restore of it has begun, and has not ended"
"""What `Store.why_restored` says of `Origin.restoring`."""


class StoreRefused(Exception):
    """The store cannot be opened at all; the message says why and what to do (for the operator)."""


class StoreFailed(Exception):
    """The database could not be reached, read or written. Whether a commit happened is unknown."""


class StoreConflict(StoreFailed):
    """The database ended this transaction in favour of another: nothing was committed, it may be run again."""


class CommitUnknown(StoreFailed):
    """The connection was lost during COMMIT, or it was not answered with a plain success.

    The next transaction on the fleet waits until this one is over, and then sees in the journal whether it happened.
    """


class StoreStopped(StoreFailed):
    """The store takes no transaction, and no read, until it is closed and opened again. The message says why."""


class StoreCorrupt(StoreStopped):
    """The database is damaged: what it says cannot be trusted, and asking again does not help."""


def level_of(failure: StoreFailed) -> int:
    """How loudly a failure is logged. A store that has stopped has said so, once, and fails every call from then on."""
    return logging.DEBUG if isinstance(failure, StoreStopped) else logging.ERROR


class InvariantBroken(Exception):
    """The database refused a change that would break an invariant, or rows are not as the decision saw them."""


@dataclass(frozen=True, slots=True)
class FleetHead:
    """The locked fleet row. `record` is None for a fleet that was deleted; its revision goes on."""

    revision: int
    next_order: int
    """The place in the order of registration that the next instance gets; never reused."""
    record: FleetRecord | None
    halted: bool = False
    """The fleet's writes are stopped, on every server, until it is repaired."""
    format: int = 1
    """Of its records (`domain.formats`)."""
    clock_offset_us: int = 0
    """Added to the database's clock it is the fleet's time (`engine.fleet_time`)."""


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """An instance with the set of its held blocks (bit i is block i), read from the rows of held blocks."""

    record: InstanceRecord
    busy: int


@dataclass(frozen=True, slots=True)
class ServerRow:
    """A server that works on the database, as the others see it."""

    server: str
    """Its id, unique to the process."""
    version: str
    """Its release, for people."""
    newest_format: int
    """The newest format of records that it knows (`domain.formats`)."""
    holds_format: bool = False
    """It asks the others to raise no fleet's format."""
    silent_us: int = 0
    """For how long it has given no sign of life, by the database's clock."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What the database says of itself as a whole."""

    database_id: str
    epoch: int
    """How often it was restored."""
    first_revision: int
    """A fleet that there never was begins above this: the lost future may have had one of the same name."""
    restoring: bool
    """A restore has begun, and not every fleet goes on above the lost future yet: no server may start."""


class Transaction(Protocol):
    """One transaction on one fleet, with its row locked. Used in the writer thread only."""

    head: FleetHead | None
    """None: there never was such a fleet."""
    database_time_us: int | None
    """The database's clock, read after the fleet was locked; None: the database has no clock of its own."""

    def first_revision(self) -> int:
        """Above which revision a fleet begins that there never was (`Origin`). Asked before such a fleet is written."""
        ...

    def load_instances(self) -> list[InstanceRow]:
        """All instances in the order of registration, with their held blocks."""
        ...

    def events_after(self, revision: int, limit: int) -> list[Event]:
        """The journal above a revision, `limit` events at most."""
        ...

    def latest_time_us(self) -> int:
        """When the fleet's latest event was, by its own time; 0 if there is none."""
        ...

    def tokens(self, keys: Sequence[TokenKey]) -> dict[TokenKey, TokenRecord]:
        """Those of these tokens that are known. One statement."""
        ...

    def allocations(self, ids: Sequence[int]) -> dict[int, Allocation]:
        """Those of these allocations that there are, held or ended. One statement."""
        ...

    def due_leases(self, now_us: int, limit: int) -> list[Allocation]:
        """HELD allocations with `expire_time_us <= now_us`, the longest overdue first, `limit` at most."""
        ...

    def next_expire_time_us(self, after_us: int) -> int | None:
        """The earliest expire time above `after_us` among HELD allocations; None if none has one."""
        ...

    def fleet_count(self) -> int:
        """How many fleets there are that are not deleted."""
        ...

    def write(self, events: Sequence[Event], allocations: Mapping[int, Allocation]) -> None:
        """Writes the journal and every row that the events change, in bulk, and the fleet's new revision.

        `events` are consecutive from `head.revision + 1` on. `allocations` are the final states, after all events,
        of the allocations that the events grant, release, renew or expire. Raises InvariantBroken if any row
        is not as the events imply (for example a held block that is not there to be freed).
        """
        ...

    def age(self) -> FleetAge:
        """The fleet's age and its marks, as they were last written down."""
        ...

    def set_age(self, age: FleetAge) -> None:
        """Writes the fleet's age, which only ever grows. The fleet exists or existed. No event, no revision."""
        ...

    def prune(self, upto_revision: int, limit: int) -> int:
        """Forgets what ended up to this revision: allocations with their tokens, and cancelled tokens.

        `limit` of each at most, the oldest first. Answers how many rows went.
        """
        ...

    def compact(self, upto_revision: int, limit: int) -> int:
        """Forgets the journal up to this revision; never the last event. `limit` events at most.

        Answers how many went.
        """
        ...

    def repair(self, event: Repaired, tokens: Sequence[TokenRecord]) -> None:
        """Carries out the corrections of an event, in their order, and writes it and the fleet's new revision.

        `event` is at `head.revision + 1`; `tokens` are the records of its TOKEN_RECORDED. Counters are set out of the
        rows, by the database; its guards stay in force. Raises InvariantBroken if a row is not as the plan saw it.
        """
        ...

    def skip_to(self, revision: int) -> None:
        """The fleet goes on from this revision, which is above its own. Its journal up to there is forgotten."""
        ...

    def set_clock_offset(self, offset_us: int) -> None:
        """Writes what is added to the database's clock for this fleet. The fleet exists. No event, no revision."""
        ...

    def raise_format(self, fleet_format: int) -> None:
        """Writes that the fleet's records are of this format from now on. The fleet exists or existed, and is below it.

        No event, no revision.
        """
        ...

    def set_halted(self, halted: bool) -> None:  # noqa: FBT001 - it sets what it is named after
        """Writes whether the fleet's writes are stopped. The fleet exists or existed. No event, no revision."""
        ...


class Evidence(Protocol):
    """All records of a fleet at one revision, for Verify. Used in one worker thread; close it in the end.

    Any read may raise StoreFailed.
    """

    revision: int
    compacted_revision: int
    """The journal has the events above this one."""
    exists: bool
    """The fleet is there and not deleted."""

    def instances(self) -> Iterator[tuple[str, int, int]]:
        """(instance, total_blocks, busy_blocks)."""
        ...

    def exclusive_instances(self) -> Iterator[tuple[str, int]]:
        """(instance, the allocation that holds it exclusively)."""
        ...

    def held_blocks(self) -> Iterator[tuple[str, int, int]]:
        """(instance, block, allocation), every row."""
        ...

    def live_allocations(self) -> Iterator[Allocation]:
        """Every HELD allocation. Raises InvariantBroken for a row that cannot be read, and goes on after it."""
        ...

    def tokens_of_live_allocations(self) -> Iterator[tuple[int, int | None]]:
        """(live allocation, the allocation that its token's record names; None if there is no record)."""
        ...

    def events(self) -> Iterator[Event]:
        """The journal, as far as it is kept, ascending. An unreadable row as in `live_allocations`."""
        ...

    def instances_after(self, instance: str, limit: int) -> list[tuple[str, int, int]]:
        """As `instances`, `limit` at most, those whose name sorts after this, by name."""
        ...

    def held_of_instances(self, first: str, last: str) -> Iterator[tuple[str, int, int]]:
        """As `held_blocks`, of the instances whose names are in this range, both ends included."""
        ...

    def tokens_after(self, allocation: int, limit: int) -> list[tuple[int, int | None]]:
        """As `tokens_of_live_allocations`, `limit` at most, those above this allocation, ascending."""
        ...

    def live_between(self, after: int, upto: int) -> Iterator[Allocation]:
        """As `live_allocations`, those above `after` and up to `upto`, ascending."""
        ...

    def held_of_allocations(self, after: int, upto: int) -> Iterator[tuple[str, int, int]]:
        """As `held_blocks`, of the allocations above `after` and up to `upto`."""
        ...

    def abandon(self) -> None:
        """From any thread: the read under way fails soon, and those to come at once. Does not wait for that."""
        ...

    def close(self) -> None:
        """Ends the snapshot."""
        ...


class Store(Protocol):
    """A transactional memory of fleets."""

    made_new: bool
    """`open` found no data, and has made an empty database."""
    write_failed: bool
    """The last transaction could not be carried out, as on a full disk; `try_write` finds out whether one can now.
    Always False where `probe` tells as much."""
    writer_shards: int
    """How many transactions, each on another fleet and in a thread of its own, may be under way at once."""

    def open(self) -> None:
        """Locks, migrates and connects. Raises StoreRefused."""
        ...

    async def close(self) -> None:
        """Closes every connection; readers first."""
        ...

    def transaction(self, fleet: str) -> AbstractContextManager[Transaction]:
        """A transaction that has locked the fleet. Writer threads only.

        Commits at the end of the block, durably, before it returns; rolls back if the block raises. Raises
        InvariantBroken, StoreConflict, CommitUnknown, StoreFailed.
        """
        ...

    def open_evidence(self, fleet: str) -> Evidence:
        """A snapshot for Verify, taken now.

        Called in the writer thread while no transaction is open: it shows exactly what the writer's memory shows.
        """
        ...

    def fleet_sizes(self) -> dict[str, int]:
        """All fleets that are not deleted, by name, and how large each is. For start-up.

        That is its instances and a fifth of its live allocations: to load an instance takes as long as to extend the
        leases of five.
        """
        ...

    def origin(self) -> Origin:
        """What the database says of itself. Raises StoreFailed."""
        ...

    def set_origin(self, origin: Origin) -> None:
        """Writes it, durably. Nobody else works on the database. Raises StoreFailed."""
        ...

    def all_revisions(self) -> dict[str, int]:
        """The revision of every fleet, deleted ones included. Raises StoreFailed."""
        ...

    def seen_revisions(self) -> Mapping[str, int]:
        """The highest revision of each fleet that is known from outside of the database."""
        ...

    def why_restored(self) -> str | None:
        """What shows that the database was restored and `blockyard admin restored` has not dealt with it.

        None: nothing does. Raises StoreFailed.
        """
        ...

    def reader(self) -> AbstractAsyncContextManager[Reader]:
        """A read-only snapshot; the number of readers at a time is bounded, the others wait."""
        ...

    async def listen(self, on_change: Callable[[str], None]) -> None:
        """Calls `on_change` with each fleet that another server says it has changed; runs until it is cancelled.

        `on_change("")` means any fleet: what was said meanwhile may have been missed. A store of one server waits for
        ever.
        """
        ...

    async def notify(self, fleets: Collection[str]) -> None:
        """Tells the other servers that these fleets have changed. Best effort: what is lost, others find by looking."""
        ...

    async def heartbeat(self, own: ServerRow) -> list[ServerRow]:
        """Gives this server's sign of life. Answers all servers that gave one lately, itself among them.

        A store of one server answers that one. Raises StoreFailed.
        """
        ...

    async def deregister(self, server: str) -> None:
        """This server stops: the others need not take it for alive until it has been silent. Best effort."""
        ...

    async def probe(self) -> None:
        """Asks the database for a sign of life. Raises StoreFailed."""
        ...

    def try_write(self) -> None:
        """Writes something that changes nothing, durably. In a writer thread, with no transaction open.

        Raises StoreFailed.
        """
        ...
