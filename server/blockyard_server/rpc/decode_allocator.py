"""The Allocator's requests out of their messages. Every function raises InvalidRequest, naming all bad fields."""

from collections.abc import Iterator, Sequence

from blockyard.v1 import allocator_pb2 as pb
from blockyard_server.domain import limits
from blockyard_server.domain.blocks import Blocks, Placements
from blockyard_server.domain.errors import InvalidRequest
from blockyard_server.domain.requests import Acquire, Release, Renew
from blockyard_server.rpc.decode_demand import blocks_asked, check_selector_values, decode_demands
from blockyard_server.rpc.enums import STRATEGIES, STRATEGY_RULE
from blockyard_server.rpc.fields import (
    NEW_HOLDER_RULE,
    TOKEN_RULE,
    Violations,
    decode_annotations,
    decode_fencing_token,
    decode_guard_holder,
    decode_ttl_us,
    is_new_holder,
    is_token,
    raise_if_any,
)
from blockyard_server.rpc.names import decode_allocation, decode_fleet, decode_instance_of

Operation = Acquire | Release | Renew
"""What a batch is made of."""


def decode_acquire(request: pb.AcquireRequest, caller: str) -> Acquire:
    """An Acquire, complete: what is None is the fleet's to choose."""
    bad: Violations = []
    token, holder = request.idempotency_token, request.holder
    fleet = decode_fleet(request.fleet, "fleet", bad)
    if not is_token(token):
        bad.append(("idempotency_token", TOKEN_RULE))
    if not is_new_holder(holder):
        bad.append(("holder", NEW_HOLDER_RULE))
    demands = decode_demands(request.demands, fleet, bad)
    if request.placement_strategy not in STRATEGIES:
        bad.append(("placement_strategy", STRATEGY_RULE))
    ttl_us = decode_ttl_us(request.ttl, "ttl", bad) if request.HasField("ttl") else None
    annotations = decode_annotations(request.annotations, bad) if request.annotations else {}
    raise_if_any(bad)
    return Acquire(
        fleet=fleet,
        caller=caller,
        token=token,
        holder=holder,
        demands=demands,
        strategy=STRATEGIES[request.placement_strategy],
        ttl_us=ttl_us,
        annotations=annotations,
        validate_only=request.validate_only,
    )


def decode_release(request: pb.ReleaseRequest, caller: str) -> Release:
    """A Release by name or by token."""
    bad: Violations = []
    allocation: int | None = None
    token: str | None = None
    match request.WhichOneof("target"):
        case "name":
            fleet, allocation = decode_allocation(request.name, "name", bad)
            if request.fleet and fleet and request.fleet != f"fleets/{fleet}":
                bad.append(("fleet", f"must be empty or the fleet in `name`, fleets/{fleet}"))
        case "idempotency_token":
            fleet, token = decode_fleet(request.fleet, "fleet", bad), request.idempotency_token
            if not is_token(token):
                bad.append(("idempotency_token", TOKEN_RULE))
            if request.placements:
                bad.append(("placements", "must be empty where idempotency_token is the target"))
        case _:
            fleet = ""
            bad.append(("target", "one of name and idempotency_token is required"))
    placements = _decode_placements(request, fleet, bad) if request.placements else ()
    holder, fencing_token = _decode_guards(request, bad)
    raise_if_any(bad)
    return Release(
        fleet=fleet,
        caller=caller,
        allocation=allocation,
        token=token,
        placements=placements,
        holder=holder,
        fencing_token=fencing_token,
    )


def _decode_guards(request: pb.ReleaseRequest | pb.RenewRequest, bad: Violations) -> tuple[str | None, int | None]:
    return (
        decode_guard_holder(request.holder if request.HasField("holder") else None, bad),
        decode_fencing_token(request.fencing_token if request.HasField("fencing_token") else None, bad),
    )


def _decode_placements(request: pb.ReleaseRequest, fleet: str, bad: Violations) -> Placements:
    placements = request.placements
    if len(placements) > limits.MAX_INSTANCES_PER_REQUEST:
        problem = f"has {len(placements)} entries; at most {limits.MAX_INSTANCES_PER_REQUEST} are allowed"
        bad.append(("placements", problem))
        return ()
    decoded: dict[str, Blocks] = {}
    for i, placement in enumerate(placements):
        path = f"placements[{i}]"
        instance = decode_instance_of(fleet, placement.instance, f"{path}.instance", bad)
        if instance and instance in decoded:
            bad.append((f"{path}.instance", "is named twice; name all of its blocks in one placement"))
        decoded[instance] = _decode_blocks(placement.blocks, f"{path}.blocks", bad)
    return tuple(decoded.items())


