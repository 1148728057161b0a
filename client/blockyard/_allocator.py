"""The calls of the service Allocator that only read, and `batch`."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final

from blockyard._arguments import not_empty, several
from blockyard._call import Advice, Call, Listing, Method, Operation, Page, Plan, T
from blockyard._codec import (
    decode_allocation,
    decode_allocations_page,
    decode_fleet_page,
    encode_allocation_state,
    encode_view,
)
from blockyard._failures import failure_of_status
from blockyard._names import fleet_name, instance_name
from blockyard.enums import AllocationState, DescribeView
from blockyard.errors import CallFailed
from blockyard.types import Allocation, FleetPage, FleetSnapshot
from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import resources_pb2

PAGE_SIZE: Final = 1000
"""How many items a call asks for: the most that the server gives."""
DESCRIBE_RESTARTS: Final = 4
"""How often `describe` starts again if the fleet changes meanwhile, before it returns pages of different revisions."""

_SERVICE = "/blockyard.v1.Allocator"
DESCRIBE = Method(f"{_SERVICE}/Describe", pb.DescribeRequest, pb.DescribeResponse)
GET_ALLOCATION = Method(f"{_SERVICE}/GetAllocation", pb.GetAllocationRequest, resources_pb2.Allocation)
LIST_ALLOCATIONS = Method(f"{_SERVICE}/ListAllocations", pb.ListAllocationsRequest, pb.ListAllocationsResponse)
BATCH = Method(f"{_SERVICE}/Batch", pb.BatchRequest, pb.BatchResponse)


def describe_page(
    fleet: str,
    *,
    view: DescribeView = DescribeView.BASIC,
    page_size: int = PAGE_SIZE,
    page_token: str = "",
    timeout_s: float | None = None,
) -> Call[FleetPage]:
    """One page of a fleet's instances, and the totals of the whole fleet, at one revision.

    Args:
        fleet: Which fleet.
        view: How much the answer says about each instance.
        page_size: How many instances at most, up to 1000. A page may have fewer.
        page_token: The `next_page_token` of the page before, with the same `view`.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        FleetNotFound: There is no such fleet.
        CallFailed: Any other refusal.
    """
    request = pb.DescribeRequest(
        fleet=fleet_name(fleet), view=encode_view(view), page_size=page_size, page_token=page_token
    )
    return DESCRIBE.call(request, decode_fleet_page, timeout_s)


def describe(
    fleet: str, *, view: DescribeView = DescribeView.BASIC, timeout_s: float | None = None
) -> Plan[FleetSnapshot]:
    """Reads a whole fleet. If it changes between two pages, reads it again; see `FleetSnapshot.consistent`.

    Args:
        fleet: Which fleet.
        view: How much the answer says about each instance.
        timeout_s: How long each page may take, retries included. None: as the client says.

    Raises:
        FleetNotFound: There is no such fleet.
        CallFailed: Any other refusal.
    """
    pages: list[FleetPage] = []
    restarts = 0
    while not pages or pages[-1].next_page_token:
        page_token = pages[-1].next_page_token if pages else ""
        pages.append((yield describe_page(fleet, view=view, page_token=page_token, timeout_s=timeout_s)))
        if pages[-1].revision != pages[0].revision and restarts < DESCRIBE_RESTARTS:
            pages.clear()
            restarts += 1
    last = pages[-1]
    return FleetSnapshot(
        fleet=last.fleet,
        revision=last.revision,
        totals=last.totals,
        instances=tuple(instance for page in pages for instance in page.instances),
        server_time=last.server_time,
        consistent=pages[0].revision == last.revision,
    )


def get_allocation(name: str, *, timeout_s: float | None = None) -> Call[Allocation]:
    """One allocation, held or ended. Ended ones are kept for the server's retention, 7 days by default.

    Args:
        name: Its full name.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Raises:
        AllocationNotFound: There is no such allocation, or it ended longer ago.
        CallFailed: Any other refusal.
    """
    return GET_ALLOCATION.call(pb.GetAllocationRequest(name=name), decode_allocation, timeout_s)


def list_allocations(
    fleet: str,
    *,
    holder: str | None = None,
    state: AllocationState | None = None,
    instance: str | None = None,
    page_size: int = PAGE_SIZE,
    timeout_s: float | None = None,
) -> Listing[Allocation]:
    """A fleet's allocations in the order in which they were granted, read page by page as you iterate.

    Args:
        fleet: Which fleet.
        holder: Only this holder's. None: any.
        state: Only those in this state. None: any.
        instance: Only those that have, or at their end had, blocks on this instance. None: any.
        page_size: How many to ask for at a time, up to 1000.
        timeout_s: How long each page may take, retries included. None: as the client says.

    Raises:
        FleetNotFound: There is no such fleet.
        CallFailed: Any other refusal.
        ValueError: A filter is empty, or a name is that of another kind of resource.
    """
    request = pb.ListAllocationsRequest(
        parent=fleet_name(fleet),
        holder=not_empty(holder, "holder"),
        state=encode_allocation_state(state),
        instance=None if instance is None else instance_name(fleet, instance),
        page_size=page_size,
    )

    def page(page_token: str) -> Call[Page[Allocation]]:
        asked = pb.ListAllocationsRequest(page_token=page_token)
        asked.MergeFrom(request)
        return LIST_ALLOCATIONS.call(asked, decode_allocations_page, timeout_s)

    return Listing(page)


def batch(operations: Iterable[Operation[T]], *, timeout_s: float | None = None) -> Call[list[T | CallFailed]]:
    """Many operations in one call. The server carries out each by itself, in order: it is not a transaction.

    Args:
        operations: Made by the functions of `blockyard.operations`, up to 1000. Their own `timeout_s` is not used.
        timeout_s: How long it may take in all, retries included. None: as the client says.

    Returns:
        The outcome of each, in the same order: what the operation answers, or (not raised) why it failed. A failure
        inside the batch is not retried.

    Raises:
        OutcomeUnknown: No answer came. The same operations may be sent again.
        CallFailed: The batch as a whole was refused.
    """
    chosen = several(operations, "operations")
    request = pb.BatchRequest(operations=[_batched(operation) for operation in chosen])
    again = Advice("the same operations may be sent again")
    return BATCH.call(request, partial(_outcomes, chosen), timeout_s, if_unknown=again)


def _batched(operation: Operation[T]) -> pb.BatchOperation:
    if not isinstance(operation, Operation):
        raise TypeError(f"operations takes what the functions of blockyard.operations make, and not {operation!r}")
    match operation.request:
        case pb.AcquireRequest() as acquire:
            return pb.BatchOperation(acquire=acquire)
        case pb.ReleaseRequest() as release:
            return pb.BatchOperation(release=release)
        case pb.RenewRequest() as renew:
            return pb.BatchOperation(renew=renew)
        case other:
            raise ValueError(f"{type(other).__name__} cannot be a part of a batch")


def _outcomes(operations: Sequence[Operation[T]], answer: pb.BatchResponse) -> list[T | CallFailed]:
    return [
        failure_of_status(result.error) if kind == "error" else operation.decode(getattr(result, kind or ""))
        for operation, result in zip(operations, answer.results, strict=True)
        for kind in [result.WhichOneof("result")]
    ]
