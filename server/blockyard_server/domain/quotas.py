"""What one tenant may have a fleet remember: how many tokens that it cancelled before they were granted.

A client that releases an unknown token may be sure that it is never granted: the fleet remembers it for its retention.
So somebody could fill the database with made-up tokens. Each *owner* has a bucket of its own: a tenant, or a caller of
the time before identities that a tenant has adopted. A cancellation fills it by one, and within a retention as many run
out of it as it holds. Without an auth file there is no limit.

Nothing is counted in the database. Memory follows the fleet's events, also those of other servers, so each server has
the same bucket. It never holds more than what is remembered: nobody is refused before that is the maximum. It may hold
less: at most twice the maximum is remembered, and once more for each time that the fleet is loaded, when its buckets
are empty. For storage that is good enough, and it costs a decision nothing (docs/adr/0029).
"""

from dataclasses import dataclass
from typing import Final

from blockyard_server.domain.actor import SEPARATOR
from blockyard_server.domain.errors import LimitExceeded

DEFAULT_OPEN_CANCELLATIONS: Final = 100_000
DEFAULT_RETENTION_US: Final = 7 * 24 * 3600 * 1_000_000
MAX_OWNERS: Final = 10_000
"""Of more owners, the emptier half of the buckets is forgotten."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """The limits of one tenant on one fleet."""

    open_cancellations: int = DEFAULT_OPEN_CANCELLATIONS
    retention_us: int = DEFAULT_RETENTION_US
    """How long a cancelled token is remembered."""


def owner_of(caller: str) -> str:
    """Whose bucket a token of this caller is in."""
    return caller.partition(SEPARATOR)[0]


class OpenCancellations:
    """The buckets of a fleet's owners, in the fleet's time."""

    __slots__ = ("_by_owner", "quotas")

    def __init__(self, quotas: Quotas = Quotas()) -> None:
        self.quotas = quotas
        self._by_owner: dict[str, tuple[float, int]] = {}
        """How much was in it, and when."""

    def __len__(self) -> int:
        return len(self._by_owner)

    def note(self, caller: str, time_us: int) -> None:
        """One more token of this caller was cancelled."""
        owner = owner_of(caller)
        if owner not in self._by_owner and len(self._by_owner) >= MAX_OWNERS:
            fullest = sorted(self._by_owner, key=lambda each: self._level(each, time_us), reverse=True)
            self._by_owner = {each: self._by_owner[each] for each in fullest[: MAX_OWNERS // 2]}
        self._by_owner[owner] = (self._level(owner, time_us) + 1, time_us)

    def check(self, fleet: str, caller: str, now_us: int) -> None:
        """Expects one more to be allowed. Raises LimitExceeded."""
        owner, maximum = owner_of(caller), self.quotas.open_cancellations
        if self._level(owner, now_us) > maximum - 1:
            raise LimitExceeded(
                f"{owner} has cancelled {maximum} tokens on fleet {fleet} that were never granted, the most that it "
                "remembers of one tenant; nothing was done: release by token only what you have asked for",
                limit="open_cancellations",
                maximum=maximum,
            )

    def _level(self, owner: str, now_us: int) -> float:
        level, at_us = self._by_owner.get(owner, (0.0, now_us))
        return max(0.0, level - (now_us - at_us) * self.quotas.open_cancellations / self.quotas.retention_us)
