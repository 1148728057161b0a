"""Which rows a batch of events changes: the net effect, pure.

A block may be freed and granted again in one batch, and an allocation granted and ended: only what differs between
the rows before the batch and the rows after it is written. The order in which the changes are carried out is the
transaction's (`transaction.SqlTransaction.write`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from blockyard_server.domain.allocation import Allocation, AllocationState
from blockyard_server.domain.blocks import Placements, to_mask, to_runs
from blockyard_server.domain.events import (
    Event,
    Expired,
    FleetCreated,
    FleetDeleted,
    FleetEvent,
    FleetUpdated,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceEvent,
    InstanceUpdated,
    LeasesExtended,
    Released,
    Renewed,
    Repaired,
    Restored,
    TokenWasCancelled,
)
from blockyard_server.domain.requests import InstanceFields
from blockyard_server.engine.store_protocol import InvariantBroken
from blockyard_server.store.codec import (
    Row,
    encode_allocation,
    encode_instance_fields,
    encode_journal,
    encode_remaining,
)

Held = dict[str, dict[int, int]]
"""By instance: which set of its blocks (bit i is block i) which allocation holds."""


class Run(NamedTuple):
    """Neighbouring blocks of one instance that one allocation holds, from the first to the last."""

    fleet: str
    instance: str
    allocation: int
    first: int
    last: int

    @property
    def blocks(self) -> int:
        """How many there are: each is a row."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class NewInstance:
    """An instance that is there after the batch and was not before."""

    order: int
    fields: InstanceFields
    config_revision: int
    create_time_us: int
    update_time_us: int


@dataclass(slots=True)
class RowChanges:
    """What a batch of events changes in one fleet. Rows are tuples in the order of the statements' parameters."""

    fleet: str
    revision: int
    """The fleet's revision after the batch."""
    fleet_events: list[FleetEvent] = field(default_factory=list)
    """Few, and each is a statement of its own: in order."""
    next_order: int = 0
    """At least this; 0 if no instance was registered."""
    all_instances_deleted: bool = False
    """All that were there before the batch."""
    instances_deleted: list[str] = field(default_factory=list)
    instances_updated: dict[str, InstanceUpdated] = field(default_factory=dict)
    instances_created: dict[str, NewInstance] = field(default_factory=dict)
    leases_extended: list[LeasesExtended] = field(default_factory=list)
    """Carried out before the final states of single allocations are written: these have the extension in them."""
    freed: Held = field(default_factory=dict)
    """What is held before the batch, and not after it."""
    taken: Held = field(default_factory=dict)
    """What is held after the batch, and was not before."""
    granted: dict[int, None] = field(default_factory=dict)
    """Allocations that begin in the batch, in order."""
    changed: dict[int, None] = field(default_factory=dict)
    """Allocations of before that the batch changes or ends."""
    tokens: list[Row] = field(default_factory=list)
    journal: list[Row] = field(default_factory=list)

    def held_deleted(self) -> list[Run]:
        """The rows that go."""
        return _runs(self.fleet, self.freed)

    def held_inserted(self) -> list[Run]:
        """The rows that come."""
        return _runs(self.fleet, self.taken)

    def instances_inserted(self) -> list[Row]:
        """New rows, in codec.INSTANCE_COLUMNS."""
        return [
            (
                self.fleet,
                name,
                new.order,
                *encode_instance_fields(new.fields),
                0,
                new.config_revision,
                new.create_time_us,
                new.update_time_us,
                None,
            )
            for name, new in self.instances_created.items()
        ]


def net_changes(fleet: str, revision: int, events: Sequence[Event]) -> RowChanges:
    """The changes that `events`, the ones that follow `revision`, make together.

    Raises InvariantBroken if the events contradict each other: a gap in the revisions, a block taken or freed twice.
    """
    changes = RowChanges(fleet, revision)
    for event in events:
        if event.revision != changes.revision + 1:
            raise InvariantBroken(f"fleet {fleet}: event {event.revision} does not follow revision {changes.revision}")
        changes.revision = event.revision
        _add(changes, event)
    return changes


def _add(changes: RowChanges, event: Event) -> None:
    match event:
        case Granted():
            allocation = event.revision
            changes.granted[allocation] = None
            _take(changes, event.placements, allocation)
            changes.tokens.append((changes.fleet, *event.token_record(), event.time_us))
        case Released() | Expired():
            _touch(changes, event.allocation)
            _free(changes, event.freed, event.allocation)
        case Renewed():
            _touch(changes, event.allocation)
        case TokenWasCancelled():
            changes.tokens.append((changes.fleet, *event.token_record(), event.time_us))
        case LeasesExtended():
            changes.leases_extended.append(event)
        case InstanceCreated() | InstanceUpdated() | InstanceDeleted():
            _change_instance(changes, event)
        case FleetCreated() | FleetUpdated() | FleetDeleted():
            _change_fleet(changes, event)
        case Restored():
            pass
        case Repaired():
            pass  # its rows are `repair.py`'s
    changes.journal.append((changes.fleet, *encode_journal(event)))


