"""How many requests may wait: in all, for renewals and releases, and of one tenant beside others.

One tenant alone may fill the queue, on a server without an auth file. Beside others, or if it is known, a tenant
may have as many requests waiting as places are left free (Choudhury and Hahne, Dynamic queue length thresholds, 1998):
so a flood leaves half of the queue to others, two floods leave a third. A tenth is for renewals and releases alone.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final

from blockyard_server.engine.asker import Asker, Urgency
from blockyard_server.engine.failures import Overloaded

ROOM_FOR_OTHERS_S: Final = 60.0
"""For so long after a request of another tenant, one tenant does not fill the queue alone."""
CONTROL_SHARE: Final = 10
"""One place in so many is kept for renewals and releases."""


class Company:
    """Whether more than one tenant has asked in the last `memory_s`."""

    def __init__(self, memory_s: float, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._memory_s = memory_s
        self._monotonic_s = monotonic_s
        self._last: str | None = None
        self._until_s = 0.0

    def note(self, tenant: str) -> None:
        """This tenant asks."""
        if tenant != self._last:
            if self._last is not None:
                self._until_s = self._monotonic_s() + self._memory_s
            self._last = tenant

    def is_present(self) -> bool:
        """Whether another than the latest tenant has asked lately."""
        return self._until_s > 0.0 and self._monotonic_s() < self._until_s


class WaitingRoom:
    """The places of all writers of a server together."""

    def __init__(self, places: int, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._places = places
        self._places_of_others = places - places // CONTROL_SHARE
        self._company = Company(ROOM_FOR_OTHERS_S, monotonic_s)
        self._waiting: dict[str, int] = {}
        """By tenant; nobody who has none."""
        self.waiting = 0
        """How many wait now."""

    def enter(self, asker: Asker, urgency: Urgency) -> None:
        """One more waits. Raises Overloaded if there is no place for it."""
        tenant = asker.tenant
        self._company.note(tenant)
        own = self._waiting.get(tenant, 0)
        free = (self._places_of_others if urgency else self._places) - self.waiting
        if own >= free and (free <= 0 or asker.is_known or self._company.is_present()):
            raise _overloaded(tenant, own, free + self.waiting, free)
        self._waiting[tenant] = own + 1
        self.waiting += 1

    def leave(self, askers: Iterable[Asker]) -> None:
        """These wait no more: their turn has come."""
        for asker in askers:
            tenant = asker.tenant
            own = self._waiting[tenant]
            if own == 1:
                del self._waiting[tenant]
            else:
                self._waiting[tenant] = own - 1
            self.waiting -= 1

    def come_back(self, askers: Iterable[Asker]) -> None:
        """These wait again, whether or not there is a place: they were accepted before."""
        for asker in askers:
            self._waiting[asker.tenant] = self._waiting.get(asker.tenant, 0) + 1
            self.waiting += 1


def _overloaded(tenant: str, own: int, places: int, free: int) -> Overloaded:
    if free <= 0:
        message = f"{places} requests are waiting, the most that this server accepts; try again later"
        return Overloaded(message, maximum=places)
    message = (
        f"{own} requests of {tenant} are waiting, the most that it may have beside those of others; try again later"
    )
    return Overloaded(message, maximum=own)
