"""What can be asked of a fleet's journal: which events a filter finds, and from which revision on it is kept. Pure."""

from dataclasses import dataclass, field

from blockyard_server.domain import limits
from blockyard_server.domain.answers import EventFilter
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.errors import Compacted
from blockyard_server.domain.events import (
    Event,
    Expired,
    FleetCreated,
    FleetDeleted,
    FleetUpdated,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceUpdated,
    LeasesExtended,
    Released,
    Renewed,
    Repaired,
    Restored,
    TokenWasCancelled,
)


@dataclass(frozen=True, slots=True)
class JournalBounds:
    """A fleet's journal has the events above `compacted_revision`, up to `revision`."""

    revision: int
    compacted_revision: int
    format: int = 1
    """Of the fleet's records."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Asks for the events to come: from this revision on, or (0) from the one after the fleet's present one."""

    fleet: str
    from_revision: int = 0
    where: EventFilter = field(default_factory=EventFilter)
    progress_interval_us: int = limits.DEFAULT_PROGRESS_INTERVAL_US
    """After so long without an event a progress notification says up to which revision there was none."""


@dataclass(frozen=True, slots=True)
class WatchPage:
    """Events in ascending order of the revision, or none (a progress notification).

    All that match, up to `revision`, were sent.
    """

    events: tuple[Event, ...]
    revision: int
    time_us: int


def matches(where: EventFilter, event: Event) -> bool:
    """Whether the filter finds the event. A store that compares in its database finds the same ones."""
    if where.kinds and event.kind not in where.kinds:
        return False
    if where.holder is not None and _holder_of(event) != where.holder:
        return False
    return where.instance is None or _is_of_instance(where.instance, event)


def check_kept(fleet: str, after: int, compacted_revision: int) -> None:
    """Refuses to go on after a revision if the next one is compacted away: there would be a gap. Raises Compacted."""
    if after < compacted_revision:
        oldest = compacted_revision + 1
        raise Compacted(
            f"the journal of fleet {fleet} is kept from revision {oldest} on, and no longer from {after + 1}",
            fleet=f"fleets/{fleet}",
            from_revision=after + 1,
            oldest_revision=oldest,
        )


def _holder_of(event: Event) -> str | None:
    return event.holder if isinstance(event, Granted | Released | Renewed | Expired) else None


def _is_of_instance(instance: str, event: Event) -> bool:
    """The event is of the instance itself, or grants or frees blocks of it, whatever a release leaves held."""
    match event:
        case InstanceCreated() | InstanceUpdated() | InstanceDeleted():
            return event.instance == instance
        case Granted():
            return _names(event.placements, instance)
        case Released() | Expired():
            return _names(event.freed, instance)
        case Renewed() | TokenWasCancelled() | LeasesExtended():
            return False
        case FleetCreated() | FleetUpdated() | FleetDeleted() | Repaired() | Restored():
            return False


def _names(placements: Placements, instance: str) -> bool:
    return any(name == instance for name, _ in placements)
