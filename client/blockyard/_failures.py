"""From gRPC's errors to the exception tree: the ErrorInfo's reason decides, then the status."""

import re
from typing import Final

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from blockyard.errors import BY_REASON, CallFailed, DeadlineExceeded, FieldViolation, LimitExceeded, Unavailable
from blockyard.reasons import DOMAIN

_DETAILS_KEY: Final = "grpc-status-details-bin"
_BY_STATUS: Final = {"UNAVAILABLE": Unavailable, "DEADLINE_EXCEEDED": DeadlineExceeded}

_TOO_LARGE: Final = re.compile(r"(SERVER|CLIENT): Received message larger than max \((\d+) vs\. (\d+)\)")
"""What gRPC says itself, before any Blockyard has seen the message."""


def failure_of_error(error: grpc.RpcError, *, cancelled_here: bool = False) -> CallFailed:
    """The exception for an RPC that gRPC reports as failed.

    A CANCELLED without details is no answer of a Blockyard: a server's gRPC, a proxy or a server that ends has dropped
    the call. That is `Unavailable`, unless this side has cancelled it (`cancelled_here`).
    """
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return failure_of_status(Status.FromString(value))
    code: grpc.StatusCode = error.code()
    if code is grpc.StatusCode.CANCELLED and not cancelled_here:
        return Unavailable(f"the call was dropped on its way ({error.details() or code.name})", status="UNAVAILABLE")
    too_large = _TOO_LARGE.search(error.details() or "")
    if too_large is not None:
        return _too_large(*too_large.groups())
    return _failure(code.name, error.details() or "", [])


def _too_large(side: str, size: str, most: str) -> LimitExceeded:
    what, limit, who = (
        ("request", "max_request_bytes", "server") if side == "SERVER" else ("answer", "max_answer_bytes", "client")
    )
    message = (
        f"the {what} has {size} bytes, and this {who} accepts {most}: ask for less at once, such as with fewer "
        "operations in a batch"
    )
    return LimitExceeded(message, status="RESOURCE_EXHAUSTED", metadata={"limit": limit, "maximum": most})


def failure_of_status(status: Status) -> CallFailed:
    """The exception for a status with its details, as it comes in trailing metadata or inside a batch."""
    name = Code.Name(status.code) if status.code in Code.values() else "UNKNOWN"
    return _failure(name, status.message, list(status.details))


def _failure(status: str, message: str, details: list[AnyMessage]) -> CallFailed:
    info, bad_request, retry_info = ErrorInfo(), BadRequest(), RetryInfo()
    for detail in details:
        # Unpack fills the one message that is of the detail's type, and leaves the others alone.
        detail.Unpack(info) or detail.Unpack(bad_request) or detail.Unpack(retry_info)
    reason = info.reason if info.domain == DOMAIN else ""
    kind = BY_REASON.get(reason) or _BY_STATUS.get(status, CallFailed)
    delay = retry_info.retry_delay.ToTimedelta() if retry_info.HasField("retry_delay") else None
    return kind(
        message or f"the server answered {status}",
        status=status,
        reason=reason or None,
        metadata=dict(info.metadata),
        field_violations=tuple(FieldViolation(each.field, each.description) for each in bad_request.field_violations),
        retry_delay=delay,
    )
