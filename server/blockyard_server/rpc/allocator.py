"""The servicer of `blockyard.v1.Allocator`: decode, ask the service, encode.

A handler holds nothing and starts nothing: if its call is cancelled, the work that it submitted goes on.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import grpc

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import allocator_pb2_grpc, resources_pb2
from blockyard_server.domain.answers import Answer, Grant, ReleaseAnswer, Renewal
from blockyard_server.domain.errors import InvalidRequest, NotPermitted, Refused
from blockyard_server.domain.policy import Permission
from blockyard_server.engine.failures import WatcherTooSlow
from blockyard_server.engine.service import Service
from blockyard_server.rpc.audit_log import AuditLog
from blockyard_server.rpc.auth.principal import current_principal
from blockyard_server.rpc.authorization import expect_permitted
from blockyard_server.rpc.caller import asked_by_caller, asker_for, asker_of, decode_caller
from blockyard_server.rpc.decode_allocator import (
    Operation,
    decode_acquire,
    decode_one_by_one,
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
from blockyard_server.rpc.slices import Slices
from blockyard_server.rpc.visibility import Visibility

_Context = grpc.aio.ServicerContext[Any, Any]


class AllocatorServicer(allocator_pb2_grpc.AllocatorServicer):
    """For schedulers. What each RPC means, its limits and its errors are in `allocator.proto`."""

    def __init__(self, service: Service, audit_log: AuditLog) -> None:
        self._service = service
        self._audit_log = audit_log
        self._slices = Slices()

    async def Acquire(self, request: pb.AcquireRequest, context: _Context) -> pb.AcquireResponse:
        """Grants every demand of the request, or none."""
        caller = decode_caller(context)
        acquire = asked_by_caller(decode_acquire(request, caller))
        return encode_grant(acquire.fleet, await self._service.submit(acquire, asker_for(caller)))

    async def Release(self, request: pb.ReleaseRequest, context: _Context) -> pb.ReleaseResponse:
        """Ends an allocation, wholly or for some blocks."""
        caller = decode_caller(context)
        release = asked_by_caller(decode_release(request, caller))
        answer = await self._service.submit(release, asker_for(caller))
        return encode_release(release.fleet, _shown(release.fleet, answer))

    async def Renew(self, request: pb.RenewRequest, context: _Context) -> pb.RenewResponse:
        """Extends a lease."""
        renew = asked_by_caller(decode_renew(request))
        return encode_renewal(renew.fleet, await self._service.submit(renew, asker_of(context)))

    async def Describe(self, request: pb.DescribeRequest, context: _Context) -> pb.DescribeResponse:
        """One page of a snapshot."""
        page = decode_describe(request)
        snapshot = await self._service.describe(page.fleet, full=page.where, after=page.after, limit=page.limit)
        if page.where:
            snapshot = await _visibility(page.fleet).snapshot(snapshot, self._service.callers_of)
        return encode_snapshot(snapshot, page.scope)

    async def GetAllocation(self, request: pb.GetAllocationRequest, context: _Context) -> resources_pb2.Allocation:
        """One allocation."""
        fleet, allocation = decode_allocation_only(request.name)
        view = await self._service.get_allocation(fleet, allocation)
        return encode_allocation(fleet, _visibility(fleet).allocation(view))

    async def ListAllocations(
        self, request: pb.ListAllocationsRequest, context: _Context
    ) -> pb.ListAllocationsResponse:
        """One page of allocations."""
        page = decode_list_allocations(request)
        visibility = _visibility(page.fleet)
        where = visibility.narrowed(page.where)
        found = await self._service.list_allocations(page.fleet, where, after=page.after, limit=page.limit)
        return encode_allocation_page(page.fleet, visibility.allocations(found), page.scope)

    async def Watch(self, request: pb.WatchRequest, context: _Context) -> AsyncIterator[pb.WatchResponse]:
        """The journal as it grows."""
        asked = decode_watch(request)
        visibility = _visibility(asked.fleet)
        visibility.expect_searchable(asked.where)
        async with aclosing(self._service.watch(asked)) as pages:
            async for each in pages:
                page = each
                if not visibility.is_whole:
                    page = replace(each, events=await visibility.events(each.events, self._service.callers_of))
                for answer in encode_watch_page(asked.fleet, page):
                    try:
                        yield answer
                    except WatcherTooSlow:
                        # The answer that did not get through is still in gRPC's hands, ahead of this error: whoever
                        # reads on after all gets both, so the answer counts as sent.
                        raise _too_slow(asked.fleet, answer.revision) from None

    async def Batch(self, request: pb.BatchRequest, context: _Context) -> pb.BatchResponse:
        """Many operations, each with its own outcome, in order."""
        caller = decode_caller(context)
        asker, length = asker_for(caller), len(request.operations)
        denied: dict[str, NotPermitted] = {}
        decoded = (_permitted(one, denied) for one in decode_one_by_one(request, caller))
        operations = await self._slices.run(decoded, length, asker.tenant)
        accepted = [one for one in operations if not isinstance(one, Refused)]
        answers = iter(await self._service.submit_many(accepted, asker) if accepted else ())
        results = [one if isinstance(one, Refused) else next(answers) for one in operations]
        for result in results:
            if isinstance(result, Refused):
                self._audit_log.note_denial("Batch", result)
        message = pb.BatchResponse()
        await self._slices.run(_encode_results(message, operations, results), length, asker.tenant)
        return message


def _visibility(fleet: str) -> Visibility:
    return Visibility(current_principal(), fleet)


def _shown(fleet: str, answer: ReleaseAnswer) -> ReleaseAnswer:
    """As who asks may see it: an operator who releases another tenant's allocation does not see its token."""
    if answer.view is None:
        return answer
    return answer._replace(view=_visibility(fleet).changed(answer.view))


