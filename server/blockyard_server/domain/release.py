"""Decides Release: end an allocation, wholly or for some blocks; repeating it changes nothing."""

from blockyard_server.domain.acquire import view_of
from blockyard_server.domain.allocation import Allocation, AllocationState
from blockyard_server.domain.answers import ReleaseAnswer, ReleaseOutcome
from blockyard_server.domain.blocks import Placements, to_mask, within, without
from blockyard_server.domain.errors import AllocationNotFound, BlockNotGranted, NotHolder, NotOwner, StaleFencingToken
from blockyard_server.domain.events import Expired, Released, TokenWasCancelled
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.lease import lease_ended
from blockyard_server.domain.records import Records, changed
from blockyard_server.domain.requests import Release, Renew


def decide_release(
    state: FleetState, records: Records, request: Release, now_us: int
) -> tuple[ReleaseAnswer, Released | Expired | TokenWasCancelled | None]:
    """The answer, and what this request changes, if anything.

    Raises FleetNotFound, AllocationNotFound, NotOwner, NotHolder, StaleFencingToken, BlockNotGranted, LimitExceeded.
    """
    state.existing_fields()
    allocation_id = request.allocation
    if request.token is not None:
        known = records.tokens.get((request.caller, request.token))
        if known is None:
            if request.actor is not None:
                state.cancellations.check(state.fleet, request.caller, now_us)
            event = TokenWasCancelled(state.revision + 1, now_us, request.caller, request.token)
            return _cancelled(event.revision, now_us), event
        if known.allocation is None:
            return _cancelled(known.revision, now_us), None
        allocation_id = known.allocation
    allocation = find(state, records, allocation_id or 0)
    if request.actor is None or not request.actor.may_release_any:
        check_owner(state, allocation, request)
    check_guards(state, allocation, request)
    _check_granted(state, allocation, request.placements)
    return _end(state, allocation, request.placements, now_us)


def _cancelled(revision: int, now_us: int) -> ReleaseAnswer:
    return ReleaseAnswer(ReleaseOutcome.CANCELLED_BEFORE_GRANT, None, revision, now_us)


def _end(
    state: FleetState, allocation: Allocation, wanted: Placements, now_us: int
) -> tuple[ReleaseAnswer, Released | Expired | None]:
    event: Released | Expired | None = None
    if allocation.state is AllocationState.RELEASED:
        outcome = ReleaseOutcome.ALREADY_RELEASED
    elif allocation.state is AllocationState.EXPIRED:
        outcome = ReleaseOutcome.ALREADY_EXPIRED
    elif lease_ended(allocation.expire_time_us, now_us):
        outcome = ReleaseOutcome.ALREADY_EXPIRED
        event = expire(state, allocation, now_us)
    else:
        freed = within(allocation.placements, wanted) if wanted else allocation.placements
        outcome = ReleaseOutcome.RELEASED if freed else ReleaseOutcome.ALREADY_RELEASED
        if freed:
            left = without(allocation.placements, freed) if wanted else ()
            event = Released(state.revision + 1, now_us, allocation.allocation, allocation.holder, freed, left)
    if event is not None:
        allocation = changed(allocation, event)
    return ReleaseAnswer(outcome, view_of(state, allocation, now_us), allocation.revision, now_us), event


def expire(state: FleetState, allocation: Allocation, now_us: int) -> Expired:
    """The event that makes an ended lease's blocks idle."""
    return Expired(state.revision + 1, now_us, allocation.allocation, allocation.holder, allocation.placements)


def find(state: FleetState, records: Records, allocation_id: int) -> Allocation:
    """The allocation that a request names. Raises AllocationNotFound."""
    allocation = records.allocations.get(allocation_id)
    if allocation is None:
        raise allocation_not_found(state.fleet, allocation_id)
    return allocation


def allocation_not_found(fleet: str, allocation_id: int) -> AllocationNotFound:
    """The refusal of a request that names an allocation that is not there."""
    return AllocationNotFound(
        f"fleet {fleet} has no allocation {allocation_id}, or it ended longer ago than the server remembers",
        allocation=f"fleets/{fleet}/allocations/{allocation_id}",
    )


def check_owner(state: FleetState, allocation: Allocation, request: Release | Renew) -> None:
    """Refuses a known principal of another tenant than the allocation's. Raises NotOwner."""
    actor = request.actor
    if actor is not None and not actor.owns(allocation.caller):
        name = f"fleets/{state.fleet}/allocations/{allocation.allocation}"
        message = f"{name} belongs to another tenant than {actor.tenant}: only its own tenant renews and releases it"
        raise NotOwner(message, allocation=name, tenant=actor.tenant)


def check_guards(state: FleetState, allocation: Allocation, request: Release | Renew) -> None:
    """Refuses a request whose guards do not agree with the allocation. Raises NotHolder, StaleFencingToken."""
    name = f"fleets/{state.fleet}/allocations/{allocation.allocation}"
    if request.holder is not None and request.holder != allocation.holder:
        raise NotHolder(f"{name} is held by another holder than the request says", allocation=name)
    if request.fencing_token is not None and request.fencing_token != allocation.allocation:
        message = f"the fencing token of {name} is {allocation.allocation}, not what the request says"
        raise StaleFencingToken(message, allocation=name, fencing_token=allocation.allocation)


def _check_granted(state: FleetState, allocation: Allocation, wanted: Placements) -> None:
    granted = {instance: to_mask(blocks) for instance, blocks in allocation.granted}
    for instance, blocks in wanted:
        mask = granted.get(instance, 0)
        for block in blocks:
            if not mask >> block & 1:
                name = f"fleets/{state.fleet}/allocations/{allocation.allocation}"
                raise BlockNotGranted(
                    f"block {block} of instance {instance} was never granted to {name}; nothing was released",
                    allocation=name,
                    instance=f"fleets/{state.fleet}/instances/{instance}",
                    block=block,
                )
