"""Decides Acquire: grant every demand or none, once for each token."""

from blockyard_server.domain.allocation import Allocation, TokenRecord
from blockyard_server.domain.answers import AllocationView, Grant
from blockyard_server.domain.errors import AllocationEnded, TokenCancelled, TokenMismatch
from blockyard_server.domain.events import Granted
from blockyard_server.domain.fingerprint import differing_fields, fingerprint
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.lease import granted_ttl_us
from blockyard_server.domain.placement import place
from blockyard_server.domain.records import Records
from blockyard_server.domain.requests import Acquire, InstanceState


def decide_acquire(state: FleetState, records: Records, request: Acquire, now_us: int) -> tuple[Grant, Granted | None]:
    """The answer, and the grant if this request makes one.

    Raises FleetNotFound, Unsatisfiable, NoCapacity, LimitExceeded, TokenMismatch, TokenCancelled, AllocationEnded.
    """
    fields = state.existing_fields()
    known = records.tokens.get((request.caller, request.token))
    if known is not None:
        return _answer_again(state, records, known, request, now_us), None
    placements, exclusive = place(state.index, request.demands, request.strategy or fields.default_placement_strategy)
    ttl_us = granted_ttl_us(fields, request.ttl_us)
    event = Granted(
        state.revision + 1,
        now_us,
        holder=request.holder,
        caller=request.caller,
        token=request.token,
        fingerprint=fingerprint(request),
        placements=placements,
        ttl_us=ttl_us,
        expire_time_us=None if ttl_us is None else now_us + ttl_us,
        annotations=request.annotations,
        exclusive=exclusive,
    )
    if request.validate_only:
        imagined = event.allocation()._replace(allocation=0, revision=0)
        return Grant(AllocationView(imagined), state.revision, now_us), None
    return Grant(AllocationView(event.allocation()), event.revision, now_us), event


def view_of(state: FleetState, allocation: Allocation, now_us: int) -> AllocationView:
    """The allocation with its OFFLINE instances flagged while it is held."""
    if not allocation.is_held(now_us):
        return AllocationView(allocation)
    by_name = state.index.by_name
    offline = tuple(
        name
        for name, _ in allocation.placements
        if name in by_name and by_name[name].fields.state is InstanceState.OFFLINE
    )
    return AllocationView(allocation, offline)


def _answer_again(state: FleetState, records: Records, known: TokenRecord, request: Acquire, now_us: int) -> Grant:
    if known.allocation is None:
        message = (
            f"token {known.token!r} was cancelled by a Release before it was granted; use a new token for a new intent"
        )
        raise TokenCancelled(message, idempotency_token=known.token)
    name = f"fleets/{state.fleet}/allocations/{known.allocation}"
    differing = differing_fields(known.fingerprint, request)
    if differing:
        fields = ", ".join(differing)
        message = (
            f"token {known.token!r} was used for another request (differing: {fields}); a new intent needs a new token"
        )
        raise TokenMismatch(message, idempotency_token=known.token, fields=fields, allocation=name)
    allocation = records.allocations.get(known.allocation)
    if allocation is None or not allocation.is_held(now_us):
        message = f"token {known.token!r} was granted as {name}, which has ended; use a new token for a new intent"
        raise AllocationEnded(message, idempotency_token=known.token, allocation=name)
    return Grant(view_of(state, allocation, now_us), allocation.revision, now_us, replayed=True)
