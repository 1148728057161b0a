"""What the edge calls: the whole of what Blockyard can do, over plain values.

`app.py` makes the one implementation, `engine.engine.Engine`; the edge knows only this protocol.
Every method may raise `domain.errors.Refused` or `engine.failures.EngineFailure`.
"""

from collections.abc import AsyncGenerator, Collection
from typing import Protocol, overload

from blockyard_server.domain.actor import Actor
from blockyard_server.domain.answers import (
    AllocationFilter,
    AllocationPage,
    AllocationView,
    Answer,
    Deleted,
    DescribePage,
    EventFilter,
    EventPage,
    FleetListPage,
    FleetRecord,
    Grant,
    InstancePage,
    InstanceRecord,
    ReleaseAnswer,
    Renewal,
    RepairReport,
    VerifyReport,
)
from blockyard_server.domain.journal import Watch, WatchPage
from blockyard_server.domain.requests import (
    Acquire,
    CreateFleet,
    CreateInstance,
    DeleteFleet,
    DeleteInstance,
    Release,
    Renew,
    Request,
    UpdateFleet,
    UpdateInstance,
)
from blockyard_server.engine.asker import ANYBODY, Asker


class Service(Protocol):
    """Everything that the edge may ask for."""

    @overload
    async def submit(self, request: Acquire, asker: Asker = ANYBODY) -> Grant: ...
    @overload
    async def submit(self, request: Release, asker: Asker = ANYBODY) -> ReleaseAnswer: ...
    @overload
    async def submit(self, request: Renew, asker: Asker = ANYBODY) -> Renewal: ...
    @overload
    async def submit(self, request: CreateFleet | UpdateFleet, asker: Asker = ANYBODY) -> FleetRecord: ...
    @overload
    async def submit(self, request: CreateInstance | UpdateInstance, asker: Asker = ANYBODY) -> InstanceRecord: ...
    @overload
    async def submit(self, request: DeleteFleet | DeleteInstance, asker: Asker = ANYBODY) -> Deleted: ...
    async def submit(self, request: Request, asker: Asker = ANYBODY) -> Answer:
        """Carries out one change, durably, before it answers. Cancelling the caller never undoes it.

        `asker` is whose share of the writers it takes.
        """
        ...

    async def submit_many(
        self, requests: list[Acquire | Release | Renew], asker: Asker = ANYBODY
    ) -> list[Answer | Exception]:
        """Carries out many changes, each by itself, in order within its fleet; refusals are returned in place."""
        ...

    async def describe(self, fleet: str, *, full: bool, after: int, limit: int) -> DescribePage:
        """One page of a snapshot: instances whose order is above `after`, `limit` at most."""
        ...

    async def get_allocation(self, fleet: str, allocation: int) -> AllocationView:
        """One allocation, held or ended."""
        ...

    async def callers_of(self, fleet: str, numbers: Collection[int]) -> dict[int, str]:
        """The callers of those of these allocations that are remembered, by the allocation's id."""
        ...

    async def list_allocations(self, fleet: str, where: AllocationFilter, *, after: int, limit: int) -> AllocationPage:
        """Allocations with ids above `after`, `limit` at most."""
        ...

    async def get_fleet(self, fleet: str) -> FleetRecord:
        """One fleet."""
        ...

    async def list_fleets(self, *, after: str, limit: int) -> FleetListPage:
        """Fleets whose name sorts after `after`, `limit` at most."""
        ...

    async def get_instance(self, fleet: str, instance: str) -> InstanceRecord:
        """One instance."""
        ...

    async def list_instances(self, fleet: str, *, after: int, limit: int) -> InstancePage:
        """Instances whose order is above `after`, `limit` at most."""
        ...

    async def list_events(self, fleet: str, where: EventFilter, *, after: int, limit: int) -> EventPage:
        """Events with revisions above `after`, `limit` at most."""
        ...

    def watch(self, asked: Watch) -> AsyncGenerator[WatchPage, None]:
        """The events to come, without a gap or a repeat; first a progress notification: where it begins. Close it."""
        ...

    def end_watches(self) -> None:
        """Every watch sends a last progress notification and ends with ShuttingDown; new ones are refused."""
        ...

    def end_audits(self) -> None:
        """Every Verify and Repair ends with ShuttingDown; new ones are refused."""
        ...

    def give_up(self) -> None:
        """Changes that wait and were not begun end with ShuttingDown; new ones are refused."""
        ...

    async def verify(self, fleet: str) -> VerifyReport:
        """Compares all records of a fleet at one revision, changes nothing, and halts the fleet if they differ."""
        ...

    async def repair(self, fleet: str, *, apply: bool, actor: Actor | None = None) -> RepairReport:
        """Says what would make a fleet's records agree and, with `apply`, does it; `actor` is who asks."""
        ...
