"""What can be asked of a fleet's journal: which events a filter finds, and from which revision on it is kept. Pure."""

from blockyard_server.domain.answers import EventFilter
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.errors import Compacted
from blockyard_server.domain.events import (
    Event,
    Expired,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceUpdated,
    Released,
    Renewed,
)


def matches(where: EventFilter, event: Event) -> bool:
    """Whether the filter finds the event. A store that compares in its database finds the same ones."""
    if where.kinds and event.kind not in where.kinds:
        return False
    if where.holder is not None:
        held = isinstance(event, Granted | Released | Renewed | Expired)
        if not held or event.holder != where.holder:
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


def _is_of_instance(instance: str, event: Event) -> bool:
    """The event is of the instance itself, or grants or frees blocks of it; what a release leaves held does not count."""
    match event:
        case InstanceCreated() | InstanceUpdated() | InstanceDeleted():
            return event.instance == instance
        case Granted():
            return _names(event.placements, instance)
        case Released() | Expired():
            return _names(event.freed, instance)
        case _:
            return False


def _names(placements: Placements, instance: str) -> bool:
    return any(name == instance for name, _ in placements)
