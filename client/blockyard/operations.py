"""What can be done to blocks: acquire, release, renew. The clients' methods of these names are these functions.

A function here makes an operation and sends nothing, so that `batch` can send many of them in one call:

    client.batch([operations.acquire("gpu", blocks=1, holder="a"), operations.release(allocation)])
"""

from collections.abc import Iterable, Mapping
from uuid import uuid4

from blockyard._arguments import mapped, not_empty, several, some
from blockyard._call import AGAIN, Advice, Method, Operation
from blockyard._codec import (
    decode_grant,
    decode_release,
    decode_renewal,
    encode_demand,
    encode_duration,
    encode_placement,
    encode_strategy,
)
from blockyard._names import fleet_name, fleet_of, short
from blockyard.enums import PlacementStrategy
from blockyard.types import Allocation, Demand, Grant, Placement, ReleaseResult, Renewal, Seconds, Selector
from blockyard.v1 import allocator_pb2 as pb

_SERVICE = "/blockyard.v1.Allocator"
ACQUIRE = Method(f"{_SERVICE}/Acquire", pb.AcquireRequest, pb.AcquireResponse)
RELEASE = Method(f"{_SERVICE}/Release", pb.ReleaseRequest, pb.ReleaseResponse)
RENEW = Method(f"{_SERVICE}/Renew", pb.RenewRequest, pb.RenewResponse)


def acquire(
    fleet: str,
    *,
    holder: str,
    blocks: int | None = None,
    instances: int = 1,
    requirements: Mapping[str, int] | None = None,
    exclusive: bool = False,
    selector: Selector | Mapping[str, str] | None = None,
    instance_names: Iterable[str] | None = None,
    demands: Iterable[Demand] | None = None,
    token: str | None = None,
    ttl: Seconds | None = None,
    strategy: PlacementStrategy | None = None,
    annotations: Mapping[str, str] | None = None,
    validate_only: bool = False,
    timeout_s: float | None = None,
) -> Operation[Grant]:
    """Asks for blocks, all of them or none. The answer means: held, durably.

    Args:
        fleet: Which fleet.
        holder: Who will have it, in your own words, 1..256 characters.
        blocks: How many blocks on each instance. With `exclusive`: how many it must have at least.
        instances: How many distinct instances.
        requirements: Instead of `blocks`: what is needed on each instance, such as `{"gpu": 2}`.
        exclusive: A wholly idle instance, all of it.
        selector: Only instances whose labels match. None: any.
        instance_names: Only these instances. None: any.
        demands: The long form, in place of the six arguments above: several shapes, granted together.
        token: Your name for this one intent, 1..64 printable ASCII characters. The same token with the same request
            gives the same grant, however often it is sent. None: a random one, which is the same for every retry.
        ttl: The lease. None: the fleet's default.
        strategy: How instances are chosen. None: the fleet's default.
        annotations: Kept with the allocation, for people and tools.
        validate_only: Says what would be granted or why not, and changes nothing. Not in a batch.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        NoCapacity: It fits, but not now.
        Unsatisfiable: It would not fit even if the whole fleet were idle.
        TokenMismatch: The token was used for another request.
        Ended: The token was cancelled, or what it was granted has ended since.
        OutcomeUnknown: No answer came. Ask again with the same token, or cancel it with `release_by_token`. Never with
            `validate_only`, which changes nothing: then it is `Unavailable` or `DeadlineExceeded`.
        CallFailed: Any other refusal, see `blockyard.errors`.
        ValueError: `demands` together with one of the arguments that it replaces, an empty `instance_names`, or a
            name of something else.
        TypeError: One string where several are asked for.
    """
    short_form = Demand(
        instances=instances,
        blocks=blocks,
        requirements=mapped(requirements, "requirements"),
        exclusive=exclusive,
        selector=selector,
        instance_names=None if instance_names is None else several(instance_names, "instance_names"),
    )
    if demands is not None and short_form != Demand():
        raise ValueError("demands replaces blocks, instances, requirements, exclusive, selector and instance_names")
    chosen = (short_form,) if demands is None else several(demands, "demands")
    token = str(uuid4()) if token is None else token
    request = pb.AcquireRequest(
        fleet=fleet_name(fleet),
        idempotency_token=token,
        holder=holder,
        demands=[encode_demand(fleet, demand) for demand in chosen],
        placement_strategy=encode_strategy(strategy),
        ttl=encode_duration(ttl),
        annotations=mapped(annotations, "annotations"),
        validate_only=validate_only,
    )
    advice = Advice(f"acquire again with token {token!r}, or release_by_token({short(fleet)!r}, {token!r})")
    if_unknown = None if validate_only else advice  # a release by a token that was only tried would cancel it
    return ACQUIRE.operation(request, decode_grant, timeout_s, if_unknown=if_unknown, token=token)


