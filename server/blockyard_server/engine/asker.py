"""Who asks for a change and how urgent it is, as the writers' queues see it. The domain knows nothing of either."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

from blockyard_server.domain.requests import Acquire, Release, Renew, Request

BLOCKS_PER_UNIT: Final = 64
"""A request for so many blocks costs a unit more than one for few."""


class Asker(NamedTuple):
    """Whose share of the writers a request takes."""

    tenant: str
    weight: int = 1
    """The tenant's share beside the shares of others."""
    is_known: bool = False
    """It has proved who it is: its limits hold even where nobody else asks."""


ANYBODY: Final = Asker("default")
"""Who names nobody."""


class Urgency(IntEnum):
    """Classes of requests. Each has a share of the writer, so that none waits for ever."""

    CONTROL = 0
    """Renewals keep what is held, and releases make room."""
    ACQUIRE = 1
    ADMIN = 2

    @property
    def weight(self) -> int:
        """The class's share beside the shares of the others."""
        return _WEIGHTS[self]


_WEIGHTS: Final = {Urgency.CONTROL: 8, Urgency.ACQUIRE: 4, Urgency.ADMIN: 1}
_URGENCIES: Final[dict[type, Urgency]] = {
    Renew: Urgency.CONTROL,
    Release: Urgency.CONTROL,
    Acquire: Urgency.ACQUIRE,
}


def urgency_of(request: Request) -> Urgency:
    """The class of a request that is a call by itself."""
    return _URGENCIES.get(type(request), Urgency.ADMIN)


def urgencies_of_call(requests: Iterable[Request]) -> dict[str, Urgency]:
    """The class of all of a call's requests on one fleet, by fleet: that of the least urgent of them.

    Together they keep their order. With the most urgent, one renewal would take 999 acquires past everybody else.
    """
    urgencies: dict[str, Urgency] = {}
    for request in requests:
        urgency = urgency_of(request)
        if urgency > urgencies.get(request.fleet, -1):
            urgencies[request.fleet] = urgency
    return urgencies


def cost_of(request: Request) -> float:
    """What a request costs, in units: of the writer's time and of its tenant's share."""
    if type(request) is not Acquire:
        return 1.0
    blocks = sum([demand.instances * demand.blocks for demand in request.demands])
    return 1.0 + blocks // BLOCKS_PER_UNIT