def _permitted(operation: Operation | InvalidRequest, denied: dict[str, NotPermitted]) -> Operation | Refused:
    """An operation of a batch with who asks it, or its refusal, in its place. `denied` has those of the batch so far.

    There is one for a fleet: thousands of operations that are denied must not cost more than those that are not.
    """
    if isinstance(operation, InvalidRequest):
        return operation
    principal, fleet = current_principal(), operation.fleet
    if not principal.is_known:
        return operation
    if fleet not in denied:
        try:
            expect_permitted(principal, Permission.ACQUIRE, fleet)
        except NotPermitted as refusal:
            denied[fleet] = refusal
        else:
            return asked_by_caller(operation)
    return denied[fleet]


def _too_slow(fleet: str, revision: int) -> WatcherTooSlow:
    message = f"what is sent is not read; watch fleet {fleet} on from the revision after {revision}"
    return WatcherTooSlow(message, fleet=f"fleets/{fleet}", revision=revision)


def _encode_results(
    message: pb.BatchResponse, operations: Sequence[Operation | Refused], results: Sequence[Answer | Exception]
) -> Iterator[None]:
    """Fills the answer, one result after the other."""
    add_result = message.results.add
    denied: dict[int, Any] = {}
    for operation, result in zip(operations, results, strict=True):
        into = add_result()
        match result:
            case Grant() if not isinstance(operation, Refused):
                fill_grant(into.acquire, operation.fleet, result)
            case ReleaseAnswer() if not isinstance(operation, Refused):
                fill_release(into.release, operation.fleet, _shown(operation.fleet, result))
            case Renewal() if not isinstance(operation, Refused):
                fill_renewal(into.renew, operation.fleet, result)
            case NotPermitted():
                if id(result) not in denied:
                    denied[id(result)] = encode_failure(result)
                into.error.CopyFrom(denied[id(result)])
            case Exception():
                into.error.CopyFrom(encode_failure(failure_of(result)))
            case _:
                raise AssertionError(f"a batch's operation was answered with {type(result)}")
        yield
