"""Between what a history records and what goes over the wire: the SDK's own requests, and the answers in short."""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from blockyard import AllocationState, AsyncClient, CallFailed, Demand, DescribeView, Placement, operations
from blockyard._allocator import describe_page, get_allocation, list_allocations
from blockyard._call import Call
from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import resources_pb2
from tests.history.record import (
    Acquire,
    Answer,
    Asked,
    Describe,
    Described,
    Event,
    Freed,
    Get,
    Got,
    Granted,
    Listed,
    ListHeld,
    Placements,
    Refused,
    Release,
    Renew,
    Renewed,
    View,
)

SETTING_UP: Final = {"FLEET_CREATED", "INSTANCE_CREATED"}
"""Events before the first call of a history."""
ANSWERS: Final = {"NO_CAPACITY", "TOKEN_CANCELLED", "ALLOCATION_ENDED", "LEASE_EXPIRED", "OVERLOADED"}
"""Refusals that are answers. Any other reason of an UNAVAILABLE leaves the outcome unknown."""
UNKNOWN: Final = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL"}
"""Statuses that say nothing about what happened, unless a refusal is among `ANSWERS`."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def instance_id(instance: int) -> str:
    """The name of an instance by its place in the order of registration."""
    return f"node-{instance}"


def encode_call(fleet: str, holder: str, asked: Asked) -> Call[Any]:
    """The SDK's call."""
    match asked:
        case Acquire():
            demands = [
                Demand(
                    instances=shape.instances,
                    blocks=shape.blocks,
                    exclusive=shape.exclusive,
                    instance_names=None if shape.on is None else (instance_id(shape.on),),
                )
                for shape in asked.shapes
            ]
            ttl_s = None if asked.ttl_ms is None else asked.ttl_ms / 1000
            return operations.acquire(fleet, holder=holder, demands=demands, token=asked.token, ttl=ttl_s)
        case Release():
            if asked.token is not None:
                return operations.release_by_token(fleet, asked.token)
            parts = [Placement(instance_id(instance), _blocks(mask)) for instance, mask in asked.placements]
            return operations.release(_name(fleet, asked.allocation), placements=parts or None)
        case Renew():
            return operations.renew(_name(fleet, asked.allocation), ttl=asked.ttl_ms / 1000)
        case _:
            return _encode_read(fleet, asked)


def _encode_read(fleet: str, asked: Describe | Get | ListHeld) -> Call[Any]:
    match asked:
        case Describe():
            return describe_page(fleet, view=DescribeView.FULL if asked.full else DescribeView.BASIC)
        case Get():
            return get_allocation(_name(fleet, asked.allocation))
        case _:
            return list_allocations(fleet, state=AllocationState.HELD).page("")


def _name(fleet: str, allocation: int | None) -> str:
    return f"fleets/{fleet}/allocations/{allocation}"


def _blocks(mask: int) -> tuple[int, ...]:
    return tuple(block for block in range(mask.bit_length()) if mask >> block & 1)


def decode_answer(asked: Asked, message: Any) -> Answer:
    """The answer to such a call."""
    match message:
        case pb.AcquireResponse():
            view = _view(message.allocation)
            assert message.revision == view.revision, "the answer's revision is the allocation's last"
            return Granted(view, message.replayed)
        case pb.ReleaseResponse():
            shown = _view(message.allocation) if message.HasField("allocation") else None
            return Freed(pb.ReleaseResponse.Outcome.Name(message.outcome), shown, message.revision)
        case pb.RenewResponse():
            return Renewed(_view(message.allocation))
        case pb.DescribeResponse():
            return _described(message, full=isinstance(asked, Describe) and asked.full)
        case pb.ListAllocationsResponse():
            assert not message.next_page_token, "more is held than fits on a page"
            return Listed(message.revision, tuple([_view(each) for each in message.allocations]))
        case _:
            assert isinstance(message, resources_pb2.Allocation)
            return Got(_view(message))


def decode_refusal(failure: CallFailed) -> Answer | None:
    """A refusal, or None: the outcome is unknown. Raises CallFailed for what must never happen."""
    if failure.reason in ANSWERS:
        name = failure.metadata.get("allocation")
        return Refused(failure.reason, None if name is None else _number(name))
    if failure.status in UNKNOWN and failure.reason != "INTERNAL_ERROR":
        return None
    raise failure


def _described(message: pb.DescribeResponse, *, full: bool) -> Described:
    assert not message.next_page_token, "more instances than fit on a page"
    holds = sorted(
        (place, _number(hold.allocation), _mask(hold.blocks))
        for place, instance in enumerate(message.instances)
        for hold in instance.holds
    )
    totals = message.totals
    return Described(
        message.revision,
        totals.busy_blocks,
        totals.idle_blocks,
        tuple([instance.busy_blocks for instance in message.instances]),
        tuple([instance.idle_blocks for instance in message.instances]),
        tuple(holds) if full else None,
    )


def _number(name: str) -> int:
    return int(name.rpartition("/")[2])


def _mask(blocks: Iterable[int]) -> int:
    return sum(1 << block for block in blocks)


def _view(message: resources_pb2.Allocation) -> View:
    return View(
        _number(message.name),
        message.idempotency_token,
        resources_pb2.Allocation.State.Name(message.state),
        _placements(message.placements),
        message.revision,
        _micros(message.expire_time) if message.HasField("expire_time") else None,
    )


def _placements(messages: Iterable[Any]) -> Placements:
    return tuple([(int(each.instance.rpartition("-")[2]), _mask(each.blocks)) for each in messages])


def _micros(message: Timestamp) -> int:
    return message.seconds * 1_000_000 + message.nanos // 1000


async def read_journal(client: AsyncClient, fleet: str) -> AsyncIterator[Event]:
    """A fleet's journal, after its setting up."""
    async for event in client.list_events(fleet):
        if event.kind in SETTING_UP:
            continue
        yield Event(
            event.revision,
            str(event.kind),
            (event.time - _EPOCH) // _MICROSECOND,
            None if event.allocation is None else _number(event.allocation),
            _placements(event.placements),
            None if event.expire_time is None else (event.expire_time - _EPOCH) // _MICROSECOND,
            event.idempotency_token,
            event.ended,
        )
