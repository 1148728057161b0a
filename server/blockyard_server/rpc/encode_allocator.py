"""The Allocator's answers as messages, filled in place (see `times`): Acquire and Release are the hot path."""

from typing import Final

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import resources_pb2
from blockyard_server.domain.answers import (
    AllocationPage,
    AllocationView,
    BlockCounts,
    DescribePage,
    Grant,
    InstanceBlocks,
    ReleaseAnswer,
    ReleaseOutcome,
    Renewal,
)
from blockyard_server.rpc.enums import ENCODED_ALLOCATION_STATES, ENCODED_INSTANCE_STATES
from blockyard_server.rpc.names import encode_allocation_name, encode_fleet_name
from blockyard_server.rpc.page_tokens import encode_page_token
from blockyard_server.rpc.pages import fill_page
from blockyard_server.rpc.times import fill_duration, fill_timestamp

_OUTCOMES: Final = {
    ReleaseOutcome.RELEASED: pb.ReleaseResponse.RELEASED,
    ReleaseOutcome.ALREADY_RELEASED: pb.ReleaseResponse.ALREADY_RELEASED,
    ReleaseOutcome.ALREADY_EXPIRED: pb.ReleaseResponse.ALREADY_EXPIRED,
    ReleaseOutcome.CANCELLED_BEFORE_GRANT: pb.ReleaseResponse.CANCELLED_BEFORE_GRANT,
}


def fill_allocation(message: resources_pb2.Allocation, fleet: str, view: AllocationView) -> None:
    """Sets an allocation."""
    allocation = view.allocation
    message.name = encode_allocation_name(fleet, allocation.allocation)
    message.holder = allocation.holder
    message.state = ENCODED_ALLOCATION_STATES[allocation.state]
    prefix = f"fleets/{fleet}/instances/"
    add_placement = message.placements.add
    for instance, blocks in allocation.placements:
        placement = add_placement()
        placement.instance = prefix + instance
        placement.blocks.extend(blocks)
    message.fencing_token = allocation.allocation
    message.revision = allocation.revision
    fill_timestamp(message.grant_time, allocation.grant_time_us)
    if allocation.ttl_us is not None:
        fill_duration(message.ttl, allocation.ttl_us)
    if allocation.expire_time_us is not None:
        fill_timestamp(message.expire_time, allocation.expire_time_us)
    if allocation.end_time_us is not None:
        fill_timestamp(message.end_time, allocation.end_time_us)
    if allocation.annotations:
        message.annotations.update(allocation.annotations)
    message.idempotency_token = allocation.token
    if allocation.exclusive:
        own = [instance for instance, _ in allocation.placements if instance in allocation.exclusive]
        message.exclusive_instances.extend([prefix + instance for instance in own])
    if view.offline_instances:
        message.offline_instances.extend([prefix + instance for instance in view.offline_instances])


def fill_grant(message: pb.AcquireResponse, fleet: str, grant: Grant) -> None:
    """Sets the answer to Acquire."""
    fill_allocation(message.allocation, fleet, grant.view)
    message.revision = grant.revision
    fill_timestamp(message.server_time, grant.time_us)
    message.replayed = grant.replayed


def fill_release(message: pb.ReleaseResponse, fleet: str, answer: ReleaseAnswer) -> None:
    """Sets the answer to Release."""
    message.outcome = _OUTCOMES[answer.outcome]
    if answer.view is not None:
        fill_allocation(message.allocation, fleet, answer.view)
    message.revision = answer.revision
    fill_timestamp(message.server_time, answer.time_us)


def fill_renewal(message: pb.RenewResponse, fleet: str, renewal: Renewal) -> None:
    """Sets the answer to Renew."""
    fill_allocation(message.allocation, fleet, renewal.view)
    message.revision = renewal.revision
    fill_timestamp(message.server_time, renewal.time_us)


def encode_grant(fleet: str, grant: Grant) -> pb.AcquireResponse:
    """The answer to Acquire."""
    message = pb.AcquireResponse()
    fill_grant(message, fleet, grant)
    return message


def encode_release(fleet: str, answer: ReleaseAnswer) -> pb.ReleaseResponse:
    """The answer to Release."""
    message = pb.ReleaseResponse()
    fill_release(message, fleet, answer)
    return message


def encode_renewal(fleet: str, renewal: Renewal) -> pb.RenewResponse:
    """The answer to Renew."""
    message = pb.RenewResponse()
    fill_renewal(message, fleet, renewal)
    return message


def encode_allocation(fleet: str, view: AllocationView) -> resources_pb2.Allocation:
    """One allocation."""
    message = resources_pb2.Allocation()
    fill_allocation(message, fleet, view)
    return message


def encode_allocation_page(fleet: str, page: AllocationPage, scope: tuple[object, ...]) -> pb.ListAllocationsResponse:
    """A page of allocations."""
    message = pb.ListAllocationsResponse(revision=page.revision)
    last = fill_page(message.allocations, page.views, lambda allocation, view: fill_allocation(allocation, fleet, view))
    cursor = page.next_after if last is None else last.allocation.allocation
    message.next_page_token = encode_page_token(scope, cursor)
    return message


def _fill_counts(message: resources_pb2.BlockCounts, counts: BlockCounts) -> None:
    message.instances = counts.instances
    message.total_blocks = counts.total_blocks
    message.busy_blocks = counts.busy_blocks
    message.idle_blocks = counts.idle_blocks
    message.acquirable_blocks = counts.acquirable_blocks


def _fill_instance_blocks(message: pb.InstanceBlocks, fleet: str, prefix: str, instance: InstanceBlocks) -> None:
    message.instance = prefix + instance.instance
    message.state = ENCODED_INSTANCE_STATES[instance.state]
    message.total_blocks = instance.total_blocks
    message.busy_blocks = instance.busy_blocks
    message.idle_blocks = instance.total_blocks - instance.busy_blocks
    for hold in instance.holds:
        message.holds.add(
            allocation=encode_allocation_name(fleet, hold.allocation), holder=hold.holder, blocks=hold.blocks
        )


def encode_snapshot(snapshot: DescribePage, scope: tuple[object, ...]) -> pb.DescribeResponse:
    """A page of a snapshot. The engine bounds its weight: an instance's row does not tell its order."""
    fleet = snapshot.fleet
    message = pb.DescribeResponse(fleet=encode_fleet_name(fleet), revision=snapshot.revision)
    _fill_counts(message.totals, snapshot.totals)
    prefix = f"fleets/{fleet}/instances/"
    for instance in snapshot.instances:
        _fill_instance_blocks(message.instances.add(), fleet, prefix, instance)
    message.next_page_token = encode_page_token(scope, snapshot.next_after)
    fill_timestamp(message.server_time, snapshot.time_us)
    return message