def release(
    allocation: Allocation | str,
    *,
    placements: Iterable[Placement] | None = None,
    holder: str | None = None,
    fencing_token: int | None = None,
    timeout_s: float | None = None,
) -> Operation[ReleaseResult]:
    """Ends an allocation, wholly or for some blocks. Repeating it is a success, and changes nothing.

    Args:
        allocation: What to release, or its full name.
        placements: Only these blocks; what is left stays held. None: all.
        holder: A guard: refused unless this is the holder. None: no guard.
        fencing_token: A guard: refused unless this is the allocation's fencing token. None: no guard.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        AllocationNotFound: There is no such allocation, or it ended long ago.
        GuardFailed: A guard does not hold, or `placements` names a block that was never granted.
        OutcomeUnknown: No answer came; it may be called again.
        CallFailed: Any other refusal.
        ValueError: A guard or `placements` is given, but empty; or a name is of something else.
    """
    name = allocation if isinstance(allocation, str) else allocation.name
    fleet = fleet_of(name)
    request = pb.ReleaseRequest(
        name=name,
        placements=[encode_placement(fleet, placement) for placement in some(placements, "placements")],
        holder=not_empty(holder, "holder"),
        fencing_token=not_empty(fencing_token, "fencing_token"),
    )
    return RELEASE.operation(request, decode_release, timeout_s, if_unknown=AGAIN)


def release_by_token(
    fleet: str,
    token: str,
    *,
    holder: str | None = None,
    fencing_token: int | None = None,
    timeout_s: float | None = None,
) -> Operation[ReleaseResult]:
    """Ends the allocation that this token was granted; if it was not, makes sure that it never will be.

    So an acquire whose answer never came can always be cancelled: nothing stays held by it.

    Args:
        fleet: Which fleet.
        token: The idempotency token of the acquire, known to the server or not.
        holder: A guard: refused unless this is the holder. None: no guard.
        fencing_token: A guard: refused unless this is the allocation's fencing token. None: no guard.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        GuardFailed: A guard does not hold.
        OutcomeUnknown: No answer came; it may be called again.
        CallFailed: Any other refusal.
        ValueError: A guard is given, but empty; or a name is of something else.
    """
    request = pb.ReleaseRequest(
        fleet=fleet_name(fleet),
        idempotency_token=token,
        holder=not_empty(holder, "holder"),
        fencing_token=not_empty(fencing_token, "fencing_token"),
    )
    return RELEASE.operation(request, decode_release, timeout_s, if_unknown=AGAIN)


def renew(
    allocation: Allocation | str,
    *,
    ttl: Seconds | None = None,
    holder: str | None = None,
    fencing_token: int | None = None,
    timeout_s: float | None = None,
) -> Operation[Renewal]:
    """Extends a lease to `ttl` from now. Never shortens it, never revives one that has ended.

    Args:
        allocation: Whose lease, or its full name.
        ttl: How long from now. None: the allocation's own.
        holder: A guard: refused unless this is the holder. None: no guard.
        fencing_token: A guard: refused unless this is the allocation's fencing token. None: no guard.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        Ended: It was released, or the lease has run out.
        AllocationNotFound: There is no such allocation, or it ended long ago.
        GuardFailed: A guard does not hold.
        OutcomeUnknown: No answer came; it may be called again.
        CallFailed: Any other refusal.
        ValueError: A guard is given, but empty.
    """
    name = allocation if isinstance(allocation, str) else allocation.name
    request = pb.RenewRequest(
        name=name,
        ttl=encode_duration(ttl),
        holder=not_empty(holder, "holder"),
        fencing_token=not_empty(fencing_token, "fencing_token"),
    )
    return RENEW.operation(request, decode_renewal, timeout_s, if_unknown=AGAIN)
