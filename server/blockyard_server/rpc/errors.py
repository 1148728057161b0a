"""Refusals and failures as google.rpc.Status (AIP-193), from the table that server and clients share.

Every error carries an ErrorInfo; the other details follow from its reason. All of it stays far below the
8 KB of metadata that gRPC peers accept: beyond that a client sees an unreadable error instead of this one.
"""

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from blockyard.reasons import DOMAIN, REASONS, Reason
from blockyard_server.domain.errors import InvalidRequest, Refused
from blockyard_server.engine.failures import EngineFailure
from blockyard_server.rpc.call import current_call

Failure = Refused | EngineFailure
"""Whatever is answered with an error on purpose."""

Abort = tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]
"""Status code, message, trailing metadata."""

MAX_STATUS_BYTES: Final = 4096
"""The whole Status, 5.5 KB in the base64 that metadata may need."""
MAX_MESSAGE_BYTES: Final = 512
"""The message travels a second time by itself, each byte beyond ASCII as three characters."""
MAX_VALUE_BYTES: Final = 256
"""One metadata value, resource name or description."""
MAX_VIOLATIONS_BYTES: Final = 2048

_dice = random.SystemRandom()

_DETAILS_KEY: Final = "grpc-status-details-bin"
_CODES: Final = {reason: grpc.StatusCode[spec.status] for reason, spec in REASONS.items()}

# What these say may come from the database's driver or from a bug; a client gets a sentence of ours.
_PUBLIC_MESSAGES: Final[Mapping[str, str]] = {
    Reason.STORE_UNAVAILABLE: "the database cannot be reached or written now; try again",
    Reason.INTERNAL_ERROR: "a fault of the server; its log has more under the incident's number",
}


def truncated(text: str, max_bytes: int) -> str:
    """The text, cut to so many bytes of UTF-8, with an ellipsis where something is missing."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max_bytes - 3].decode(errors="ignore") + "…"


def encode_failure(failure: Failure) -> status_pb2.Status:
    """The Status of a refusal or a failure, with all its details."""
    reason = Reason(failure.reason)
    message = truncated(_PUBLIC_MESSAGES.get(reason, failure.message), MAX_MESSAGE_BYTES)
    metadata = {key: truncated(value, MAX_VALUE_BYTES) for key, value in failure.metadata.items()}
    status = status_pb2.Status(code=_CODES[reason].value[0], message=message)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason.value, domain=DOMAIN, metadata=metadata))
    detail = _DETAILS[reason](failure, message, metadata)
    if detail is not None:
        status.details.add().Pack(detail)
        if status.ByteSize() > MAX_STATUS_BYTES:
            del status.details[1:]
    return status


def encode_abort(failure: Failure) -> Abort:
    """What ends a call with this error, as `context.abort(*encode_abort(failure))`."""
    status = encode_failure(failure)
    call = current_call()
    if call is not None:
        call.reason = failure.reason
    return _CODES[Reason(failure.reason)], status.message, ((_DETAILS_KEY, status.SerializeToString()),)


# A message of error_details_pb2, which has no types, or None.
_Detail = Callable[[Failure, str, Mapping[str, str]], Any]


def _no_detail(_failure: Failure, _message: str, _metadata: Mapping[str, str]) -> None:
    return None


def _bad_request(failure: Failure, _message: str, _metadata: Mapping[str, str]) -> Any:
    detail = error_details_pb2.BadRequest()
    size = 0
    for field, problem in failure.violations if isinstance(failure, InvalidRequest) else ():
        short_field, short_problem = truncated(field, MAX_VALUE_BYTES), truncated(problem, MAX_VALUE_BYTES)
        size += len(short_field.encode()) + len(short_problem.encode())
        if size > MAX_VIOLATIONS_BYTES:
            break
        detail.field_violations.add(field=short_field, description=short_problem)
    return detail


def _resource_info(kind: str) -> _Detail:
    def build(_failure: Failure, message: str, metadata: Mapping[str, str]) -> Any:
        return error_details_pb2.ResourceInfo(
            resource_type=f"{DOMAIN}/{kind}", resource_name=metadata.get(kind.lower(), ""), description=message
        )

    return build


def _precondition(subject_key: str) -> _Detail:
    def build(failure: Failure, message: str, metadata: Mapping[str, str]) -> Any:
        detail = error_details_pb2.PreconditionFailure()
        detail.violations.add(type=failure.reason, subject=metadata.get(subject_key, ""), description=message)
        return detail

    return build


def _quota(subject_key: str) -> _Detail:
    def build(_failure: Failure, message: str, metadata: Mapping[str, str]) -> Any:
        detail = error_details_pb2.QuotaFailure()
        detail.violations.add(subject=f"{subject_key}:{metadata.get(subject_key, '')}", description=message)
        return detail

    return build


def _retry_info(failure: Failure, _message: str, _metadata: Mapping[str, str]) -> Any:
    if not isinstance(failure, EngineFailure) or failure.retry_after_s is None:
        return None
    detail = error_details_pb2.RetryInfo()
    delay_s = failure.retry_after_s + _dice.random() * failure.retry_spread_s
    detail.retry_delay.FromNanoseconds(int(delay_s * 1e9))
    return detail


_DETAILS: Final[Mapping[Reason, _Detail]] = {
    Reason.INVALID_REQUEST: _bad_request,
    Reason.UNSATISFIABLE: _precondition("demand"),
    Reason.NO_CAPACITY: _quota("demand"),
    Reason.TOKEN_MISMATCH: _no_detail,
    Reason.TOKEN_CANCELLED: _precondition("idempotency_token"),
    Reason.ALLOCATION_ENDED: _precondition("allocation"),
    Reason.LEASE_EXPIRED: _precondition("allocation"),
    Reason.STALE_FENCING_TOKEN: _precondition("allocation"),
    Reason.FLEET_NOT_FOUND: _resource_info("Fleet"),
    Reason.INSTANCE_NOT_FOUND: _resource_info("Instance"),
    Reason.ALLOCATION_NOT_FOUND: _resource_info("Allocation"),
    Reason.FLEET_EXISTS: _resource_info("Fleet"),
    Reason.INSTANCE_EXISTS: _resource_info("Instance"),
    Reason.INSTANCE_IN_USE: _precondition("instance"),
    Reason.FLEET_IN_USE: _precondition("fleet"),
    Reason.ETAG_MISMATCH: _no_detail,
    Reason.NOT_HOLDER: _no_detail,
    Reason.BLOCK_NOT_GRANTED: _precondition("allocation"),
    Reason.LIMIT_EXCEEDED: _quota("limit"),
    Reason.OVERLOADED: _retry_info,
    Reason.SHUTTING_DOWN: _retry_info,
    Reason.STORE_UNAVAILABLE: _retry_info,
    Reason.INVARIANT_VIOLATED: _no_detail,
    Reason.INTERNAL_ERROR: _no_detail,
    Reason.COMPACTED: _resource_info("Fleet"),
    Reason.WATCHER_TOO_SLOW: _no_detail,
    Reason.STORE_DAMAGED: _no_detail,
    Reason.FLEET_FORMAT_TOO_NEW: _retry_info,
    Reason.FLEET_FORMAT_TOO_OLD: _precondition("fleet"),
    Reason.UNAUTHENTICATED: _no_detail,
    Reason.CREDENTIALS_EXPIRED: _no_detail,
    Reason.NOT_PERMITTED: _no_detail,
    Reason.NOT_OWNER: _no_detail,
    Reason.RATE_LIMITED: _retry_info,
}
