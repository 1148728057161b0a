"""The exceptions of the SDK: one class for each reason of `blockyard.reasons`, in a tree.

    BlockyardError
    ├── CallFailed                  the server answered with an error, or could not be reached
    │   ├── InvalidRequest          a field is malformed; `field_violations` says which
    │   ├── Unsatisfiable           would not fit the fleet even if all of it were idle
    │   ├── NoCapacity              fits, but not now
    │   ├── LimitExceeded           a limit of the service
    │   ├── NotFound
    │   │   ├── FleetNotFound
    │   │   ├── InstanceNotFound
    │   │   └── AllocationNotFound
    │   ├── Conflict                somebody, perhaps you, did something else first
    │   │   ├── TokenMismatch       the token was used for another request
    │   │   ├── FleetExists         with other fields
    │   │   ├── InstanceExists      with other fields
    │   │   └── EtagMismatch        somebody else changed the resource first
    │   ├── Ended                   the allocation or token has ended, for good
    │   │   ├── TokenCancelled      the token was released before it was granted
    │   │   ├── AllocationEnded     it was released
    │   │   └── LeaseExpired        its lease ran out
    │   ├── InUse
    │   │   ├── InstanceInUse
    │   │   └── FleetInUse
    │   ├── GuardFailed             the allocation is not the one that the caller means
    │   │   ├── NotHolder
    │   │   ├── StaleFencingToken
    │   │   └── BlockNotGranted
    │   ├── Unauthenticated        the server does not know who calls
    │   │   └── CredentialsExpired  those of an open stream; `watch` opens it again with new ones
    │   ├── AccessDenied            the server knows who calls, and refuses
    │   │   ├── NotPermitted        the roles do not allow it
    │   │   └── NotOwner            the allocation is another tenant's
    │   ├── FleetFormatTooOld       every server has to be upgraded first
    │   ├── Compacted               the journal no longer has the revision that was asked for
    │   ├── WatcherTooSlow          the client did not read; `watch` resumes by itself
    │   ├── Unavailable             the SDK has retried before it raises this
    │   │   ├── Overloaded
    │   │   ├── ShuttingDown
    │   │   ├── StoreUnavailable
    │   │   ├── RateLimited         more than the caller's rate
    │   │   └── FleetFormatTooNew   only servers of a newer release can serve the fleet
    │   ├── DeadlineExceeded        no answer in time to a call that changes nothing
    │   └── ServerFault
    │       ├── InvariantViolated   the fleet's writes are stopped
    │       ├── StoreDamaged        the server's database is damaged
    │       └── InternalError
    ├── OutcomeUnknown              no answer to a change: it may have happened
    ├── HistoryWentBack             the server's data were restored, and names may be issued again
    ├── LeaseLost                   the blocks may be somebody else's by now
    ├── NotReleased                 no answer to a release, and there is no lease: the blocks stay held
    ├── UnexpectedAnswer            the server is newer than this SDK
    ├── InvalidTarget               a client was asked to connect to a list that names no server
    ├── ClientClosed                nothing was sent
    ├── WrongLoop                   an asyncio client was used in a second event loop; nothing was sent
    └── WrongProcess                a client, lease or watch of the parent was used after a fork; nothing was sent

An error without a reason, for example from a proxy, is an `Unavailable` or a `DeadlineExceeded` if its status says
so, else a plain `CallFailed`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from blockyard.reasons import Reason


class BlockyardError(Exception):
    """Everything that this package raises, apart from ValueError and TypeError for arguments that cannot be sent."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One malformed field of a request."""

    field: str
    """The path of the field, such as `demands[0].blocks`."""
    description: str
    """What is wrong with it."""


