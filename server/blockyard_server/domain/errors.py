"""What a request can be refused for.

    Refused
    ├── Unsatisfiable, NoCapacity                          placement
    ├── TokenMismatch, TokenCancelled                      idempotency
    ├── AllocationEnded, LeaseExpired, StaleFencingToken   life of an allocation
    │   NotHolder, BlockNotGranted
    ├── FleetNotFound, InstanceNotFound, AllocationNotFound
    ├── FleetExists, InstanceExists, FleetInUse, InstanceInUse, EtagMismatch
    ├── Compacted, FleetFormatTooOld                       journal
    ├── NotPermitted, NotOwner                             identity
    └── InvalidRequest, LimitExceeded

Each class has the reason that clients see; each instance has a message for people and the message's
varying parts as metadata. They know no transport: the edge maps a reason to a status with the table
that it shares with the clients.
"""

from typing import ClassVar


class Refused(Exception):
    """A request that is answered with an error and changes nothing.

    `message` is a sentence for people; `metadata` holds each varying part of it, for programs.
    """

    reason: ClassVar[str]

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {key: str(value) for key, value in metadata.items()}


class InvalidRequest(Refused):
    """A field is missing or malformed. `violations` are (field path, what is wrong with it)."""

    reason = "INVALID_REQUEST"

    def __init__(self, *violations: tuple[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {problem}" for field, problem in violations))
        self.violations = violations


class Unsatisfiable(Refused):
    """A demand fits no instances of the fleet, even if all of it were idle."""

    reason = "UNSATISFIABLE"


class NoCapacity(Refused):
    """It fits, but not now."""

    reason = "NO_CAPACITY"


class TokenMismatch(Refused):
    """The token was used for a request with other fields."""

    reason = "TOKEN_MISMATCH"


class TokenCancelled(Refused):
    """A Release by this token came before the Acquire."""

    reason = "TOKEN_CANCELLED"


class AllocationEnded(Refused):
    """The allocation has ended, and what was asked needs it held."""

    reason = "ALLOCATION_ENDED"


class LeaseExpired(Refused):
    """The allocation's lease has run out; nothing revives it."""

    reason = "LEASE_EXPIRED"


class StaleFencingToken(Refused):
    """The guard's fencing token is not the allocation's."""

    reason = "STALE_FENCING_TOKEN"


class FleetNotFound(Refused):
    """There is no such fleet."""

    reason = "FLEET_NOT_FOUND"


class InstanceNotFound(Refused):
    """There is no such instance in the fleet."""

    reason = "INSTANCE_NOT_FOUND"


class AllocationNotFound(Refused):
    """There is no such allocation, or it ended longer ago than the retention."""

    reason = "ALLOCATION_NOT_FOUND"


class FleetExists(Refused):
    """The fleet is there with other fields."""

    reason = "FLEET_EXISTS"


class InstanceExists(Refused):
    """The instance is there with another shape."""

    reason = "INSTANCE_EXISTS"


class InstanceInUse(Refused):
    """Blocks that would go are held."""

    reason = "INSTANCE_IN_USE"


class FleetInUse(Refused):
    """Blocks of the fleet are held, or it has instances."""

    reason = "FLEET_IN_USE"


class EtagMismatch(Refused):
    """Somebody changed the resource first."""

    reason = "ETAG_MISMATCH"


class NotHolder(Refused):
    """The guard's holder is not the allocation's."""

    reason = "NOT_HOLDER"


class BlockNotGranted(Refused):
    """A partial release names a block that the allocation never had."""

    reason = "BLOCK_NOT_GRANTED"


class Compacted(Refused):
    """The journal is no longer kept from the revision that was asked for."""

    reason = "COMPACTED"


class FleetFormatTooOld(Refused):
    """What was asked for needs a newer format of the fleet's records than servers of older releases know."""

    reason = "FLEET_FORMAT_TOO_OLD"


class NotPermitted(Refused):
    """The principal's roles do not allow this on this fleet."""

    reason = "NOT_PERMITTED"


class NotOwner(Refused):
    """The allocation belongs to another tenant."""

    reason = "NOT_OWNER"


class LimitExceeded(Refused):
    """A limit of the service would be passed. `limit` is its name, `maximum` its value."""

    reason = "LIMIT_EXCEEDED"

    def __init__(self, message: str, *, limit: str, maximum: int) -> None:
        super().__init__(message, limit=limit, maximum=maximum)
