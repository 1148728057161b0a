"""Decides Renew: extend a lease, never shorten, never revive."""

from datetime import UTC, datetime, timedelta
from typing import Final

from blockyard_server.domain.acquire import view_of
from blockyard_server.domain.allocation import Allocation, AllocationState, lease_ended
from blockyard_server.domain.answers import Renewal
from blockyard_server.domain.errors import AllocationEnded, LeaseExpired
from blockyard_server.domain.events import Renewed
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.records import Records, changed
from blockyard_server.domain.release import check_guards, find
from blockyard_server.domain.requests import Renew

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def decide_renew(state: FleetState, records: Records, request: Renew, now_us: int) -> tuple[Renewal, Renewed | None]:
    """The answer, and the extension if there is one.

    Raises FleetNotFound, AllocationNotFound, NotHolder, StaleFencingToken, LeaseExpired, AllocationEnded.
    """
    max_ttl_us = state.existing_fields().max_ttl_us
    allocation = find(state, records, request.allocation)
    check_guards(state, allocation, request)
    _check_held(state, allocation, now_us)
    event: Renewed | None = None
    if allocation.expire_time_us is not None and allocation.ttl_us is not None:
        ttl_us = allocation.ttl_us if request.ttl_us is None else request.ttl_us
        ttl_us = ttl_us if max_ttl_us is None else min(ttl_us, max_ttl_us)
        if now_us + ttl_us > allocation.expire_time_us:
            event = Renewed(
                state.revision + 1, now_us, allocation.allocation, allocation.holder, ttl_us, now_us + ttl_us
            )
            allocation = changed(allocation, event)
    return Renewal(view_of(state, allocation, now_us), allocation.revision, now_us), event


def _check_held(state: FleetState, allocation: Allocation, now_us: int) -> None:
    name = f"fleets/{state.fleet}/allocations/{allocation.allocation}"
    if allocation.state is AllocationState.RELEASED:
        raise AllocationEnded(f"{name} was released; acquire again", allocation=name)
    if allocation.state is AllocationState.EXPIRED or lease_ended(allocation.expire_time_us, now_us):
        message = (
            f"the lease of {name} has run out, and its blocks may be somebody else's; stop the work and acquire again"
        )
        raise LeaseExpired(message, allocation=name, expire_time=_rfc3339(allocation.expire_time_us or 0))


def _rfc3339(time_us: int) -> str:
    """The form that protobuf's JSON gives a timestamp: metadata is for programs that know the API's types."""
    return (_EPOCH + timedelta(microseconds=time_us)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
