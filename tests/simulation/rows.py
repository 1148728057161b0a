"""The rows of one fleet in the simulated database, changed in place by whoever has locked them, and taken back."""

from dataclasses import replace
from typing import Any

from blockyard_server.domain.allocation import Allocation, AllocationState, TokenRecord
from blockyard_server.domain.answers import FleetRecord, InstanceRecord
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.events import (
    Event,
    Expired,
    FleetCreated,
    FleetUpdated,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceUpdated,
    LeasesExtended,
    Released,
    Renewed,
    TokenWasCancelled,
)
from blockyard_server.domain.lease import extended_us
from blockyard_server.domain.requests import TokenKey
from blockyard_server.domain.retention import FleetAge, Retention, forgettable
from tests.simulation.kernel import Violation

Block = tuple[str, int]
"""(instance, number)."""


class _Absent:
    """Where there was nothing."""


_ABSENT = _Absent()


class Rows:
    """One fleet. A change that the real database would refuse is a Violation: nobody here has broken a row before."""

    def __init__(self, fleet: str) -> None:
        self.fleet = fleet
        self.revision = 0
        self.next_order = 1
        self.record: FleetRecord | None = None
        self.compacted_revision = 0
        self.halted = False
        self.clock_offset_us = 0
        self.instances: dict[str, InstanceRecord] = {}
        self.held: dict[Block, int] = {}
        self.allocations: dict[int, Allocation] = {}
        self.tokens: dict[TokenKey, TokenRecord] = {}
        self.journal: list[Event] = []
        """All of it: what is at `compacted_revision` or below is shown to nobody."""
        self.age = FleetAge()
        self.committed_us: list[int] = []
        """The true time at which each revision was."""
        self.locked = False
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self._before: tuple[Any, ...] = ()

    @property
    def exists(self) -> bool:
        """Whether there ever was such a fleet."""
        return self.revision > 0

    def begin(self) -> None:
        """Locks the fleet."""
        assert not self.locked, "two transactions at once on one fleet"
        self.locked = True
        self._undo.clear()
        self._before = (
            self.revision, self.next_order, self.record, self.compacted_revision, self.halted, self.clock_offset_us,
            self.age,
        )  # fmt: skip

    def commit(self, true_us: int) -> None:
        """Makes what was changed stay."""
        self.committed_us += [true_us] * (len(self.journal) - len(self.committed_us))
        self.locked = False

    def roll_back(self) -> None:
        """Takes back what was changed since `begin`."""
        (
            self.revision, self.next_order, self.record, self.compacted_revision, self.halted, self.clock_offset_us,
            self.age,
        ) = self._before  # fmt: skip
        del self.journal[self.revision :]
        for table, key, was in reversed(self._undo):
            if was is _ABSENT:
                del table[key]
            else:
                table[key] = was
        self.locked = False

    def put(self, table: dict[Any, Any], key: Any, row: Any) -> None:
        """Inserts or changes a row."""
        self._undo.append((table, key, table.get(key, _ABSENT)))
        table[key] = row

    def take(self, table: dict[Any, Any], key: Any) -> Any:
        """Deletes a row and answers it; None if it is not there."""
        row = table.get(key)
        if row is not None:
            self._undo.append((table, key, row))
            del table[key]
        return row

    def busy_mask(self, instance: str) -> int:
        """The set of an instance's held blocks."""
        return sum(1 << block for name, block in self.held if name == instance)

    def live(self) -> list[Allocation]:
        """The allocations that are held."""
        return [a for a in self.allocations.values() if a.state is AllocationState.HELD]

    def due(self, now_us: int) -> list[Allocation]:
        """Those whose lease has ended, the longest overdue first."""
        due = [a for a in self.live() if a.expire_time_us is not None and a.expire_time_us <= now_us]
        return sorted(due, key=lambda a: (a.expire_time_us or 0, a.allocation))

    def grow(self, age: FleetAge, retention: Retention, true_us: int) -> None:
        """The fleet's age is written down. What it makes old enough to go must truly be so old."""
        if age.age_us <= self.age.age_us:
            raise Violation(f"an age of {age.age_us} follows {self.age.age_us}")
        self.age = age
        old = forgettable(age, retention)
        for upto, kept_us in ((old.ended, retention.ended_us), (old.events, retention.journal_us)):
            if upto and true_us - self.committed_us[upto - 1] < kept_us:
                past_us = true_us - self.committed_us[upto - 1]
                raise Violation(f"revision {upto} may be forgotten after {past_us} us, and is kept for {kept_us} us")

    def kept(self) -> list[Event]:
        """The journal as others see it."""
        return self.journal[self.compacted_revision :]

    def write(self, event: Event) -> None:
        """Changes what an event implies, apart from the allocations' own rows."""
        if event.revision != self.revision + 1:
            raise Violation(f"revision {event.revision} after {self.revision}")
        if self.journal and event.time_us < self.journal[-1].time_us:
            raise Violation(f"{event} is before the event that it follows, at {self.journal[-1].time_us}")
        self.revision = event.revision
        self.journal.append(event)
        match event:
            case Granted():
                self._remember(event.caller, event.token, event)
                self._hold(event.placements, event.revision)
                self._hold_exclusively(event)
            case Released() | Expired():
                self._free(event.freed, event.allocation)
            case TokenWasCancelled():
                self._remember(event.caller, event.token, event)
            case LeasesExtended():
                self._extend(event)
            case Renewed():
                pass
            case _:
                self._write_shape(event)

    def _remember(self, caller: str, token: str, event: Granted | TokenWasCancelled) -> None:
        if (caller, token) in self.tokens:
            raise Violation(f"token {token} is written down twice")
        if isinstance(event, Granted):
            record = TokenRecord(caller, token, event.revision, event.fingerprint, event.revision)
        else:
            record = TokenRecord(caller, token, None, b"", event.revision)
        self.put(self.tokens, (caller, token), record)

    def _hold(self, placements: Placements, allocation: int) -> None:
        for instance, blocks in placements:
            for block in blocks:
                if (instance, block) in self.held:
                    raise Violation(f"block {block} of {instance} would have two holders")
                if instance in self.instances and self.instances[instance].exclusive_to is not None:
                    raise Violation(f"{instance} is held exclusively, and block {block} of it is granted")
                if instance not in self.instances or block >= self.instances[instance].fields.total_blocks:
                    raise Violation(f"there is no block {block} of {instance}")
                self.put(self.held, (instance, block), allocation)

    def _hold_exclusively(self, event: Granted) -> None:
        for instance in event.exclusive:
            if self.busy_mask(instance).bit_count() != self.instances[instance].fields.total_blocks:
                raise Violation(f"{instance} is granted exclusively, and not all of it")
            self.put(self.instances, instance, replace(self.instances[instance], exclusive_to=event.revision))

    def _free(self, placements: Placements, allocation: int) -> None:
        for instance, blocks in placements:
            for block in blocks:
                if self.take(self.held, (instance, block)) != allocation:
                    raise Violation(f"block {block} of {instance} is freed, and allocation {allocation} has it not")
            if not self.busy_mask(instance) and self.instances[instance].exclusive_to is not None:
                self.put(self.instances, instance, replace(self.instances[instance], exclusive_to=None))

    def _extend(self, event: LeasesExtended) -> None:
        for allocation in self.due(event.expire_time_us):
            end_us, ttl_us = allocation.expire_time_us or 0, allocation.ttl_us or 0
            end_us = extended_us(end_us, ttl_us, event.time_us, event.expire_time_us)
            self.put(self.allocations, allocation.allocation, allocation._replace(expire_time_us=end_us))

    def _write_shape(self, event: Event) -> None:
        match event:
            case FleetCreated():
                self.record = FleetRecord(
                    fleet=self.fleet,
                    fields=event.fields,
                    revision=0,
                    config_revision=event.revision,
                    create_time_us=event.time_us,
                    update_time_us=event.time_us,
                )
            case FleetUpdated():
                assert self.record is not None
                self.record = replace(
                    self.record, fields=event.fields, config_revision=event.revision, update_time_us=event.time_us
                )
            case InstanceCreated():
                if event.instance in self.instances or event.order < self.next_order:
                    raise Violation(f"instance {event.instance} is registered twice, or in another's place")
                times = {"create_time_us": event.time_us, "update_time_us": event.time_us}
                record = InstanceRecord(
                    self.fleet, event.instance, event.order, event.fields, 0, event.revision, **times
                )
                self.put(self.instances, event.instance, record)
                self.next_order = event.order + 1
            case InstanceUpdated():
                if self.busy_mask(event.instance) >> event.fields.total_blocks:
                    raise Violation(f"held blocks of {event.instance} are cut off")
                record = replace(
                    self.instances[event.instance],
                    fields=event.fields,
                    config_revision=event.revision,
                    update_time_us=event.time_us,
                )
                self.put(self.instances, event.instance, record)
            case InstanceDeleted():
                if self.busy_mask(event.instance) or self.take(self.instances, event.instance) is None:
                    raise Violation(f"instance {event.instance} goes, and is held or not there")
            case _:
                raise Violation(f"nobody asked for {event}")
