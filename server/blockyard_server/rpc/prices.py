"""What a call counts for, in units of work: one table, complete by test.

A unit is about the work of an Acquire. Renewals and releases cost nothing: they keep leases and make room, and must
never be the ones to wait for a rate.
"""

from collections.abc import Callable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from blockyard.v1 import allocator_pb2 as pb
from blockyard_server.domain.limits import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE

OPERATIONS_PER_UNIT: Final = 10
ROWS_PER_UNIT: Final = 100
HELD_BLOCKS_PER_UNIT: Final = 1000
VERIFY_UNITS: Final = 200.0
"""Of a Verify or a Repair, which read a whole fleet."""


class Kind(IntEnum):
    """What is counted by itself while it is under way."""

    CONTROL = 0
    """Renewals and releases."""
    CALL = 1
    PAGE_READ = 2
    WATCH = 3
    VERIFY = 4


class Price(NamedTuple):
    """Of one call."""

    kind: Kind
    units: float


Pricing = Price | Callable[[Any], Price]
"""Of a method: the same for each request, or by the request."""

_CALL: Final = Price(Kind.CALL, 1.0)
_CONTROL: Final = Price(Kind.CONTROL, 0.0)
_VERIFY: Final = Price(Kind.VERIFY, VERIFY_UNITS)
_CONTROLS: Final = ("renew", "release")
FREE: Final = None
"""Is not counted: it is open to strangers, or a stream of small questions."""


def _of_batch(request: pb.BatchRequest) -> Price:
    """A batch of renewals and releases alone costs as little as they do; what is neither costs as an acquire."""
    if all(operation.WhichOneof("operation") in _CONTROLS for operation in request.operations):
        return _CONTROL
    return Price(Kind.CALL, 1.0 + len(request.operations) / OPERATIONS_PER_UNIT)


def _of_page(request: Any) -> Price:
    rows = min(max(0, request.page_size) or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    return Price(Kind.PAGE_READ, 1.0 + rows / ROWS_PER_UNIT)


PRICES: Final[Mapping[str, Pricing | None]] = MappingProxyType(
    {
        "blockyard.v1.Allocator.Acquire": _CALL,
        "blockyard.v1.Allocator.Release": _CONTROL,
        "blockyard.v1.Allocator.Renew": _CONTROL,
        "blockyard.v1.Allocator.Batch": _of_batch,
        "blockyard.v1.Allocator.Describe": _of_page,
        "blockyard.v1.Allocator.GetAllocation": _CALL,
        "blockyard.v1.Allocator.ListAllocations": _of_page,
        "blockyard.v1.Allocator.Watch": Price(Kind.WATCH, 1.0),
        "blockyard.v1.FleetAdmin.CreateFleet": _CALL,
        "blockyard.v1.FleetAdmin.GetFleet": _CALL,
        "blockyard.v1.FleetAdmin.ListFleets": _of_page,
        "blockyard.v1.FleetAdmin.UpdateFleet": _CALL,
        "blockyard.v1.FleetAdmin.DeleteFleet": _CALL,
        "blockyard.v1.FleetAdmin.CreateInstance": _CALL,
        "blockyard.v1.FleetAdmin.GetInstance": _CALL,
        "blockyard.v1.FleetAdmin.ListInstances": _of_page,
        "blockyard.v1.FleetAdmin.UpdateInstance": _CALL,
        "blockyard.v1.FleetAdmin.DeleteInstance": _CALL,
        "blockyard.v1.FleetAdmin.CordonInstance": _CALL,
        "blockyard.v1.FleetAdmin.UncordonInstance": _CALL,
        "blockyard.v1.Ledger.ListEvents": _of_page,
        "blockyard.v1.Ledger.Verify": _VERIFY,
        "blockyard.v1.Ledger.Repair": _VERIFY,
        "blockyard.v1.Access.WhoAmI": _CALL,
        "blockyard.v1.Access.CanI": _CALL,
        "grpc.health.v1.Health.Check": FREE,
        "grpc.health.v1.Health.List": FREE,
        "grpc.health.v1.Health.Watch": FREE,
        "grpc.reflection.v1.ServerReflection.ServerReflectionInfo": FREE,
        "grpc.reflection.v1alpha.ServerReflection.ServerReflectionInfo": FREE,
    }
)


def _of_snapshot(answer: Any) -> float:
    """The held blocks that a FULL Describe names."""
    blocks = sum(len(hold.blocks) for instance in answer.instances for hold in instance.holds)
    return blocks / HELD_BLOCKS_PER_UNIT


PRICES_OF_ANSWERS: Final[Mapping[str, Callable[[Any], float]]] = MappingProxyType(
    {"blockyard.v1.Allocator.Describe": _of_snapshot}
)
"""What is only known once a call is answered, in units: its principal owes it."""
