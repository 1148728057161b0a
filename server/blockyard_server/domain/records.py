"""The records that the requests of one transaction need: allocations and token records.

They are looked up at its beginning, and each decision's event is applied at once, so that later requests of the same
transaction see what earlier ones did.
"""

from collections.abc import Mapping

from blockyard_server.domain.allocation import Allocation, AllocationState, TokenRecord
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
from blockyard_server.domain.lease import ended_us
from blockyard_server.domain.requests import TokenKey


class Records:
    """Allocations by id and token records by (caller, token): those that are known.

    `touched` are the final states of the allocations that events changed. `fleet_count` is how many fleets there are.
    """

    __slots__ = ("allocations", "fleet_count", "tokens", "touched")

    def __init__(
        self,
        tokens: Mapping[TokenKey, TokenRecord] | None = None,
        allocations: Mapping[int, Allocation] | None = None,
        fleet_count: int = 0,
    ) -> None:
        self.tokens = dict(tokens or {})
        self.allocations = dict(allocations or {})
        self.touched: dict[int, Allocation] = {}
        self.fleet_count = fleet_count

    def apply(self, event: Event) -> None:
        """Takes on a change."""
        match event:
            case Granted():
                self._put(event.allocation())
                self.tokens[event.caller, event.token] = event.token_record()
            case Released() | Renewed() | Expired():
                self._put(changed(self.allocations[event.allocation], event))
            case TokenWasCancelled():
                self.tokens[event.caller, event.token] = event.token_record()
            case InstanceCreated() | InstanceUpdated() | InstanceDeleted():
                pass  # memory has the instances
            case FleetCreated() | FleetUpdated() | FleetDeleted() | LeasesExtended() | Repaired() | Restored():
                pass  # none of them is decided beside a request that needs records

    def _put(self, allocation: Allocation) -> None:
        self.allocations[allocation.allocation] = allocation
        self.touched[allocation.allocation] = allocation


def changed(allocation: Allocation, event: Released | Renewed | Expired) -> Allocation:
    """The allocation after an event of its life."""
    match event:
        case Released() if event.left:
            return allocation.keeping(event.left, event.revision)
        case Released():
            return allocation.ended(AllocationState.RELEASED, event.revision, event.time_us)
        case Expired():
            end_us = ended_us(allocation.expire_time_us, event.time_us)
            return allocation.ended(AllocationState.EXPIRED, event.revision, end_us)
        case Renewed():
            return allocation.renewed(event.ttl_us, event.expire_time_us, event.revision)
