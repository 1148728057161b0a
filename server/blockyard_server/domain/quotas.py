"""What one tenant may have a fleet remember: how many tokens that it cancelled before they were granted.

Whoever releases a token that nobody knows is sure that it is never granted: the fleet remembers it for its retention.
So somebody could fill the database with made-up tokens. Each *owner* has a number of its own: a tenant, or a caller of
the time before identities that a tenant has adopted. Where nobody is asked who he is there is no limit.

The numbers are in memory and follow the fleet's events, other servers' too. So they are never too low, but for owners
with few, of which nothing is known at first. They are too high once something was forgotten, which is no event: so
before anybody is refused, they are counted again, though not all the time (docs/adr/0028).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from blockyard_server.domain.actor import SEPARATOR
from blockyard_server.domain.errors import LimitExceeded

DEFAULT_OPEN_CANCELLATIONS: Final = 100_000
FEW: Final = 100
"""An owner with less than the maximum by this number has few cancellations: the database does not report them."""
COUNT_AGAIN_US: Final = 60 * 1_000_000
"""While an owner is at its maximum the database counts once in so long: it looks at all cancellations of a fleet."""
MAX_OWNERS: Final = 10_000
"""Of more owners, those with few are forgotten."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """The limits of one tenant on one fleet."""

    open_cancellations: int = DEFAULT_OPEN_CANCELLATIONS

    @property
    def few(self) -> int:
        """Owners with fewer cancellations need not be known."""
        return max(1, self.open_cancellations // FEW)


def owner_of(caller: str) -> str:
    """Whose number a token of this caller counts for."""
    return caller.partition(SEPARATOR)[0]


class OpenCancellations:
    """How many cancelled tokens the owners have in one fleet, at most."""

    __slots__ = ("_by_owner", "_counted_us")

    def __init__(self) -> None:
        self._by_owner: dict[str, int] = {}
        self._counted_us: int | None = None

    def note(self, caller: str) -> None:
        """One more token of this caller was cancelled. Of nothing was counted yet, the count will have it."""
        if self._counted_us is not None:
            owner = owner_of(caller)
            self._by_owner[owner] = self._by_owner.get(owner, 0) + 1

    def is_to_be_counted(self, caller: str, quotas: Quotas, now_us: int) -> bool:
        """Whether nothing is known yet, or what is known would refuse this caller and is old."""
        if self._counted_us is None:
            return True
        known = self._by_owner.get(owner_of(caller), 0)
        return known >= quotas.open_cancellations and now_us - self._counted_us >= COUNT_AGAIN_US

    def counted(self, by_owner: Mapping[str, int], now_us: int) -> None:
        """What the database has now."""
        self._by_owner = dict(by_owner)
        self._counted_us = now_us

    def check(self, fleet: str, caller: str, quotas: Quotas) -> None:
        """Expects one more to be allowed. Raises LimitExceeded."""
        if self._by_owner.get(owner_of(caller), 0) >= quotas.open_cancellations:
            maximum = quotas.open_cancellations
            raise LimitExceeded(
                f"{owner_of(caller)} has cancelled {maximum} tokens on fleet {fleet} that were never granted, the most "
                "that the fleet remembers of one tenant; nothing was done: release by token only what you asked for",
                limit="open_cancellations",
                maximum=maximum,
            )

    def forget_few(self, quotas: Quotas) -> None:
        """Keeps the number of owners in bounds."""
        if len(self._by_owner) > MAX_OWNERS:
            self._by_owner = {owner: n for owner, n in self._by_owner.items() if n >= quotas.few}
