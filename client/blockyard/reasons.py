"""The one table of error reasons: what went wrong, which gRPC status says so, and whether to try again.

Server and client share it. The rows are the values of `blockyard.v1.ErrorReason`, which documents the
metadata of each; a test keeps the two equal. Only the standard library is imported here.
"""

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

DOMAIN: Final = "blockyard.dev"
"""The `domain` of every ErrorInfo of this service (AIP-193)."""


class Reason(StrEnum):
    """Why a call failed: the `reason` of the ErrorInfo, the same word in proto, Python, CLI and docs."""

    INVALID_REQUEST = "INVALID_REQUEST"
    UNSATISFIABLE = "UNSATISFIABLE"
    NO_CAPACITY = "NO_CAPACITY"
    TOKEN_MISMATCH = "TOKEN_MISMATCH"
    TOKEN_CANCELLED = "TOKEN_CANCELLED"
    ALLOCATION_ENDED = "ALLOCATION_ENDED"
    LEASE_EXPIRED = "LEASE_EXPIRED"
    STALE_FENCING_TOKEN = "STALE_FENCING_TOKEN"
    FLEET_NOT_FOUND = "FLEET_NOT_FOUND"
    INSTANCE_NOT_FOUND = "INSTANCE_NOT_FOUND"
    ALLOCATION_NOT_FOUND = "ALLOCATION_NOT_FOUND"
    FLEET_EXISTS = "FLEET_EXISTS"
    INSTANCE_EXISTS = "INSTANCE_EXISTS"
    INSTANCE_IN_USE = "INSTANCE_IN_USE"
    FLEET_IN_USE = "FLEET_IN_USE"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    NOT_HOLDER = "NOT_HOLDER"
    BLOCK_NOT_GRANTED = "BLOCK_NOT_GRANTED"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    OVERLOADED = "OVERLOADED"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    INVARIANT_VIOLATED = "INVARIANT_VIOLATED"
    INTERNAL_ERROR = "INTERNAL_ERROR"
    COMPACTED = "COMPACTED"
    WATCHER_TOO_SLOW = "WATCHER_TOO_SLOW"
    STORE_DAMAGED = "STORE_DAMAGED"
    FLEET_FORMAT_TOO_NEW = "FLEET_FORMAT_TOO_NEW"
    FLEET_FORMAT_TOO_OLD = "FLEET_FORMAT_TOO_OLD"


@dataclass(frozen=True, slots=True)
class ReasonSpec:
    """One row of the table."""

    status: str
    """The name of the gRPC status code."""
    retriable: bool
    """Whether the same request may be sent again at once (after RetryInfo), by a machine."""


def _row(status: str, *, retriable: bool = False) -> ReasonSpec:
    return ReasonSpec(status=status, retriable=retriable)


REASONS: Final = MappingProxyType(
    {
        Reason.INVALID_REQUEST: _row("INVALID_ARGUMENT"),
        Reason.UNSATISFIABLE: _row("FAILED_PRECONDITION"),
        Reason.NO_CAPACITY: _row("RESOURCE_EXHAUSTED"),
        Reason.TOKEN_MISMATCH: _row("ALREADY_EXISTS"),
        Reason.TOKEN_CANCELLED: _row("FAILED_PRECONDITION"),
        Reason.ALLOCATION_ENDED: _row("FAILED_PRECONDITION"),
        Reason.LEASE_EXPIRED: _row("FAILED_PRECONDITION"),
        Reason.STALE_FENCING_TOKEN: _row("FAILED_PRECONDITION"),
        Reason.FLEET_NOT_FOUND: _row("NOT_FOUND"),
        Reason.INSTANCE_NOT_FOUND: _row("NOT_FOUND"),
        Reason.ALLOCATION_NOT_FOUND: _row("NOT_FOUND"),
        Reason.FLEET_EXISTS: _row("ALREADY_EXISTS"),
        Reason.INSTANCE_EXISTS: _row("ALREADY_EXISTS"),
        Reason.INSTANCE_IN_USE: _row("FAILED_PRECONDITION"),
        Reason.FLEET_IN_USE: _row("FAILED_PRECONDITION"),
        Reason.ETAG_MISMATCH: _row("ABORTED"),
        Reason.NOT_HOLDER: _row("PERMISSION_DENIED"),
        Reason.BLOCK_NOT_GRANTED: _row("FAILED_PRECONDITION"),
        Reason.LIMIT_EXCEEDED: _row("RESOURCE_EXHAUSTED"),
        Reason.OVERLOADED: _row("UNAVAILABLE", retriable=True),
        Reason.SHUTTING_DOWN: _row("UNAVAILABLE", retriable=True),
        Reason.STORE_UNAVAILABLE: _row("UNAVAILABLE", retriable=True),
        Reason.INVARIANT_VIOLATED: _row("DATA_LOSS"),
        Reason.INTERNAL_ERROR: _row("INTERNAL"),
        Reason.COMPACTED: _row("OUT_OF_RANGE"),
        Reason.WATCHER_TOO_SLOW: _row("ABORTED"),
        Reason.STORE_DAMAGED: _row("DATA_LOSS"),
        Reason.FLEET_FORMAT_TOO_NEW: _row("UNAVAILABLE", retriable=True),
        Reason.FLEET_FORMAT_TOO_OLD: _row("FAILED_PRECONDITION"),
    }
)
"""Every reason with its status. Only UNAVAILABLE is retried automatically."""
