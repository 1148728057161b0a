"""The rules of following a fleet's journal, without threads, tasks, clocks or network.

`watch` and `aio_watch` carry them out. A stream ends: its server stops, a connection is lost, nobody read for a while.
The next one, at any server, begins with the revision after the last one that came. So the caller sees neither a gap
nor a repetition.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from blockyard._arguments import not_empty
from blockyard._call import Method
from blockyard._codec import decode_update, encode_duration, encode_event_kinds
from blockyard._history import went_back
from blockyard._names import fleet_name, instance_name
from blockyard._retry import IN_DOUBT, RetryPolicy
from blockyard.enums import EventKind
from blockyard.errors import CallFailed, CredentialsExpired, ShuttingDown, Unavailable, WatcherTooSlow
from blockyard.types import Event, Seconds, WatchUpdate
from blockyard.v1 import allocator_pb2 as pb

T_co = TypeVar("T_co", covariant=True)

WATCH: Final = Method("/blockyard.v1.Allocator/Watch", pb.WatchRequest, pb.WatchResponse)

WARN_AFTER_STREAMS: Final = 5
"""The log warns after this number of streams in a row that brought nothing."""

_log = logging.getLogger("blockyard.watch")


@dataclass(frozen=True, slots=True)
class Subscription(Generic[T_co]):
    """What to follow: the request of the first stream."""

    request: pb.WatchRequest


def watch(
    fleet: str,
    *,
    from_revision: int = 0,
    kinds: Iterable[EventKind] | None = None,
    holder: str | None = None,
    instance: str | None = None,
    progress_interval: Seconds | None = None,
) -> Subscription[Event]:
    """A fleet's journal as it grows. Iterate over what this returns: it waits for the next event, without an end.

    Nothing is sent before the first step. A stream that breaks is begun again by itself, at any server, for ever: after
    the last event, and with the pauses of the client's retry policy. Close it, or its client, to end it.

    Args:
        fleet: Which fleet; it may have been deleted, and may be deleted and created again meanwhile.
        from_revision: From this revision on; it may be one that is not reached yet. 0: from now on.
        kinds: Only these kinds. None: all.
        holder: Only events of this holder's allocations. None: any.
        instance: Only events of this instance or of blocks on it. None: any.
        progress_interval: After so long without an event the server says up to which revision there was none; see
            `updates`. 100 ms to 1 hour. None: 10 seconds.

    Raises:
        FleetNotFound: There never was such a fleet.
        Compacted: The journal is no longer kept from that revision on. Describe the fleet, and watch on from its
            revision + 1.
        CallFailed: Any other refusal that is not about the moment.
        ValueError: A filter is empty, or a name is that of another kind of resource.
        TypeError: One string where several are asked for.
    """
    return Subscription(
        pb.WatchRequest(
            fleet=fleet_name(fleet),
            from_revision=from_revision,
            kinds=encode_event_kinds(kinds),
            holder=not_empty(holder, "holder"),
            instance=None if instance is None else instance_name(fleet, instance),
            progress_interval=encode_duration(progress_interval),
        )
    )


class Follower:
    """How far a watch has come, and what follows when its stream ends."""

    def __init__(self, subscription: Subscription[Event], policy: RetryPolicy, *, several: bool) -> None:
        """`several` is whether there may be other servers to turn to."""
        self._first = subscription.request
        self._policy = policy
        self._several = several
        self._lost = 0
        self._renewed = False
        self.revision: int | None = None
        """All matching events up to this revision have been received. None: no stream has begun yet."""

    def request(self) -> pb.WatchRequest:
        """The request for the next stream."""
        request = pb.WatchRequest()
        request.CopyFrom(self._first)
        if self.revision is not None:
            request.from_revision = self.revision + 1
        return request

    def received(self, answer: pb.WatchResponse) -> WatchUpdate:
        """The next answer of the stream."""
        update = decode_update(answer)
        if self.revision is not None and update.revision < self.revision:
            raise went_back(self._first.fleet.removeprefix("fleets/"), update.revision, self.revision)
        self.revision = update.revision
        if self._lost:
            _log.info("the watch of %s goes on, at revision %d", self._first.fleet, update.revision)
        self._lost = 0
        self._renewed = False
        return update

    def ended(self) -> CallFailed:
        """What a stream that ends without an error has failed with: a watch has no end of its own."""
        return Unavailable("the stream ended", status="UNAVAILABLE")

    def pause_s(self, failure: CallFailed, jitter: float, *, renewed: bool = False) -> float:
        """How long to wait before the next stream, after one that ended with `failure`.

        `renewed` is whether there are other credentials by now. A stream that was refused for its credentials is opened
        again with them, once until something comes. One whose credentials have expired is opened again anyway.

        Raises:
            CallFailed: The failure itself: it is an answer, and asking again would not change it.
        """
        pause = self._policy.pause_s(self._lost, jitter)
        match failure:
            case ShuttingDown() if self._several:
                pass
            case Unavailable(retry_delay=delay) if delay is not None:
                pause = max(pause, delay.total_seconds())
            case Unavailable() | WatcherTooSlow() | CredentialsExpired():
                pass
            case CallFailed(status="UNAUTHENTICATED") if renewed and not self._renewed:
                self._renewed = True
            case CallFailed(reason=None) if failure.status in IN_DOUBT:
                pass
            case _:
                raise failure
        self._lost += 1
        if self._lost == WARN_AFTER_STREAMS:
            message = "the watch of %s has no answer, after %d attempts; it goes on trying: %s"
            _log.warning(message, self._first.fleet, self._lost, failure)
        else:
            _log.info("the watch of %s begins again in %.2f s: %s", self._first.fleet, pause, failure)
        return pause