class CallFailed(BlockyardError):
    """A call was answered with an error. `str()` is the server's sentence for people; programs read the rest."""

    def __init__(
        self,
        message: str,
        *,
        status: str = "UNKNOWN",
        reason: str | None = None,
        metadata: Mapping[str, str] | None = None,
        field_violations: tuple[FieldViolation, ...] = (),
        retry_delay: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.status: Final = status
        """The name of the gRPC status code, such as `NOT_FOUND`."""
        self.reason: Final = reason
        """The ErrorInfo's reason, a value of `Reason` unless the server is newer. None if the error has none."""
        self.metadata: Final[Mapping[str, str]] = dict(metadata or {})
        """Every part of the message that varies, by the keys that `ErrorReason` in the protos lists."""
        self.field_violations: Final = field_violations
        """The malformed fields, for `InvalidRequest`."""
        self.retry_delay: Final = retry_delay
        """How long the server asks to wait before a retry."""
        self.lost_attempts = 0
        """How many earlier attempts of this call stayed without an answer. Each of them may still take effect, so
        the error is the whole truth only if this is 0."""


class InvalidRequest(CallFailed):
    """A field is missing or malformed; `field_violations` names each one."""


class Unsatisfiable(CallFailed):
    """A demand fits no instances of this fleet, even if all of it were idle."""


class NoCapacity(CallFailed):
    """It fits, but not now. Try again later, with the same token if you like."""


class LimitExceeded(CallFailed):
    """A limit of the service; metadata has its name and its maximum."""


class NotFound(CallFailed):
    """Something that the call names does not exist."""


class FleetNotFound(NotFound):
    """There is no such fleet."""


class InstanceNotFound(NotFound):
    """There is no such instance."""


class AllocationNotFound(NotFound):
    """There is no such allocation, or it ended longer ago than the server's retention."""


class Conflict(CallFailed):
    """Something else was done before."""


class TokenMismatch(Conflict):
    """The idempotency token was used for another request; metadata names the fields that differ."""


class FleetExists(Conflict):
    """The fleet is there with other fields."""


class InstanceExists(Conflict):
    """The instance is there with another shape."""


class EtagMismatch(Conflict):
    """Somebody changed the resource first: read it again."""


class Ended(CallFailed):
    """What the call refers to is over."""


class TokenCancelled(Ended):
    """A release by this token came before the acquire. A new intent needs a new token."""


class AllocationEnded(Ended):
    """The allocation was released."""


class LeaseExpired(Ended):
    """The allocation's lease has run out."""


class InUse(CallFailed):
    """Blocks that would go are held."""


class InstanceInUse(InUse):
    """Blocks of the instance are held."""


class FleetInUse(InUse):
    """Blocks of the fleet are held, or it has instances."""


class GuardFailed(CallFailed):
    """The allocation is not what the caller takes it for."""


class NotHolder(GuardFailed):
    """The guard's holder is not the allocation's."""


class StaleFencingToken(GuardFailed):
    """The guard's fencing token is not the allocation's."""


class BlockNotGranted(GuardFailed):
    """A partial release names a block that the allocation never had."""


class Compacted(CallFailed):
    """The journal is no longer kept from that revision on: describe the fleet, and go on from its revision."""


class WatcherTooSlow(CallFailed):
    """What a watch sent was not read. `Client.watch` begins again by itself."""


class Unavailable(CallFailed):
    """The server could not be reached or takes no work now, and went on so through all retries."""


class Overloaded(Unavailable):
    """More work is waiting than the server accepts."""


class ShuttingDown(Unavailable):
    """The server is stopping."""


class StoreUnavailable(Unavailable):
    """The server's database cannot be reached or written."""


class FleetFormatTooNew(Unavailable):
    """The fleet's records are of a format that this server does not know; servers of a newer release do."""


class RateLimited(Unavailable):
    """The caller asks for more than its rate, or for more at once than it may."""


class Unauthenticated(CallFailed):
    """The server does not know who calls: the token or the certificate is missing, unknown, expired or revoked."""


class CredentialsExpired(Unauthenticated):
    """The credentials of an open stream have expired or were revoked."""


class AccessDenied(CallFailed):
    """The server knows who calls, and does not do this for that caller."""


class NotPermitted(AccessDenied):
    """The caller's roles do not allow this on this fleet."""


class NotOwner(AccessDenied):
    """The allocation belongs to another tenant."""


class FleetFormatTooOld(CallFailed):
    """What was asked for needs a newer format of the fleet's records, which it gets once all servers are upgraded."""


class DeadlineExceeded(CallFailed):
    """No answer came in time. Only for calls that change nothing; for the others it is `OutcomeUnknown`."""


class ServerFault(CallFailed):
    """A fault of the server."""


class InvariantViolated(ServerFault):
    """An invariant does not hold, and the fleet's writes are stopped. Run verify."""


class StoreDamaged(ServerFault):
    """The server's database is damaged: nothing is read or written until it is restored from a backup."""


class InternalError(ServerFault):
    """A fault of the server, recorded in its log under metadata's `incident`."""


class OutcomeUnknown(BlockyardError):
    """No answer came to a change, however often it was asked for: it may have happened, or may still happen.

    The message says what to do. `__cause__` is the last attempt's failure.
    """

    def __init__(
        self, message: str, *, call: str = "", advice: str = "", repeatable: bool = False, token: str | None = None
    ) -> None:
        super().__init__(message)
        self.call: Final = call
        """The RPC, such as `Acquire`."""
        self.advice: Final = advice
        """What to do, as a part of a sentence; the message ends with it."""
        self.repeatable: Final = repeatable
        """Whether the same call, with the same token, may be made again: nothing is done twice."""
        self.token: Final = token
        """For an acquire: its idempotency token, to ask again with or to release by."""


class HistoryWentBack(BlockyardError):
    """A fleet's revision is lower than one that this client has seen: the server's data were restored from a backup.

    Stop working with what you hold of the fleet: its names and fencing tokens may have been issued again. Operators
    stop the servers and run `blockyard admin restored`.
    """


class LeaseLost(BlockyardError):
    """The lease could not be renewed in time, or has ended: stop working with the blocks. `__cause__` says why."""


class NotReleased(BlockyardError):
    """The body of a lease ended well, but its release got no answer, and no TTL will end what it holds.

    Release `allocation` once a server answers: `client.release(error.allocation)`. Its `__cause__` is the failure.
    """

    def __init__(self, message: str, *, allocation: str = "") -> None:
        super().__init__(message)
        self.allocation: Final = allocation
        """The name of what may still be held, `fleets/{fleet}/allocations/{n}`."""


class UnexpectedAnswer(BlockyardError):
    """The server's answer says something that this version of the SDK has no word for."""


class InvalidTarget(BlockyardError, ValueError):
    """A client was given a list of servers that is malformed, or in which no name has an address."""


class ClientClosed(BlockyardError):
    """The client was closed before the call, and nothing was sent."""


class WrongLoop(BlockyardError):
    """An `AsyncClient` was used in another event loop than that of its first call. Make one for each loop."""


class WrongProcess(BlockyardError):
    """A client, lease or watch of the parent process was used in a child, after a fork. Nothing was sent."""


BY_REASON: Final[Mapping[str, type[CallFailed]]] = MappingProxyType(
    {
        Reason.INVALID_REQUEST: InvalidRequest,
        Reason.UNSATISFIABLE: Unsatisfiable,
        Reason.NO_CAPACITY: NoCapacity,
        Reason.TOKEN_MISMATCH: TokenMismatch,
        Reason.TOKEN_CANCELLED: TokenCancelled,
        Reason.ALLOCATION_ENDED: AllocationEnded,
        Reason.LEASE_EXPIRED: LeaseExpired,
        Reason.STALE_FENCING_TOKEN: StaleFencingToken,
        Reason.FLEET_NOT_FOUND: FleetNotFound,
        Reason.INSTANCE_NOT_FOUND: InstanceNotFound,
        Reason.ALLOCATION_NOT_FOUND: AllocationNotFound,
        Reason.FLEET_EXISTS: FleetExists,
        Reason.INSTANCE_EXISTS: InstanceExists,
        Reason.INSTANCE_IN_USE: InstanceInUse,
        Reason.FLEET_IN_USE: FleetInUse,
        Reason.ETAG_MISMATCH: EtagMismatch,
        Reason.NOT_HOLDER: NotHolder,
        Reason.BLOCK_NOT_GRANTED: BlockNotGranted,
        Reason.LIMIT_EXCEEDED: LimitExceeded,
        Reason.OVERLOADED: Overloaded,
        Reason.SHUTTING_DOWN: ShuttingDown,
        Reason.STORE_UNAVAILABLE: StoreUnavailable,
        Reason.INVARIANT_VIOLATED: InvariantViolated,
        Reason.INTERNAL_ERROR: InternalError,
        Reason.COMPACTED: Compacted,
        Reason.WATCHER_TOO_SLOW: WatcherTooSlow,
        Reason.STORE_DAMAGED: StoreDamaged,
        Reason.FLEET_FORMAT_TOO_NEW: FleetFormatTooNew,
        Reason.FLEET_FORMAT_TOO_OLD: FleetFormatTooOld,
        Reason.UNAUTHENTICATED: Unauthenticated,
        Reason.CREDENTIALS_EXPIRED: CredentialsExpired,
        Reason.NOT_PERMITTED: NotPermitted,
        Reason.NOT_OWNER: NotOwner,
        Reason.RATE_LIMITED: RateLimited,
    }
)
"""The class of each reason."""
