"""The enums of the protos and the words of the domain: each pair stands here once, for both directions."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from blockyard.v1 import resources_pb2
from blockyard_server.domain.allocation import AllocationState
from blockyard_server.domain.requests import InstanceState, PlacementStrategy

INSTANCE_STATES: Final = MappingProxyType(
    {
        resources_pb2.Instance.ACTIVE: InstanceState.ACTIVE,
        resources_pb2.Instance.CORDONED: InstanceState.CORDONED,
        resources_pb2.Instance.OFFLINE: InstanceState.OFFLINE,
    }
)
ENCODED_INSTANCE_STATES: Final = MappingProxyType({word: number for number, word in INSTANCE_STATES.items()})

ALLOCATION_STATES: Final = MappingProxyType(
    {
        resources_pb2.Allocation.HELD: AllocationState.HELD,
        resources_pb2.Allocation.RELEASED: AllocationState.RELEASED,
        resources_pb2.Allocation.EXPIRED: AllocationState.EXPIRED,
    }
)
ENCODED_ALLOCATION_STATES: Final = MappingProxyType({word: number for number, word in ALLOCATION_STATES.items()})

_STRATEGIES: Final = {
    resources_pb2.FIRST_FIT: PlacementStrategy.FIRST_FIT,
    resources_pb2.BEST_FIT: PlacementStrategy.BEST_FIT,
    resources_pb2.WORST_FIT: PlacementStrategy.WORST_FIT,
}
STRATEGIES: Final[Mapping[int, PlacementStrategy | None]] = MappingProxyType(
    {int(number): word for number, word in _STRATEGIES.items()} | {resources_pb2.PLACEMENT_STRATEGY_UNSPECIFIED: None}
)
"""Unspecified: what the fleet, or the service, does by default."""
ENCODED_STRATEGIES: Final = MappingProxyType({word: number for number, word in _STRATEGIES.items()})
STRATEGY_RULE: Final = "must be FIRST_FIT, BEST_FIT or WORST_FIT, or unspecified"