def _touch(changes: RowChanges, allocation: int) -> None:
    if allocation not in changes.granted:
        changes.changed[allocation] = None


def _take(changes: RowChanges, placements: Placements, allocation: int) -> None:
    for instance, blocks in placements:
        mask, taken = to_mask(blocks), changes.taken.setdefault(instance, {})
        if any(mask & others for others in taken.values()):
            raise InvariantBroken(f"fleet {changes.fleet}: blocks {blocks} of {instance} are granted twice")
        taken[allocation] = taken.get(allocation, 0) | mask


def _free(changes: RowChanges, placements: Placements, allocation: int) -> None:
    for instance, blocks in placements:
        mask = to_mask(blocks)
        taken, freed = changes.taken.setdefault(instance, {}), changes.freed.setdefault(instance, {})
        own = mask & taken.get(allocation, 0)
        if own:
            taken[allocation] ^= own
        others = mask ^ own
        if any(others & held for held in (*taken.values(), *freed.values())):
            raise InvariantBroken(f"fleet {changes.fleet}: blocks {blocks} of {instance} are freed by a stranger")
        if others:
            freed[allocation] = freed.get(allocation, 0) | others


def _runs(fleet: str, held: Held) -> list[Run]:
    return [
        Run(fleet, instance, allocation, first, last)
        for instance, sets in held.items()
        for allocation, blocks in sets.items()
        for first, last in to_runs(blocks)
    ]


def _change_instance(changes: RowChanges, event: InstanceEvent) -> None:
    name, created = event.instance, changes.instances_created
    match event:
        case InstanceCreated():
            if name in created:
                raise InvariantBroken(f"fleet {changes.fleet}: instance {name} is registered twice")
            created[name] = NewInstance(event.order, event.fields, event.revision, event.time_us, event.time_us)
            changes.next_order = max(changes.next_order, event.order + 1)
        case InstanceUpdated() if name in created:
            old = created[name]
            created[name] = NewInstance(old.order, event.fields, event.revision, old.create_time_us, event.time_us)
        case InstanceUpdated():
            changes.instances_updated[name] = event
        case InstanceDeleted() if name in created:
            del created[name]
        case InstanceDeleted():
            changes.instances_updated.pop(name, None)
            changes.instances_deleted.append(name)


def _change_fleet(changes: RowChanges, event: FleetEvent) -> None:
    changes.fleet_events.append(event)
    if isinstance(event, FleetDeleted):
        changes.all_instances_deleted = True
        changes.instances_deleted.clear()
        changes.instances_updated.clear()
        changes.instances_created.clear()


def allocations_inserted(changes: RowChanges, final: Mapping[int, Allocation]) -> list[Row]:
    """New rows, (fleet, *codec.ALLOCATION_COLUMNS), in their final state."""
    return [(changes.fleet, *encode_allocation(_final(final, allocation))) for allocation in changes.granted]


def exclusive_holds(changes: RowChanges, final: Mapping[int, Allocation]) -> list[Row]:
    """(allocation, fleet, instance, its blocks there) of what new allocations hold exclusively after the batch."""
    return [
        (number, changes.fleet, instance, len(blocks))
        for number in changes.granted
        if (allocation := _final(final, number)).exclusive and allocation.state is AllocationState.HELD
        for instance, blocks in allocation.placements
        if instance in allocation.exclusive
    ]


def allocations_changed(changes: RowChanges, final: Mapping[int, Allocation]) -> tuple[list[Row], list[Row]]:
    """Changes of rows that stay live, and of rows that end.

    The former are (ttl_us, expire_time_us, remaining, revision, fleet, allocation), the latter begin with
    (state, end_time_us) and go on with the same.
    """
    kept: list[Row] = []
    ended: list[Row] = []
    for number in changes.changed:
        a = _final(final, number)
        row = (a.ttl_us, a.expire_time_us, encode_remaining(a), a.revision, changes.fleet, number)
        if a.state is AllocationState.HELD:
            kept.append(row)
        else:
            ended.append((a.state.value, a.end_time_us, *row))
    return kept, ended


def _final(final: Mapping[int, Allocation], allocation: int) -> Allocation:
    if allocation not in final:
        raise InvariantBroken(f"the final state of allocation {allocation} is missing")
    return final[allocation]
