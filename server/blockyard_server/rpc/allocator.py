"""The servicer of `blockyard.v1.Allocator`: decode, ask the service, encode.

A handler holds nothing and starts nothing: if its call is cancelled, the work that it submitted goes on.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import allocator_pb2_grpc, resources_pb2
from blockyard_server.domain.answers import Answer, Grant, ReleaseAnswer, Renewal
from blockyard_server.domain.errors import InvalidRequest
from blockyard_server.engine.failures import WatcherTooSlow
from blockyard_server.engine.service import Service
from blockyard_server.rpc.caller import decode_caller
from blockyard_server.rpc.decode_allocator import (
    Operation,
    decode_acquire,
    decode_operations,
    decode_release,
    decode_renew,
)
from blockyard_server.rpc.decode_reads import (
    decode_allocation_only,
    decode_describe,
    decode_list_allocations,
    decode_watch,
)
from blockyard_server.rpc.encode_allocator import (
    encode_allocation,
    encode_allocation_page,
    encode_grant,
    encode_release,
    encode_renewal,
    encode_snapshot,
    fill_grant,
    fill_release,
    fill_renewal,
)
from blockyard_server.rpc.encode_ledger import encode_watch_page
from blockyard_server.rpc.error_answers import failure_of
from blockyard_server.rpc.errors import encode_failure

_Context = grpc.aio.ServicerContext[Any, Any]


class AllocatorServicer(allocator_pb2_grpc.AllocatorServicer):
    """For schedulers. What each RPC means, its limits and its errors are in `allocator.proto`."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def Acquire(self, request: pb.AcquireRequest, context: _Context) -> pb.AcquireResponse:
        """Grants every demand of the request, or none."""
        acquire = decode_acquire(request, decode_caller(context))
        return encode_grant(acquire.fleet, await self._service.submit(acquire))

    async def Release(self, request: pb.ReleaseRequest, context: _Context) -> pb.ReleaseResponse:
        """Ends an allocation, wholly or for some blocks."""
        release = decode_release(request, decode_caller(context))
        return encode_release(release.fleet, await self._service.submit(release))

    async def Renew(self, request: pb.RenewRequest, context: _Context) -> pb.RenewResponse:
        """Extends a lease."""
        renew = decode_renew(request)
        return encode_renewal(renew.fleet, await self._service.submit(renew))

    async def Describe(self, request: pb.DescribeRequest, context: _Context) -> pb.DescribeResponse:
        """One page of a snapshot."""
        page = decode_describe(request)
        snapshot = await self._service.describe(page.fleet, full=page.where, after=page.after, limit=page.limit)
        return encode_snapshot(snapshot, page.scope)

    async def GetAllocation(self, request: pb.GetAllocationRequest, context: _Context) -> resources_pb2.Allocation:
        """One allocation."""
        fleet, allocation = decode_allocation_only(request.name)
        return encode_allocation(fleet, await self._service.get_allocation(fleet, allocation))

    async def ListAllocations(
        self, request: pb.ListAllocationsRequest, context: _Context
    ) -> pb.ListAllocationsResponse:
        """One page of allocations."""
        page = decode_list_allocations(request)
        found = await self._service.list_allocations(page.fleet, page.where, after=page.after, limit=page.limit)
        return encode_allocation_page(page.fleet, found, page.scope)

    async def Watch(self, request: pb.WatchRequest, context: _Context) -> AsyncIterator[pb.WatchResponse]:
        """The journal as it grows."""
        asked = decode_watch(request)
        async with aclosing(self._service.watch(asked)) as pages:
            async for page in pages:
                for answer in encode_watch_page(asked.fleet, page):
                    try:
                        yield answer
                    except WatcherTooSlow:
                        # The answer that did not get through is still in gRPC's hands, ahead of this error: whoever
                        # reads on after all gets both, so the answer counts as sent.
                        raise _too_slow(asked.fleet, answer.revision) from None

    async def Batch(self, request: pb.BatchRequest, context: _Context) -> pb.BatchResponse:
        """Many operations, each with its own outcome, in order."""
        operations = decode_operations(request, decode_caller(context))
        well_formed = [one for one in operations if not isinstance(one, InvalidRequest)]
        answers = iter(await self._service.submit_many(well_formed) if well_formed else ())
        results = [one if isinstance(one, InvalidRequest) else next(answers) for one in operations]
        return _encode_results(operations, results)


def _too_slow(fleet: str, revision: int) -> WatcherTooSlow:
    message = f"what is sent is not read; watch fleet {fleet} on from the revision after {revision}"
    return WatcherTooSlow(message, fleet=f"fleets/{fleet}", revision=revision)


def _encode_results(
    operations: Sequence[Operation | InvalidRequest], results: Sequence[Answer | Exception]
) -> pb.BatchResponse:
    message = pb.BatchResponse()
    add_result = message.results.add
    for operation, result in zip(operations, results, strict=True):
        into = add_result()
        match result:
            case Grant() if not isinstance(operation, InvalidRequest):
                fill_grant(into.acquire, operation.fleet, result)
            case ReleaseAnswer() if not isinstance(operation, InvalidRequest):
                fill_release(into.release, operation.fleet, result)
            case Renewal() if not isinstance(operation, InvalidRequest):
                fill_renewal(into.renew, operation.fleet, result)
            case Exception():
                into.error.CopyFrom(encode_failure(failure_of(result)))
            case _:
                raise AssertionError(f"a batch's operation was answered with {type(result)}")
    return message
