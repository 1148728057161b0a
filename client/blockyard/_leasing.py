"""The rules of keeping a lease, without threads, tasks, clocks or network; `lease` and `aio_lease` carry them out.

A client counts its lease from before it sent the request, on a clock that goes on while the machine is suspended
(`_clock`): the server cannot have begun to count earlier. It renews at a third of the time, and at two thirds unrenewed
it holds the lease for lost, while the server still honours it: so no two holders ever work at once, however late an
answer comes.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final, TypeAlias

from blockyard import operations
from blockyard._call import Operation
from blockyard._history import went_back
from blockyard.enums import PlacementStrategy
from blockyard.errors import (
    AllocationNotFound,
    BlockyardError,
    CallFailed,
    ClientClosed,
    DeadlineExceeded,
    Ended,
    FleetNotFound,
    GuardFailed,
    LeaseLost,
    NotReleased,
    OutcomeUnknown,
    ServerFault,
    TokenMismatch,
    Unavailable,
    WrongLoop,
    WrongProcess,
)
from blockyard.types import Allocation, Demand, Grant, ReleaseResult, Renewal, Seconds, Selector
from blockyard.v1 import allocator_pb2 as pb

DEFAULT_TTL_S: Final = 30.0
"""The lease of a `lease` block that asks for none."""
RENEW_AT: Final = 1 / 3
"""The part of the lease after which it is renewed."""
LOST_AT: Final = 2 / 3
"""The part of the lease after which it is lost, unless it was renewed."""
PAUSE: Final = 1 / 12
"""The part of the lease between a renewal that failed and the next."""
LONGEST_SLEEP_S: Final = 1.0
"""How long a lease's thread or task sleeps at most: a sleep does not count the time that the machine is suspended, so
that a long one would notice a lost lease long after the machine is awake again."""

_log = logging.getLogger("blockyard.lease")


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Renew:
    """Renew the lease now, within so long."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease is lost, and why."""

    error: LeaseLost


Step: TypeAlias = Wait | Renew | Lost


class Keeper:
    """What to do next to keep a lease. Every time is in seconds on one monotonic clock, which the caller reads."""

    def __init__(self, granted: Grant | Renewal, *, sent_at: float) -> None:
        """`sent_at` is when the request was first sent."""
        self._name = granted.allocation.name
        self._revision = 0
        self._failure: BlockyardError | None = None
        self._lost: Lost | None = None
        self.renewed(granted, sent_at=sent_at)
        if isinstance(granted, Grant) and granted.replayed and self._span_s < inf:
            # What the token was granted before may be about to end; a renewal gives it its whole TTL again.
            self._may_begin = False
            self._renew_at = sent_at

    @property
    def may_begin(self) -> bool:
        """The work under the lease may begin: it was granted by this request, or was renewed since."""
        return self._may_begin

    @property
    def lost_at(self) -> float:
        """When the lease is lost, unless it is renewed before."""
        return self._lost_at

    @property
    def ends_at(self) -> float:
        """When the blocks may be somebody else's at the earliest, unless the lease is renewed or released before."""
        return self._ends_at

    def next_step(self, now: float) -> Step:
        """What to do now. A lease that is lost once stays lost, whatever answers still come."""
        if self._lost is None and now >= self._lost_at:
            self.give_up("could not be renewed in time")
        if self._lost is not None:
            return self._lost
        if now < self._renew_at:
            return Wait(self._renew_at - now)
        return Renew(self._lost_at - now)

    def renewed(self, granted: Grant | Renewal, *, sent_at: float) -> None:
        """The lease was granted or extended by a request that was first sent at `sent_at`."""
        revision = granted.allocation.revision
        if revision < self._revision:  # the revision of an allocation's last change never goes down
            self._failure = went_back(self._name.split("/")[1], revision, self._revision)
            self.give_up(f"is gone: {self._failure}")
            return
        self._revision = revision
        expire_time = granted.allocation.expire_time
        # What was left when the server answered is less than what was left when we sent.
        self._span_s = inf if expire_time is None else (expire_time - granted.server_time).total_seconds()
        self._renew_at = sent_at + self._span_s * RENEW_AT
        self._lost_at = sent_at + self._span_s * LOST_AT
        self._ends_at = sent_at + self._span_s
        self._failure = None
        self._may_begin = True

    def failed(self, failure: BlockyardError, *, now: float) -> None:
        """A renewal failed: later again, unless the server says that the lease has ended, or is somebody else's."""
        self._failure = failure
        _log.warning("%s could not be renewed, and is lost in %.1f s: %s", self._name, self._lost_at - now, failure)
        self._renew_at = now + self._span_s * PAUSE
        if isinstance(failure, Ended | AllocationNotFound | FleetNotFound | GuardFailed):
            self.give_up(f"has ended: {failure}")

    def give_up(self, why: str) -> None:
        """The lease is lost now, unless it was before. `why` goes on from "the lease of …"."""
        if self._lost is None:
            error = LeaseLost(f"the lease of {self._name} {why}")
            error.__cause__ = self._failure
            self._lost = Lost(error)


