"""The formats of a fleet's records: which kinds of events, fingerprints and rows a fleet may have. Pure.

Servers of different releases work on one database. A fleet's row names its format, and a server serves only fleets of
formats that it knows. What is new in a format is written only to fleets that are at it, and a fleet is raised to it
only once every live server knows it (docs/adr/0022).

To add a kind of event: raise NEWEST, and name the kind in `_SINCE`. A field with a default needs no format.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from blockyard_server.domain.errors import FleetFormatTooOld
from blockyard_server.domain.events import KINDS, Event, Restored

OLDEST: Final = 1
"""The format of release 0.1.0, which had no number for it."""
NEWEST: Final = 2
"""With 2 came the event RESTORED."""
NEWEST_RAISED: Final = 1
"""The format that servers raise fleets to by themselves. Servers of release 0.1.0 give no sign of life. Only a restore
needs format 2, and raises the fleets itself while no server works on them."""

_SINCE: Final[Mapping[str, int]] = MappingProxyType(dict.fromkeys(KINDS, OLDEST) | {Restored.kind: 2})
"""The first format that has this kind of event."""


@dataclass(frozen=True, slots=True)
class Formats:
    """The formats that a server knows."""

    newest: int = NEWEST
    since: Mapping[str, int] = field(default_factory=lambda: _SINCE)
    newest_raised: int | None = None
    """What servers raise fleets to by themselves; None: the newest."""

    @property
    def raised_at_most(self) -> int:
        """The newest format that servers raise fleets to by themselves."""
        return self.newest if self.newest_raised is None else self.newest_raised

    def knows(self, fleet_format: int) -> bool:
        """Whether a fleet of this format can be served."""
        return OLDEST <= fleet_format <= self.newest

    def check_writable(self, fleet: str, fleet_format: int, event: Event) -> None:
        """Refuses a change that a fleet's format does not have yet. Raises FleetFormatTooOld."""
        needed = self.since[event.kind]
        if needed > fleet_format:
            raise FleetFormatTooOld(
                f"this needs format {needed} of the records, and fleet {fleet} is at format {fleet_format} until all "
                "servers have been upgraded",
                fleet=f"fleets/{fleet}",
                format=fleet_format,
                needed=needed,
            )


def format_to_raise_to(newest_of_live_servers: Mapping[str, int], *, held: bool) -> int:
    """The format that every live server knows; OLDEST if one of them holds it, or there is none."""
    return OLDEST if held else min(newest_of_live_servers.values(), default=OLDEST)
