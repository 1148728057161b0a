"""How much time this server has certainly seen pass since it looked at a fleet's age.

A fleet's age is written in the database, and any server may let it grow. What a server measures counts only if the age
is still the one that it read at the beginning of the measurement: otherwise another server has counted that time, and
perhaps made a mark in it. So no moment is counted twice, and a mark is never older than the rows that it covers.
"""

from typing import Final, NamedTuple

from blockyard_server.engine.clock import Clock

DRIFT_PER_US: Final = 1_000
"""A monotonic clock may gain one microsecond in so many: that much of what was measured is not certain."""


class Look(NamedTuple):
    """A look at a fleet's age, and what this server's own clock showed just after it."""

    age_us: int
    own_us: int


class FleetAges:
    """This server's last look at each fleet's age. `due` and `since` are used in the writer threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._looks: dict[str, Look] = {}

    def due(self, fleet: str, step_us: int) -> bool:
        """Whether the last look is so long ago that the age can grow by this much, or there was none."""
        look = self._looks.get(fleet)
        return look is None or self._certain_us(look, self._clock.now_us()) >= step_us

    def look(self, age_us: int) -> Look:
        """A look, now that the fleet is locked and its age was read."""
        return Look(age_us, self._clock.now_us())

    def since(self, fleet: str, look: Look) -> int | None:
        """What has certainly passed between the look that was kept and this one.

        None if that does not count: there was none, or another server wrote the age since.
        """
        before = self._looks.get(fleet)
        if before is None or before.age_us != look.age_us:
            return None
        return self._certain_us(before, look.own_us)

    def keep(self, fleet: str, look: Look) -> None:
        """Remembers a look, now that its transaction is committed, with the age as that left it."""
        self._looks[fleet] = look

    def _certain_us(self, look: Look, own_us: int) -> int:
        passed_us = own_us - look.own_us
        return max(0, passed_us - passed_us // DRIFT_PER_US)
