"""The rows of one fleet in memory, with the database's constraints. A change that these forbid is refused.

What an event implies is written with dictionaries and loops, and nothing of the server's own rules but the bound of an
extended lease. `SimulatedRows` are these rows under a lock, with a way back.
"""

from copy import copy
from dataclasses import replace
from typing import Any, NoReturn, Self

from blockyard_server.domain.allocation import Allocation, AllocationState, TokenRecord
from blockyard_server.domain.answers import FleetRecord, InstanceRecord
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.corrections import CorrectionKind
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
from blockyard_server.domain.lease import extended_us
from blockyard_server.domain.requests import TokenKey
from blockyard_server.domain.retention import FleetAge
from blockyard_server.engine.store_protocol import InvariantBroken

Block = tuple[str, int]
"""(instance, number)."""

_COUNTED = (CorrectionKind.BLOCK_FREED, CorrectionKind.BLOCK_HELD, CorrectionKind.COUNTER_SET)


class Rows:
    """One fleet."""

    def __init__(self, fleet: str) -> None:
        self.fleet = fleet
        self.revision = 0
        self.next_order = 1
        self.record: FleetRecord | None = None
        """Its own fields, and its format. `shown` has the rest."""
        self.compacted_revision = 0
        self.halted = False
        self.format = 1
        self.clock_offset_us = 0
        self.instances: dict[str, InstanceRecord] = {}
        """Their own fields. `instance` has the counter."""
        self.busy_blocks: dict[str, int] = {}
        """The counter of each instance, which moves with its rows, by triggers of the database."""
        self.held: dict[Block, int] = {}
        self.allocations: dict[int, Allocation] = {}
        self.tokens: dict[TokenKey, TokenRecord] = {}
        self.journal: list[Event] = []
        """What is at `compacted_revision` or below is shown to nobody."""
        self.age = FleetAge()
        self.first_revision = 0
        """Where the fleet begins."""

    @property
    def exists(self) -> bool:
        """Whether there ever was such a fleet."""
        return self.revision > self.first_revision

    def copy(self) -> Self:
        """The rows as they are now."""
        other = copy(self)
        other.instances, other.busy_blocks, other.held = dict(self.instances), dict(self.busy_blocks), dict(self.held)
        other.allocations, other.tokens = dict(self.allocations), dict(self.tokens)
        other.journal = list(self.journal)
        return other

    def refuse(self, why: str) -> NoReturn:
        """A constraint forbids a change."""
        raise InvariantBroken(why)

    def put(self, table: dict[Any, Any], key: Any, row: Any) -> None:
        """Inserts or changes a row."""
        table[key] = row

    def take(self, table: dict[Any, Any], key: Any) -> Any:
        """Deletes a row and answers it; None if it is not there."""
        return table.pop(key, None)

    def shown(self) -> FleetRecord | None:
        """The fleet as readers see it; None while there is no such fleet."""
        if self.record is None:
            return None
        return replace(self.record, revision=self.revision, halted=self.halted)

    def instance(self, name: str) -> InstanceRecord:
        """An instance as readers see it."""
        record, busy_blocks = self.instances[name], self.busy_blocks[name]
        return replace(record, busy_blocks=busy_blocks) if busy_blocks else record

    def ordered_instances(self) -> list[InstanceRecord]:
        """All of them, in the order of registration."""
        return sorted(map(self.instance, self.instances), key=lambda record: record.order)

    def busy_mask(self, instance: str) -> int:
        """The set of an instance's held blocks."""
        return sum(1 << block for name, block in self.held if name == instance)

    def busy_masks(self) -> dict[str, int]:
        """The same for every instance, also for one that is not there and has held blocks."""
        masks = dict.fromkeys(self.instances, 0)
        for instance, block in self.held:
            masks[instance] = masks.get(instance, 0) | 1 << block
        return masks

    def live(self) -> list[Allocation]:
        """The allocations that are held."""
        return [a for a in self.allocations.values() if a.state is AllocationState.HELD]

    def due(self, now_us: int) -> list[Allocation]:
        """Those whose lease has ended, the longest overdue first."""
        due = [a for a in self.live() if a.expire_time_us is not None and a.expire_time_us <= now_us]
        return sorted(due, key=lambda a: (a.expire_time_us or 0, a.allocation))

    def kept(self) -> list[Event]:
        """The journal as others see it."""
        first = self.journal[0].revision if self.journal else 1
        return self.journal[self.compacted_revision + 1 - first :]

    def grow(self, age: FleetAge) -> None:
        """The fleet's age is written down."""
        if age.age_us <= self.age.age_us:
            self.refuse(f"an age of {age.age_us} follows {self.age.age_us}")
        self.age = age

    def skip_to(self, revision: int) -> None:
        """The fleet goes on from this revision, without its journal."""
        if revision <= self.revision:
            self.refuse(f"revision {revision} is not above {self.revision}")
        self.revision = self.compacted_revision = revision
        self.journal = []

    def raise_format(self, fleet_format: int) -> None:
        """The fleet's records are of this format from now on."""
        if fleet_format <= self.format:
            self.refuse(f"the format of fleet {self.fleet} is {self.format}, which is not below it: {fleet_format}")
        self.format = fleet_format
        self.record = None if self.record is None else replace(self.record, format=fleet_format)

    def write(self, event: Event) -> None:
        """Changes what an event implies, apart from the allocations' own rows."""
        if event.revision != self.revision + 1:
            self.refuse(f"event {event.revision} does not follow revision {self.revision}")
        self.revision = event.revision
        self.journal.append(event)
        match event:
            case Granted():
                self._remember(event.caller, event.token, event)
                self._hold(event)
            case Released() | Expired():
                self._free(event.freed, event.allocation)
            case TokenWasCancelled():
                self._remember(event.caller, event.token, event)
            case LeasesExtended():
                self._extend(event)
            case Renewed() | Restored():
                pass
            case InstanceCreated() | InstanceUpdated() | InstanceDeleted():
                self._write_instance(event)
            case FleetCreated() | FleetUpdated() | FleetDeleted():
                self._write_fleet(event)
            case Repaired():
                self._repair(event)

    def check_live(self, allocation: int) -> None:
        """An allocation is to be changed."""
        row = self.allocations.get(allocation)
        if row is None or row.state is not AllocationState.HELD:
            self.refuse(f"allocation {allocation} is not live")

    def write_allocation(self, allocation: Allocation) -> None:
        """The state of an allocation after all events of a transaction."""
        number, ended = allocation.allocation, allocation.state is not AllocationState.HELD
        if ended is (allocation.end_time_us is None) or (allocation.ttl_us is None) is not (
            allocation.expire_time_us is None
        ):
            self.refuse(f"{allocation} contradicts itself")
        if ended and number in self.held.values():
            self.refuse(f"allocation {number} has ended, and has blocks")
        self.put(self.allocations, number, allocation)

    def _remember(self, caller: str, token: str, event: Granted | TokenWasCancelled) -> None:
        if (caller, token) in self.tokens:
            self.refuse(f"token {token} is written down twice")
        if isinstance(event, Granted):
            record = TokenRecord(caller, token, event.revision, event.fingerprint, event.revision)
        else:
            record = TokenRecord(caller, token, None, b"", event.revision)
        self.put(self.tokens, (caller, token), record)

    def _hold(self, event: Granted) -> None:
        for instance, blocks in event.placements:
            record = self.instances.get(instance)
            if record is None:
                self.refuse(f"there is no instance {instance}")
            if record.exclusive_to is not None:
                self.refuse(f"{instance} is held exclusively, and blocks {blocks} of it are granted")
            for block in blocks:
                if (instance, block) in self.held:
                    self.refuse(f"block {block} of {instance} would have two holders")
                if block >= record.fields.total_blocks:
                    self.refuse(f"there is no block {block} of {instance}")
                self.put(self.held, (instance, block), event.revision)
            if instance in event.exclusive:
                if len(blocks) != record.fields.total_blocks:
                    self.refuse(f"{instance} is granted exclusively, and not all of it")
                self.put(self.instances, instance, replace(record, exclusive_to=event.revision))
            self._count(record, self.busy_blocks[instance] + len(blocks))

    def _free(self, placements: Placements, allocation: int) -> None:
        for instance, blocks in placements:
            for block in blocks:
                if self.take(self.held, (instance, block)) != allocation:
                    self.refuse(f"block {block} of {instance} is not held by allocation {allocation}")
            record = self.instances[instance]
            self._count(record, self.busy_blocks[instance] - len(blocks))
            if not self.busy_blocks[instance] and record.exclusive_to is not None:
                self.put(self.instances, instance, replace(record, exclusive_to=None))

    def _count(self, record: InstanceRecord, busy_blocks: int) -> None:
        if not 0 <= busy_blocks <= record.fields.total_blocks:
            self.refuse(f"{record.instance} would have {busy_blocks} busy blocks")
        self.put(self.busy_blocks, record.instance, busy_blocks)

    def _extend(self, event: LeasesExtended) -> None:
        for allocation in self.due(event.expire_time_us):
            end_us, ttl_us = allocation.expire_time_us or 0, allocation.ttl_us or 0
            end_us = extended_us(end_us, ttl_us, event.time_us, event.expire_time_us)
            self.put(self.allocations, allocation.allocation, allocation._replace(expire_time_us=end_us))

    def _write_fleet(self, event: FleetEvent) -> None:
        match event:
            case FleetCreated():
                if self.record is not None:
                    self.refuse(f"fleet {self.fleet} is there, and is created")
                times = (event.time_us, event.time_us)
                self.record = FleetRecord(self.fleet, event.fields, 0, event.revision, *times, format=self.format)
            case FleetUpdated():
                if self.record is None:
                    self.refuse(f"fleet {self.fleet} is not there, and is updated")
                self.record = replace(
                    self.record, fields=event.fields, config_revision=event.revision, update_time_us=event.time_us
                )
            case FleetDeleted():
                if self.held:
                    self.refuse(f"fleet {self.fleet} goes, and {self.held} are held")
                self.record = None
                for instance in list(self.instances):
                    self.take(self.instances, instance)
                    self.take(self.busy_blocks, instance)

    def _write_instance(self, event: InstanceEvent) -> None:
        match event:
            case InstanceCreated():
                if event.instance in self.instances or event.order < self.next_order:
                    self.refuse(f"instance {event.instance} is registered twice, or in another's place")
                times = {"create_time_us": event.time_us, "update_time_us": event.time_us}
                record = InstanceRecord(
                    self.fleet, event.instance, event.order, event.fields, 0, event.revision, **times
                )
                self.put(self.instances, event.instance, record)
                self.put(self.busy_blocks, event.instance, 0)
                self.next_order = event.order + 1
            case InstanceUpdated():
                if self.busy_mask(event.instance) >> event.fields.total_blocks:
                    self.refuse(f"held blocks of {event.instance} are cut off")
                if event.instance not in self.instances:
                    self.refuse(f"instance {event.instance} is not there, and is updated")
                record = replace(
                    self.instances[event.instance],
                    fields=event.fields,
                    config_revision=event.revision,
                    update_time_us=event.time_us,
                )
                self.put(self.instances, event.instance, record)
            case InstanceDeleted():
                if self.busy_mask(event.instance) or self.take(self.instances, event.instance) is None:
                    self.refuse(f"instance {event.instance} goes, and is held or not there")
                self.take(self.busy_blocks, event.instance)

    def _repair(self, event: Repaired) -> None:
        for each in event.corrections:
            key = (each.instance or "", each.block or 0)
            if each.kind is CorrectionKind.BLOCK_FREED and self.take(self.held, key) != each.allocation:
                self.refuse(f"block {key} is not held by {each.allocation}")
            if each.kind is CorrectionKind.BLOCK_HELD:
                if key in self.held:
                    self.refuse(f"block {key} would have two holders")
                self.put(self.held, key, each.allocation)
        for instance in {each.instance for each in event.corrections if each.kind in _COUNTED}:
            record = self.instances[instance or ""]
            holders = {self.held[key] for key in self.held if key[0] == instance}
            owners = [a for a in holders if a in self.allocations and instance in self.allocations[a].exclusive]
            self._count(record, self.busy_mask(record.instance).bit_count())
            self.put(self.instances, record.instance, replace(record, exclusive_to=min(owners, default=None)))