def may_be_held(error: BaseException) -> bool:
    """Whether an acquire that ended with this may have been granted, or may still be."""
    match error:
        case ClientClosed() | WrongProcess() | WrongLoop():
            return False
        case TokenMismatch():
            return False  # what the token holds is not ours to release
        case CallFailed():
            # No reason that we know: somebody in between may have thrown the answer away, as too large say.
            unexplained = type(error) is CallFailed
            return error.lost_attempts > 0 or isinstance(error, ServerFault) or unexplained
        case _:
            return True


def cancel_acquire(acquire: Operation[Grant]) -> Operation[ReleaseResult]:
    """Makes sure that nothing stays held by an acquire whose answer never came."""
    request = acquire.request
    assert isinstance(request, pb.AcquireRequest)
    return operations.release_by_token(request.fleet, request.idempotency_token, holder=request.holder or None)


def release_lease(allocation: Allocation) -> Operation[ReleaseResult]:
    """Releases what a lease holds, with its guards.

    A server whose data were restored from a backup may have given the name to another holder meanwhile.
    """
    return operations.release(allocation, holder=allocation.holder, fencing_token=allocation.fencing_token)


def renew_lease(allocation: Allocation, *, timeout_s: float) -> Operation[Renewal]:
    """Renews what a lease holds, with the same guards."""
    return operations.renew(
        allocation, holder=allocation.holder, fencing_token=allocation.fencing_token, timeout_s=timeout_s
    )


def log_loss(loss: LeaseLost) -> None:
    """A lease is lost while its body works."""
    _log.error("%s", loss)


def release_failed(allocation: Allocation, failure: BlockyardError, body: BaseException | None) -> None:
    """The release at the end of a lease failed; `body` is the exception that ended the body, which gets a note.

    Raises:
        NotReleased: The body ended well, no answer came, and no TTL ends what is held.
        BlockyardError: The body ended well, and the release was answered with this.
    """
    held = "until it is released" if allocation.expire_time is None else "until its lease runs out"
    message = f"{allocation.name} was not released, and stays held {held}: {failure}"
    if body is not None:
        body.add_note(message)
    elif not isinstance(failure, OutcomeUnknown | Unavailable | DeadlineExceeded):
        raise failure
    elif allocation.expire_time is None:
        raise NotReleased(f"{message}; release it once a server answers", allocation=allocation.name) from failure
    else:
        _log.warning("%s", message)


def cancel_failed(failure: BlockyardError) -> str:
    """A note to the exception that ended an acquire, when its cancellation failed too."""
    return f"what it may have been granted was not released: {failure}"


def acquire_for_lease(
    fleet: str,
    *,
    holder: str,
    blocks: int | None = None,
    instances: int = 1,
    requirements: Mapping[str, int] | None = None,
    exclusive: bool = False,
    selector: Selector | Mapping[str, str] | None = None,
    instance_names: Iterable[str] | None = None,
    demands: Iterable[Demand] | None = None,
    token: str | None = None,
    ttl: Seconds | None = DEFAULT_TTL_S,
    strategy: PlacementStrategy | None = None,
    annotations: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> Operation[Grant]:
    """Blocks for the time of a `with` block: acquired at its start, renewed meanwhile, released at its end.

    The release comes also after an exception, and never hides it. If the acquire's answer never comes (no answer in
    time, Ctrl-C, cancellation), it is cancelled by its token: nothing stays held. If the lease is lost, `lost` is set,
    the `on_lost` callbacks are called, and `check()` raises; the body has to stop its work by itself.

    Renewals and the release carry the holder and the fencing token as guards. The lease belongs to the process that
    entered it: in a forked child `check()` raises `WrongProcess`, `lost` is set, and leaving the block does nothing.

    Args:
        fleet: Which fleet.
        holder: Who will have it, in your own words, 1..256 characters.
        blocks: How many blocks on each instance. With `exclusive`: how many it must have at least.
        instances: How many distinct instances.
        requirements: Instead of `blocks`: what is needed on each instance, such as `{"gpu": 2}`.
        exclusive: A wholly idle instance, all of it.
        selector: Only instances whose labels match. None: any.
        instance_names: Only these instances. None: any.
        demands: The long form, in place of the six arguments above: several shapes, granted together.
        token: Your name for this one intent. None: a random one.
        ttl: How long the blocks stay held if this process dies. It is renewed at a third of it, and lost at two
            thirds unrenewed. None: the fleet's default, which may be: until released.
        strategy: How instances are chosen. None: the fleet's default.
        annotations: Kept with the allocation, for people and tools.
        timeout_s: How long the acquire may take in all, retries included. None: as the client says.

    Raises:
        BlockyardError: On entering, what `acquire` raises; on leaving without an exception, what `release` raises.
        ValueError: `demands` together with one of the arguments that it replaces, an empty `instance_names`, or a
            name of something else.
        TypeError: One string where several are asked for.
    """
    return operations.acquire(
        fleet,
        holder=holder,
        blocks=blocks,
        instances=instances,
        requirements=requirements,
        exclusive=exclusive,
        selector=selector,
        instance_names=instance_names,
        demands=demands,
        token=token,
        ttl=ttl,
        strategy=strategy,
        annotations=annotations,
        timeout_s=timeout_s,
    )