def _decode_blocks(blocks: Sequence[int], path: str, bad: Violations) -> Blocks:
    # No blocks at all must not come to mean all blocks.
    if not 1 <= len(blocks) <= limits.MAX_BLOCKS_PER_INSTANCE:
        bad.append((path, f"has {len(blocks)} entries; 1..{limits.MAX_BLOCKS_PER_INSTANCE} are allowed"))
        return ()
    decoded = tuple(sorted(set(blocks)))
    if decoded[0] < 0 or decoded[-1] >= limits.MAX_BLOCKS_PER_INSTANCE:
        bad.append((path, f"must be block numbers, 0..{limits.MAX_BLOCKS_PER_INSTANCE - 1}"))
    if len(decoded) != len(blocks):
        bad.append((path, "names a block twice"))
    return decoded


def decode_renew(request: pb.RenewRequest) -> Renew:
    """A Renew."""
    bad: Violations = []
    fleet, allocation = decode_allocation(request.name, "name", bad)
    ttl_us = decode_ttl_us(request.ttl, "ttl", bad) if request.HasField("ttl") else None
    holder, fencing_token = _decode_guards(request, bad)
    raise_if_any(bad)
    return Renew(fleet=fleet, allocation=allocation, ttl_us=ttl_us, holder=holder, fencing_token=fencing_token)


def decode_operations(request: pb.BatchRequest, caller: str) -> list[Operation | InvalidRequest]:
    """A batch's operations in their order; a malformed one is its own refusal, in its place.

    Raises, for the batch as a whole: InvalidRequest for its length or its blocks, LimitExceeded for its selectors.
    """
    return list(decode_one_by_one(request, caller))


def decode_one_by_one(request: pb.BatchRequest, caller: str) -> Iterator[Operation | InvalidRequest]:
    """The same, for who does something else in between. Nothing may be carried out before the end is reached."""
    operations = request.operations
    if not 1 <= len(operations) <= limits.MAX_BATCH_OPERATIONS:
        problem = f"has {len(operations)} entries; 1..{limits.MAX_BATCH_OPERATIONS} are allowed"
        raise InvalidRequest(("operations", problem))
    _check_number_of_parts(operations)
    check_selector_values([operation.acquire.demands for operation in operations])
    blocks = 0
    for operation in operations:
        try:
            one = _decode_operation(operation, caller)
        except InvalidRequest as refusal:
            yield refusal
            continue
        if isinstance(one, Acquire):
            blocks += blocks_asked(one.demands)
        yield one
    if blocks > limits.MAX_BLOCKS_PER_REQUEST:
        problem = f"asks for {blocks} blocks in all; at most {limits.MAX_BLOCKS_PER_REQUEST} are allowed"
        raise InvalidRequest(("operations", problem))


def _check_number_of_parts(operations: Sequence[pb.BatchOperation]) -> None:
    """Each demand and each placement is about a block at least: of more than blocks none is decoded.

    Raises InvalidRequest. What is refused for its own number is not counted.
    """
    demands = sum([n for one in operations if (n := len(one.acquire.demands)) <= limits.MAX_DEMANDS])
    placements = [n for one in operations if (n := len(one.release.placements)) <= limits.MAX_INSTANCES_PER_REQUEST]
    count = demands + sum(placements)
    if count > limits.MAX_BLOCKS_PER_REQUEST:
        problem = f"has {count} demands and placements in all; at most {limits.MAX_BLOCKS_PER_REQUEST} are allowed"
        raise InvalidRequest(("operations", problem))


def _decode_operation(operation: pb.BatchOperation, caller: str) -> Operation:
    match operation.WhichOneof("operation"):
        case "acquire":
            if operation.acquire.validate_only:
                raise InvalidRequest(("validate_only", "is not possible in a batch"))
            return decode_acquire(operation.acquire, caller)
        case "release":
            return decode_release(operation.release, caller)
        case "renew":
            return decode_renew(operation.renew)
        case _:
            raise InvalidRequest(("operation", "one of acquire, release and renew is required"))
