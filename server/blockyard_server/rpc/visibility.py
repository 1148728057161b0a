"""What a principal sees of other tenants' allocations: which blocks are busy and, with READ_HOLDERS, who holds them.

A token is shown to its own tenant alone: with it, an allocation is found and released. Without
an auth file everything is shown, at no cost.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final, Protocol

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.answers import (
    AllocationFilter,
    AllocationPage,
    AllocationView,
    DescribePage,
    EventFilter,
    FleetListPage,
    FleetRecord,
)
from blockyard_server.domain.errors import NotPermitted
from blockyard_server.domain.events import Event, Expired, Granted, Released, Renewed, TokenWasCancelled
from blockyard_server.domain.limits import MAX_PAGE_SIZE
from blockyard_server.domain.policy import Permission
from blockyard_server.domain.release import allocation_not_found
from blockyard_server.rpc.auth.principal import Principal

CallersOf = Callable[[str, Collection[int]], Awaitable[Mapping[int, str]]]
"""The callers of those of these allocations of a fleet that are remembered."""


class ReadFleets(Protocol):
    """Reads one page of all fleets."""

    def __call__(self, *, after: str, limit: int) -> Awaitable[FleetListPage]:
        """As `Service.list_fleets`."""
        ...


HIDDEN: Final = ""


class Visibility:
    """What one principal sees of one fleet."""

    def __init__(self, principal: Principal, fleet: str) -> None:
        self._principal = principal
        self._fleet = fleet
        self._sees_holders = Permission.READ_HOLDERS in principal.policy.on(fleet)

    @property
    def is_whole(self) -> bool:
        """It sees everything, tokens too."""
        return not self._principal.is_known

    def allocation(self, view: AllocationView) -> AllocationView:
        """One allocation. Raises AllocationNotFound, as if it did not exist, for another tenant's."""
        allocation = view.allocation
        if self._principal.owns(allocation.caller):
            return view
        if not self._sees_holders:
            raise allocation_not_found(self._fleet, allocation.allocation)
        return view._replace(allocation=_without_token(allocation))

    def changed(self, view: AllocationView) -> AllocationView:
        """An allocation that the principal has just changed, and so may see, but for another tenant's token."""
        if self._principal.owns(view.allocation.caller):
            return view
        return view._replace(allocation=_without_token(view.allocation))

    def narrowed(self, where: AllocationFilter) -> AllocationFilter:
        """The filter, for the own tenant's allocations alone unless all may be seen."""
        if self.is_whole or self._sees_holders:
            return where
        return replace(where, tenant=self._principal.tenant, callers=tuple(sorted(self._principal.callers)))

    def allocations(self, page: AllocationPage) -> AllocationPage:
        """A page of allocations that a narrowed filter has found."""
        return page if self.is_whole else replace(page, views=tuple([self.allocation(view) for view in page.views]))

    async def snapshot(self, page: DescribePage, callers_of: CallersOf) -> DescribePage:
        """A snapshot: others' blocks are held by nobody in particular."""
        held = {hold.allocation for instance in page.instances for hold in instance.holds}
        if self.is_whole or self._sees_holders or not held:
            return page
        own = await self._own(held, callers_of)
        instances = [
            replace(
                instance,
                holds=tuple(
                    [hold if hold.allocation in own else replace(hold, holder=HIDDEN) for hold in instance.holds]
                ),
            )
            for instance in page.instances
        ]
        return replace(page, instances=tuple(instances))

    def expect_searchable(self, where: EventFilter) -> None:
        """Raises NotPermitted for a search by a holder by who may not see holders: the answer would tell."""
        if where.holder is None or self.is_whole or self._sees_holders:
            return
        needed = Permission.READ_HOLDERS.name
        raise NotPermitted(
            f"{self._principal.id} may not search the events of fleet {self._fleet} by holder: that takes {needed}",
            permission=needed,
            fleet=f"fleets/{self._fleet}",
            principal=self._principal.id,
        )

    async def events(self, events: Sequence[Event], callers_of: CallersOf) -> tuple[Event, ...]:
        """Events, in their places: of others' it shows what happened to which blocks, and not to whose."""
        if self.is_whole or not events:
            return tuple(events)
        own: Collection[int] = ()
        if not self._sees_holders:
            own = await self._own({e.allocation for e in events if isinstance(e, _OF_ALLOCATION)}, callers_of)
        return tuple([self._event(event, own) for event in events])

    def _event(self, event: Event, own: Collection[int]) -> Event:
        if isinstance(event, Granted | TokenWasCancelled):
            if self._principal.owns(event.caller):
                return event
            event = replace(event, token=HIDDEN)
            if not self._sees_holders:
                event = replace(event, actor=HIDDEN, via=HIDDEN)
            if not self._sees_holders and isinstance(event, Granted):
                event = replace(event, holder=HIDDEN, annotations={})
        elif isinstance(event, _OF_ALLOCATION) and not self._sees_holders and event.allocation not in own:
            event = replace(event, holder=HIDDEN, actor=HIDDEN, via=HIDDEN)
        return event

    async def _own(self, allocations: Collection[int], callers_of: CallersOf) -> set[int]:
        """Those of the own tenant; one that is forgotten is nobody's."""
        if not allocations:
            return set()
        callers = await callers_of(self._fleet, allocations)
        return {allocation for allocation, caller in callers.items() if self._principal.owns(caller)}


_OF_ALLOCATION: Final = (Released, Renewed, Expired)


async def visible_fleets(principal: Principal, read: ReadFleets, after: str, limit: int) -> FleetListPage:
    """A page of the fleets that the principal may read.

    It ends at one of them: where another fleet ended it, its token would name that fleet.
    """
    if not principal.is_known:
        return await read(after=after, limit=limit)
    seen: list[FleetRecord] = []
    behind: str | None = after
    while behind is not None and len(seen) <= limit:
        page = await read(after=behind, limit=MAX_PAGE_SIZE)
        seen += [record for record in page.fleets if Permission.READ in principal.policy.on(record.fleet)]
        behind = page.next_after
    shown = tuple(seen[:limit])
    return FleetListPage(shown, shown[-1].fleet if len(seen) > limit else None)


def _without_token(allocation: Allocation) -> Allocation:
    return allocation._replace(token=HIDDEN)
