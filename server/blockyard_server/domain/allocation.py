"""An allocation and its idempotency token's record."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple

from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.lease import lease_ended


class AllocationState(StrEnum):
    """Where an allocation is in its life. A state other than HELD is final."""

    HELD = "HELD"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"


_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Allocation(NamedTuple):
    """One grant, as its row says. Times are microseconds since the epoch, by the server's clock.

    A tuple, as the answers are: several are made for each call, and a frozen dataclass costs three times as much.
    """

    allocation: int
    """The id, the fencing token and the revision of the grant: they are the same number."""
    holder: str
    caller: str
    token: str
    granted: Placements
    """What was granted, for ever."""
    placements: Placements
    """What is held of it; for an ended allocation, what was held at its end."""
    ttl_us: int | None
    grant_time_us: int
    expire_time_us: int | None
    annotations: Mapping[str, str] = _NONE
    state: AllocationState = AllocationState.HELD
    end_time_us: int | None = None
    revision: int = 0
    """The fleet's revision of the last change."""
    exclusive: tuple[str, ...] = ()
    """The instances that were granted exclusively: each is its own while it has a block there."""

    def is_held(self, now_us: int) -> bool:
        """Whether it has its blocks at `now_us`: an ended lease does not, swept or not."""
        return self.state is AllocationState.HELD and not lease_ended(self.expire_time_us, now_us)

    def ended(self, state: AllocationState, revision: int, end_time_us: int) -> "Allocation":
        """This allocation after its end."""
        return self._replace(state=state, revision=revision, end_time_us=end_time_us)

    def keeping(self, placements: Placements, revision: int) -> "Allocation":
        """This allocation after a partial release."""
        return self._replace(placements=placements, revision=revision)

    def renewed(self, ttl_us: int, expire_time_us: int, revision: int) -> "Allocation":
        """This allocation with a longer lease."""
        return self._replace(ttl_us=ttl_us, expire_time_us=expire_time_us, revision=revision)


class TokenRecord(NamedTuple):
    """What is remembered of an idempotency token. `allocation` is None for a cancellation."""

    caller: str
    token: str
    allocation: int | None
    fingerprint: bytes
    revision: int
