"""A fleet in memory: its own fields, its revision, its instances. It changes by events and in no other way.

Memory holds instances and which of their blocks are busy, not allocations: those are records (`records.py`) that a
transaction looks up.
"""

from dataclasses import replace

from blockyard_server.domain.answers import FleetRecord, InstanceRecord
from blockyard_server.domain.blocks import Placements, to_mask
from blockyard_server.domain.errors import FleetNotFound, InstanceNotFound
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
from blockyard_server.domain.index import Instance, InstanceIndex
from blockyard_server.domain.quotas import OpenCancellations
from blockyard_server.domain.requests import FleetFields


class Inconsistent(Exception):
    """An event does not fit the fleet in memory: one of the two is wrong, and nothing may be granted on it."""


class FleetState:
    """What a decision sees of a fleet.

    `next_expire_time_us` is a lower bound of the live leases' expire times (None: no lease): while it is in the
    future, no lease can have ended. `latest_time_us` is the time of the latest event: no later one may be before it.
    """

    __slots__ = (
        "_record",
        "cancellations",
        "fleet",
        "index",
        "latest_time_us",
        "next_expire_time_us",
        "next_order",
        "revision",
    )

    def __init__(self, fleet: str, revision: int = 0, next_order: int = 1, record: FleetRecord | None = None) -> None:
        self.fleet = fleet
        self.revision = revision
        self.next_order = next_order
        self._record = record
        self.index = InstanceIndex()
        self.next_expire_time_us: int | None = None
        self.latest_time_us = 0
        self.cancellations = OpenCancellations()

    @property
    def exists(self) -> bool:
        """Whether there is such a fleet."""
        return self._record is not None

    @property
    def record(self) -> FleetRecord | None:
        """The fleet as readers see it; None while there is no such fleet."""
        return None if self._record is None else replace(self._record, revision=self.revision)

    def existing(self) -> FleetRecord:
        """The fleet as readers see it. Raises FleetNotFound."""
        record = self.record
        if record is None:
            raise fleet_not_found(self.fleet)
        return record

    def existing_fields(self) -> FleetFields:
        """The fleet's own fields. Raises FleetNotFound."""
        if self._record is None:
            raise fleet_not_found(self.fleet)
        return self._record.fields

    def instance(self, name: str) -> Instance:
        """One instance. Raises FleetNotFound, InstanceNotFound."""
        self.existing_fields()
        instance = self.index.by_name.get(name)
        if instance is None:
            raise instance_not_found(self.fleet, name)
        return instance

    def instance_record(self, instance: Instance) -> InstanceRecord:
        """An instance as readers see it."""
        return InstanceRecord(
            fleet=self.fleet,
            instance=instance.name,
            order=instance.order,
            fields=instance.fields,
            busy_blocks=instance.busy.bit_count(),
            config_revision=instance.config_revision,
            create_time_us=instance.create_time_us,
            update_time_us=instance.update_time_us,
            exclusive_to=instance.exclusive_to,
        )

    def held_blocks(self) -> int:
        """How many blocks of the fleet are held. Looks at every instance."""
        return sum(instance.busy.bit_count() for instance in self.index.by_order.values())

    def restore(self, record: InstanceRecord, busy: int) -> None:
        """Puts in an instance as the store has it, when memory is made. Raises Inconsistent."""
        if busy >> record.fields.total_blocks:
            message = (
                f"fleet {self.fleet}: blocks are held beyond the {record.fields.total_blocks} of {record.instance}"
            )
            raise Inconsistent(message)
        instance = Instance(
            record.instance, record.order, record.fields, busy, record.config_revision, record.create_time_us
        )
        instance.update_time_us = record.update_time_us
        instance.exclusive_to = record.exclusive_to
        self.index.add(instance)

    def apply(self, event: Event) -> None:
        """Takes on a change. Raises Inconsistent if it does not follow from what is here, or cannot be followed."""
        if event.revision != self.revision + 1:
            message = f"fleet {self.fleet}: event {event.revision} does not follow revision {self.revision}"
            raise Inconsistent(message)
        match event:
            case Granted():
                self._take(event.placements)
                for name in event.exclusive:
                    self.index.set_exclusive(self._known(name), event.revision)
                self._note_lease(event.expire_time_us)
            case Released() | Expired():
                self._free(event.freed)
            case Renewed() | LeasesExtended():
                self._note_lease(event.expire_time_us)
            case TokenWasCancelled():
                self.cancellations.note(event.caller, event.time_us)
            case InstanceCreated() | InstanceUpdated() | InstanceDeleted():
                self._apply_to_instance(event)
            case FleetCreated() | FleetUpdated() | FleetDeleted():
                self._apply_to_fleet(event)
            case Repaired() | Restored():
                message = f"fleet {self.fleet}: memory cannot follow a repair or a restore, and has to be loaded again"
                raise Inconsistent(message)
        self.revision = event.revision
        self.latest_time_us = max(self.latest_time_us, event.time_us)

    def _note_lease(self, expire_time_us: int | None) -> None:
        if expire_time_us is not None and (
            self.next_expire_time_us is None or expire_time_us < self.next_expire_time_us
        ):
            self.next_expire_time_us = expire_time_us

    def _take(self, placements: Placements) -> None:
        for name, blocks in placements:
            instance = self._known(name)
            mask = to_mask(blocks)
            if mask & ~instance.idle:
                message = f"fleet {self.fleet}: blocks {blocks} of instance {name} are not all idle"
                raise Inconsistent(message)
            self._expect(instance.exclusive_to is None, f"instance {name} is held exclusively")
            self.index.set_busy(instance, instance.busy | mask)

    def _free(self, placements: Placements) -> None:
        for name, blocks in placements:
            instance = self._known(name)
            mask = to_mask(blocks)
            if mask & ~instance.busy:
                message = f"fleet {self.fleet}: blocks {blocks} of instance {name} are not all busy"
                raise Inconsistent(message)
            self.index.set_busy(instance, instance.busy & ~mask)

    def _known(self, name: str) -> Instance:
        instance = self.index.by_name.get(name)
        if instance is None:
            message = f"fleet {self.fleet}: there is no instance {name}"
            raise Inconsistent(message)
        return instance

    def _expect(self, condition: bool, problem: str) -> None:  # noqa: FBT001 - it is an assertion, called with one
        if not condition:
            message = f"fleet {self.fleet}: {problem}"
            raise Inconsistent(message)

    def _apply_to_instance(self, event: InstanceCreated | InstanceUpdated | InstanceDeleted) -> None:
        match event:
            case InstanceCreated():
                self._expect(event.instance not in self.index.by_name, f"instance {event.instance} is there already")
                self._expect(event.order >= self.next_order, f"order {event.order} was given before")
                self.index.add(Instance(event.instance, event.order, event.fields, 0, event.revision, event.time_us))
                self.next_order = event.order + 1
            case InstanceUpdated():
                instance = self._known(event.instance)
                cut_off = instance.busy >> event.fields.total_blocks
                self._expect(not cut_off, f"blocks of instance {event.instance} that go are held")
                self.index.update(instance, event.fields, event.revision, event.time_us)
            case InstanceDeleted():
                instance = self._known(event.instance)
                self._expect(not instance.busy, f"blocks of instance {event.instance} that goes are held")
                self.index.remove(instance)

    def _apply_to_fleet(self, event: FleetCreated | FleetUpdated | FleetDeleted) -> None:
        match event:
            case FleetCreated():
                self._record = FleetRecord(
                    fleet=self.fleet,
                    fields=event.fields,
                    revision=event.revision,
                    config_revision=event.revision,
                    create_time_us=event.time_us,
                    update_time_us=event.time_us,
                )
            case FleetUpdated():
                self._record = replace(
                    self.existing(), fields=event.fields, config_revision=event.revision, update_time_us=event.time_us
                )
            case FleetDeleted():
                self._expect(not self.held_blocks(), "blocks of it are held, and it goes")
                self._record = None
                self.index = InstanceIndex()
                self.next_expire_time_us = None


def fleet_not_found(fleet: str) -> FleetNotFound:
    """The refusal of a request that names a fleet that is not there."""
    return FleetNotFound(
        f"there is no fleet {fleet}; create it first, or list the fleets to see their names", fleet=f"fleets/{fleet}"
    )


def instance_not_found(fleet: str, instance: str) -> InstanceNotFound:
    """The refusal of a request that names an instance that is not there."""
    return InstanceNotFound(
        f"fleet {fleet} has no instance {instance}; list its instances to see their names",
        instance=f"fleets/{fleet}/instances/{instance}",
    )
