"""When a command has to stop, and when it has to be over, as its lease allows. Pure."""

from dataclasses import dataclass
from math import inf
from typing import Final

from blockyard._leasing import LOST_AT

LONGEST_GRACE_S: Final = 10.0
"""The longest grace, if no option gives one."""
GRACE_AT_MOST: Final = 1 / 4
"""The part of the lease that the grace may take. It begins at two thirds at the latest, so that the last twelfth is
left for SIGKILL to do its work while the blocks are still nobody else's."""


@dataclass(frozen=True, slots=True)
class CommandTimes:
    """What one renewal of the lease allows the command. Seconds on the clock of leases (`blockyard._clock`)."""

    stop_at: float = inf
    """When the command gets SIGTERM, unless there is a renewal before."""
    limit_at: float = inf
    """When it gets SIGKILL at the latest, whatever the grace is."""
    grace_s: float = LONGEST_GRACE_S
    """From SIGTERM to SIGKILL."""

    def kill_at(self, stopped_at: float) -> float:
        """When a command that got SIGTERM at `stopped_at` gets SIGKILL."""
        return min(stopped_at + self.grace_s, self.limit_at)


def command_times(*, lost_at: float, ends_at: float, wanted_grace_s: float | None) -> CommandTimes:
    """The times of a command under a lease that is lost at `lost_at`, and over at `ends_at`, unless it is renewed."""
    if ends_at == inf:
        return CommandTimes(grace_s=LONGEST_GRACE_S if wanted_grace_s is None else wanted_grace_s)
    longest_s = (ends_at - lost_at) / (1 - LOST_AT) * GRACE_AT_MOST
    wanted_s = LONGEST_GRACE_S if wanted_grace_s is None else wanted_grace_s
    return CommandTimes(stop_at=lost_at, limit_at=lost_at + longest_s, grace_s=min(wanted_s, longest_s))
