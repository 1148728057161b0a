"""Histories for a store: events with consecutive revisions, and the final states that go with them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.blocks import Placements, without
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
    TokenWasCancelled,
)
from blockyard_server.domain.lease import extended_us
from blockyard_server.domain.records import Records
from blockyard_server.domain.requests import FleetFields, InstanceFields, InstanceState
from blockyard_server.engine.store_protocol import Store

FINGERPRINT = b"1 fingerprint"


class Story:
    """One fleet's history. Each method makes one event; `commit` writes those since the last one in a transaction."""

    def __init__(self, store: Store, fleet: str = "gpu") -> None:
        self.store = store
        self.fleet = fleet
        self.revision = 0
        self.order = 0
        self.now_us = 1_000_000
        self.records = Records()
        self.pending: list[Event] = []
        self.events: list[Event] = []

    def begin(self, **instances: int) -> "Story":
        """A fleet with these instances and numbers of blocks, committed. `node_1` stands for node-1."""
        self.create_fleet()
        for name, total_blocks in instances.items():
            self.add(name.replace("_", "-"), total_blocks)
        self.commit()
        return self

    def create_fleet(self, fields: FleetFields | None = None) -> None:
        self._then(FleetCreated(self._next(), self.now_us, fields or FleetFields()))

    def update_fleet(self, fields: FleetFields) -> None:
        self._then(FleetUpdated(self._next(), self.now_us, fields))

    def delete_fleet(self) -> None:
        self._then(FleetDeleted(self._next(), self.now_us))

    def add(self, instance: str, total_blocks: int = 8, labels: Mapping[str, str] | None = None) -> None:
        self.register(instance, InstanceFields(total_blocks, labels=labels or {}))

    def register(self, instance: str, fields: InstanceFields) -> None:
        self.order += 1
        self._then(InstanceCreated(self._next(), self.now_us, instance, self.order, fields))

    def change(self, instance: str, total_blocks: int, state: InstanceState = InstanceState.ACTIVE) -> None:
        self._then(InstanceUpdated(self._next(), self.now_us, instance, InstanceFields(total_blocks, state=state)))

    def remove(self, instance: str) -> None:
        self._then(InstanceDeleted(self._next(), self.now_us, instance))

    def grant(
        self,
        *placements: tuple[str, tuple[int, ...]],
        holder: str = "job",
        token: str | None = None,
        ttl_us: int | None = None,
        annotations: Mapping[str, str] | None = None,
        exclusive: tuple[str, ...] = (),
    ) -> int:
        revision = self._next()
        self._then(
            Granted(
                revision,
                self.now_us,
                holder=holder,
                caller="default",
                token=token or f"token-{revision}",
                fingerprint=FINGERPRINT,
                placements=placements,
                ttl_us=ttl_us,
                expire_time_us=None if ttl_us is None else self.now_us + ttl_us,
                annotations=annotations or {},
                exclusive=exclusive,
            )
        )
        return revision

    def release(self, allocation: int, freed: Placements | None = None) -> None:
        held = self.records.allocations[allocation]
        freed = held.placements if freed is None else freed
        left = without(held.placements, freed)
        self._then(Released(self._next(), self.now_us, allocation, held.holder, freed, left))

    def expire(self, allocation: int) -> None:
        held = self.records.allocations[allocation]
        self._then(Expired(self._next(), self.now_us, allocation, held.holder, held.placements))

    def renew(self, allocation: int, ttl_us: int) -> None:
        held = self.records.allocations[allocation]
        expire_time_us = self.now_us + ttl_us
        self._then(Renewed(self._next(), self.now_us, allocation, held.holder, ttl_us, expire_time_us))

    def cancel(self, token: str) -> None:
        self._then(TokenWasCancelled(self._next(), self.now_us, "default", token))

    def extend_leases(self, until_us: int) -> None:
        now_us = self.now_us
        self._then(LeasesExtended(self._next(), now_us, until_us))
        for number, allocation in self.records.allocations.items():
            if allocation.is_held(0) and allocation.expire_time_us is not None and allocation.ttl_us is not None:
                end_us = extended_us(allocation.expire_time_us, allocation.ttl_us, now_us, until_us)
                self.records.allocations[number] = allocation._replace(expire_time_us=end_us)
                if number in self.records.touched:
                    self.records.touched[number] = self.records.allocations[number]

    def allocation(self, number: int) -> Allocation:
        """As it should be now."""
        return self.records.allocations[number]

    def commit(self) -> None:
        """Writes what is pending in one transaction."""
        with self.writing():
            pass

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Writes what is pending; the block runs inside of the transaction, before it is committed."""
        events, self.pending = self.pending, []
        touched, self.records.touched = self.records.touched, {}
        with self.store.transaction(self.fleet) as transaction:
            transaction.write(events, touched)
            yield

    def _next(self) -> int:
        self.revision += 1
        return self.revision

    def _then(self, event: Event) -> None:
        self.records.apply(event)
        self.pending.append(event)
        self.events.append(event)
        self.now_us += 1000
