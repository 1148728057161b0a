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
    """A field is missing or malformed, or a guard or a filter is set, but empty."""
    UNSATISFIABLE = "UNSATISFIABLE"
    """A demand fits no instances of this fleet, even if all of it were idle."""
    NO_CAPACITY = "NO_CAPACITY"
    """It fits the fleet, but not now. Nothing was granted, and the token stays unused."""
    TOKEN_MISMATCH = "TOKEN_MISMATCH"
    """The idempotency token was used for a request with other fields."""
    TOKEN_CANCELLED = "TOKEN_CANCELLED"
    """A Release by this token came before the Acquire."""
    ALLOCATION_ENDED = "ALLOCATION_ENDED"
    """The allocation has ended. To Renew: by a release. To an Acquire with its token: by a release or by its lease."""
    LEASE_EXPIRED = "LEASE_EXPIRED"
    """The allocation's lease has run out; somebody else may have the blocks."""
    STALE_FENCING_TOKEN = "STALE_FENCING_TOKEN"
    """The guard's fencing token is not the allocation's."""
    FLEET_NOT_FOUND = "FLEET_NOT_FOUND"
    """There is no such fleet."""
    INSTANCE_NOT_FOUND = "INSTANCE_NOT_FOUND"
    """There is no such instance in the fleet."""
    ALLOCATION_NOT_FOUND = "ALLOCATION_NOT_FOUND"
    """There is no such allocation, or it ended longer ago than the server's retention."""
    FLEET_EXISTS = "FLEET_EXISTS"
    """The fleet is there with other fields."""
    INSTANCE_EXISTS = "INSTANCE_EXISTS"
    """The instance is there with another shape."""
    INSTANCE_IN_USE = "INSTANCE_IN_USE"
    """Blocks of the instance are held, so it cannot be deleted, or shrunk by these blocks."""
    FLEET_IN_USE = "FLEET_IN_USE"
    """Blocks of the fleet are held, or it has instances."""
    ETAG_MISMATCH = "ETAG_MISMATCH"
    """Somebody changed the resource first."""
    NOT_HOLDER = "NOT_HOLDER"
    """The guard's holder is not the allocation's."""
    BLOCK_NOT_GRANTED = "BLOCK_NOT_GRANTED"
    """A partial release names a block that the allocation never had."""
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    """A limit of the service was met."""
    OVERLOADED = "OVERLOADED"
    """More work is waiting than the server accepts."""
    SHUTTING_DOWN = "SHUTTING_DOWN"
    """The server is stopping. Nothing was done, unless the message of a Repair says that it was."""
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    """The database cannot be reached or written."""
    INVARIANT_VIOLATED = "INVARIANT_VIOLATED"
    """An invariant does not hold. The fleet's writes are stopped, and the evidence is left as it is."""
    INTERNAL_ERROR = "INTERNAL_ERROR"
    """A fault of the server, recorded in its log under the incident."""
    COMPACTED = "COMPACTED"
    """The journal is no longer kept from the revision that was asked for."""
    WATCHER_TOO_SLOW = "WATCHER_TOO_SLOW"
    """A Watch was ended because its client did not read. Nothing is lost."""
    STORE_DAMAGED = "STORE_DAMAGED"
    """The database's file is damaged. Nothing is read or written."""
    FLEET_FORMAT_TOO_NEW = "FLEET_FORMAT_TOO_NEW"
    """The fleet's records are of a format that this server does not know. Nothing was done."""
    FLEET_FORMAT_TOO_OLD = "FLEET_FORMAT_TOO_OLD"
    """What was asked for needs a newer format of the fleet's records."""
    UNAUTHENTICATED = "UNAUTHENTICATED"
    """The server does not know who calls: the token or certificate is missing, malformed, unknown, expired, revoked."""
    CREDENTIALS_EXPIRED = "CREDENTIALS_EXPIRED"
    """The credentials of an open stream have expired or were revoked."""
    NOT_PERMITTED = "NOT_PERMITTED"
    """The caller's roles do not allow this on this fleet."""
    NOT_OWNER = "NOT_OWNER"
    """The allocation belongs to another tenant."""
    RATE_LIMITED = "RATE_LIMITED"
    """The caller asks for more than its rate, or for more at once than it may."""


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
        Reason.UNAUTHENTICATED: _row("UNAUTHENTICATED"),
        Reason.CREDENTIALS_EXPIRED: _row("UNAUTHENTICATED"),
        Reason.NOT_PERMITTED: _row("PERMISSION_DENIED"),
        Reason.NOT_OWNER: _row("PERMISSION_DENIED"),
        Reason.RATE_LIMITED: _row("UNAVAILABLE", retriable=True),
    }
)
"""Every reason with its status. Only UNAVAILABLE is retried automatically."""
