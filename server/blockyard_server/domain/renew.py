"""Decides Renew: extend a lease, never shorten, never revive."""

from datetime import UTC, datetime, timedelta
from typing import Final

from blockyard_server.domain.acquire import view_of
from blockyard_server.domain.allocation import Allocation, AllocationState
from blockyard_server.domain.answers import Renewal
from blockyard_server.domain.errors import AllocationEnded, LeaseExpired
from blockyard_server.domain.events import Renewed
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.lease import Lease, lease_ended, renewed_lease
from blockyard_server.domain.records import Records, changed
from blockyard_server.domain.release import check_guards, check_owner, find
from blockyard_server.domain.requests import Renew

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def decide_renew(state: FleetState, records: Records, request: Renew, now_us: int) -> tuple[Renewal, Renewed | None]:
    """The answer, and the extension if there is one.

    Raises FleetNotFound, AllocationNotFound, NotOwner, NotHolder, StaleFencingToken, LeaseExpired, AllocationEnded.
    """
    fields = state.existing_fields()
    allocation = find(state, records, request.allocation)
    check_owner(state, allocation, request)
    check_guards(state, allocation, request)
    _check_held(state, allocation, now_us)
    event: Renewed | None = None
    if allocation.expire_time_us is not None and allocation.ttl_us is not None:
        lease = renewed_lease(Lease(allocation.ttl_us, allocation.expire_time_us), fields, request.ttl_us, now_us)
        if lease is not None:
            event = Renewed(state.revision + 1, now_us, allocation.allocation, allocation.holder, *lease)
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
