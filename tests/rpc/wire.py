"""What a test sees of a server: stubs to call it, and errors with their details unpacked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from blockyard.v1 import (
    access_pb2_grpc,
    allocator_pb2_grpc,
    fleet_admin_pb2,
    fleet_admin_pb2_grpc,
    ledger_pb2_grpc,
    resources_pb2,
)
from blockyard.v1 import allocator_pb2 as pb

_DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.ResourceInfo,
    error_details_pb2.RetryInfo,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.QuotaFailure,
)


@dataclass(frozen=True)
class Refusal:
    """An error as a client sees it."""

    code: grpc.StatusCode
    message: str
    details: dict[str, Any] = field(default_factory=dict)
    """By the name of the detail's message, such as `BadRequest`."""

    @property
    def reason(self) -> str:
        """The reason, empty where the error is the transport's own."""
        return self.details["ErrorInfo"].reason if "ErrorInfo" in self.details else ""

    @property
    def metadata(self) -> dict[str, str]:
        """The varying parts of the message."""
        return dict(self.details["ErrorInfo"].metadata)

    @property
    def fields(self) -> list[str]:
        """The fields that are wrong."""
        return [violation.field for violation in self.details["BadRequest"].field_violations]


class _WithMetadata:
    """A stub whose calls have this metadata."""

    def __init__(self, stub: object, metadata: Sequence[tuple[str, str]]) -> None:
        self._stub = stub
        self._metadata = tuple(metadata)

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._stub, name)
        return partial(call, metadata=self._metadata) if self._metadata else call


class Blockyard:
    """A client of the server at the other end of a channel."""

    def __init__(self, channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]] = ()) -> None:
        """`metadata` goes with each call."""
        self.channel = channel
        self.metadata = tuple(metadata)
        self.allocator: Any = _WithMetadata(allocator_pb2_grpc.AllocatorStub(channel), metadata)
        self.admin: Any = _WithMetadata(fleet_admin_pb2_grpc.FleetAdminStub(channel), metadata)
        self.ledger: Any = _WithMetadata(ledger_pb2_grpc.LedgerStub(channel), metadata)
        self.access: Any = _WithMetadata(access_pb2_grpc.AccessStub(channel), metadata)

    @property
    def stubs(self) -> tuple[Any, ...]:
        """Of all services."""
        return self.allocator, self.admin, self.ledger, self.access

    async def make_fleet(self, fleet: str, *instances: str, blocks: int = 8) -> None:
        """A fleet with instances of so many blocks."""
        await self.admin.CreateFleet(fleet_admin_pb2.CreateFleetRequest(fleet_id=fleet))
        for instance in instances:
            await self.admin.CreateInstance(
                fleet_admin_pb2.CreateInstanceRequest(
                    parent=f"fleets/{fleet}",
                    instance_id=instance,
                    instance=resources_pb2.Instance(total_blocks=blocks),
                )
            )


def acquire_request(token: str = "token-1", *, fleet: str = "gpu", blocks: int = 1) -> pb.AcquireRequest:
    """The plainest Acquire."""
    return pb.AcquireRequest(
        fleet=f"fleets/{fleet}", idempotency_token=token, holder="job-1", demands=[pb.Demand(blocks=blocks)]
    )


async def first_of(call: Any) -> Any:
    """The answer of a call, or the first one of a stream, which is left then."""
    if not isinstance(call, grpc.aio.UnaryStreamCall):
        return await call
    answer = await call.read()
    if answer is grpc.aio.EOF:
        raise AssertionError("the stream ended well, without an answer")
    call.cancel()
    return answer


async def refusal_of(call: Any) -> Refusal:
    """The error that a call ends with; fails if it ends well."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # typed for the blocking call, serves both
        return unpacked(error.code(), error.details() or "", status)
    raise AssertionError(f"was not refused: {answer}")


def unpacked(code: grpc.StatusCode, message: str, status: status_pb2.Status | None) -> Refusal:
    """An error with its details by name."""
    details = {}
    for packed in status.details if status is not None else ():
        for kind in _DETAILS:
            if packed.Is(kind.DESCRIPTOR):
                details[kind.DESCRIPTOR.name] = kind.FromString(packed.value)
    return Refusal(code, message, details)
