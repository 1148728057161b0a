"""Every decision by the type of its request: a request in, its answer and its event out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from blockyard_server.domain.acquire import decide_acquire
from blockyard_server.domain.answers import Answer
from blockyard_server.domain.events import Event, Expired
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.fleets import decide_create_fleet, decide_delete_fleet, decide_update_fleet
from blockyard_server.domain.instances import decide_create_instance, decide_delete_instance, decide_update_instance
from blockyard_server.domain.records import Records
from blockyard_server.domain.release import decide_release
from blockyard_server.domain.renew import decide_renew
from blockyard_server.domain.requests import (
    Acquire,
    CreateFleet,
    CreateInstance,
    DeleteFleet,
    DeleteInstance,
    Release,
    Renew,
    Request,
    UpdateFleet,
    UpdateInstance,
)

_DECISIONS: Final[dict[type[Request], Callable[[FleetState, Records, Any, int], tuple[Answer, Event | None]]]] = {
    Acquire: decide_acquire,
    Release: decide_release,
    Renew: decide_renew,
    CreateFleet: decide_create_fleet,
    UpdateFleet: decide_update_fleet,
    DeleteFleet: decide_delete_fleet,
    CreateInstance: decide_create_instance,
    UpdateInstance: decide_update_instance,
    DeleteInstance: decide_delete_instance,
}


def decide(state: FleetState, records: Records, request: Request, now_us: int) -> tuple[Answer, Event | None]:
    """The answer to a request, and the event that makes it so; None if nothing changes.

    The event says who asked for it, unless it is the end of a lease, which nobody asks for.

    Changes neither `state` nor `records`; the caller applies the event to both. Raises Refused.
    """
    answer, event = _DECISIONS[type(request)](state, records, request, now_us)
    if request.actor is not None and event is not None and not isinstance(event, Expired):
        event = replace(event, actor=request.actor.name, via=request.actor.via)
    return answer, event
