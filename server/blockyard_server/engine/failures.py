"""Why the engine could not carry out a request, though nothing was wrong with the request."""

from typing import ClassVar

from blockyard_server.engine.store_protocol import StoreCorrupt, StoreFailed


class EngineFailure(Exception):
    """The outcome is unknown to who asked, unless the class says otherwise; asking again is safe.

    `retry_after_s` is when (seconds), for RetryInfo; None if asking again does not help. Each answer asks for up to
    `retry_spread_s` more, at random: those who are refused together must not come back together.
    """

    reason: ClassVar[str]
    retry_after_s: float | None = None
    retry_spread_s: ClassVar[float] = 1.0

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {key: str(value) for key, value in metadata.items()}


class Overloaded(EngineFailure):
    """More work is waiting than the queue holds. Nothing was done."""

    reason = "OVERLOADED"
    retry_after_s = 0.2
    retry_spread_s = 0.8


class ShuttingDown(EngineFailure):
    """The server is stopping. Nothing was done."""

    reason = "SHUTTING_DOWN"
    retry_after_s = 1.0


class StoreUnavailable(EngineFailure):
    """The database could not be reached or written."""

    reason = "STORE_UNAVAILABLE"
    retry_after_s = 1.0


class RateLimited(EngineFailure):
    """The principal asks for more than its rate, or for more at once than it may. Nothing was done.

    `wait_s` is when its rate allows the call. `limit` is the name of what was met, `maximum` its value.
    """

    reason = "RATE_LIMITED"
    retry_after_s: float | None = 1.0
    retry_spread_s = 0.0

    def __init__(self, message: str, *, wait_s: float, limit: str, maximum: float) -> None:
        super().__init__(message, limit=limit, maximum=maximum)
        self.retry_after_s = wait_s


class CallerUnknown(EngineFailure):
    """Nobody knows who calls. `scheme` is what was given: `none`, `bearer` or `certificate`. Nothing was done."""

    reason = "UNAUTHENTICATED"


class CredentialsExpired(EngineFailure):
    """The credentials of an open stream have expired or were revoked. It may be opened again with new ones."""

    reason = "CREDENTIALS_EXPIRED"


class StoreDamaged(EngineFailure):
    """The database is damaged. Nothing is read or written until it is restored; asking again does not help."""

    reason = "STORE_DAMAGED"


class WatcherTooSlow(EngineFailure):
    """The client of a watch does not read what is sent. It may go on from the revision after the last that came."""

    reason = "WATCHER_TOO_SLOW"


class FleetFormatTooNew(EngineFailure):
    """The fleet's records are of a format that this server does not know. Another server of a newer release does."""

    reason = "FLEET_FORMAT_TOO_NEW"
    retry_after_s = 1.0


class InvariantViolated(EngineFailure):
    """An invariant does not hold. The fleet's writes are stopped, and the evidence is left as it is."""

    reason = "INVARIANT_VIOLATED"


class InternalError(EngineFailure):
    """A fault of the server, logged under the metadata's `incident`."""

    reason = "INTERNAL_ERROR"


def violation_in(fleet: str) -> InvariantViolated:
    """What a client is told of a fleet whose writes are stopped."""
    message = f"an invariant of fleet {fleet} does not hold; its writes are stopped: run Verify, then Repair"
    return InvariantViolated(message, fleet=f"fleets/{fleet}")


def format_too_new(fleet: str, fleet_format: int, newest: int) -> FleetFormatTooNew:
    """What a client is told of a fleet that only newer servers can serve."""
    message = (
        f"the records of fleet {fleet} are of format {fleet_format}, and this server knows formats up to {newest}; "
        "ask a server of a newer release, or upgrade this one"
    )
    return FleetFormatTooNew(message, fleet=f"fleets/{fleet}", format=fleet_format, newest=newest)


def failure_of_store(failed: StoreFailed, what: str) -> EngineFailure:
    """The error for the client when the store failed; `what` is the sentence for a database that is away."""
    if isinstance(failed, StoreCorrupt):
        return StoreDamaged("the database is damaged; nothing is read or written until it is restored from a backup")
    return StoreUnavailable(what)
