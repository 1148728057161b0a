"""A lease for the time of a `with` block, kept alive by a thread."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from blockyard._call import Operation
from blockyard._clock import lease_now
from blockyard._fork import Origin
from blockyard._leasing import (
    LONGEST_SLEEP_S,
    Keeper,
    Lost,
    Renew,
    Step,
    Wait,
    cancel_acquire,
    cancel_failed,
    log_loss,
    may_be_held,
    release_failed,
    release_lease,
    renew_lease,
)
from blockyard.errors import AllocationNotFound, BlockyardError, LeaseLost
from blockyard.types import Allocation, Grant

if TYPE_CHECKING:
    from blockyard.client import Client

JOIN_S: Final = 1.0
"""How long leaving waits for a renewal that is under way; it does no harm afterwards."""


class _LostEvent(threading.Event):
    """An event that counts as set in a forked child."""

    def __init__(self, origin: Origin) -> None:
        super().__init__()
        self._origin = origin

    def is_set(self) -> bool:
        return not self._origin.is_here or super().is_set()

    def wait(self, timeout: float | None = None) -> bool:
        return not self._origin.is_here or super().wait(timeout)


class Lease:
    """What `Client.lease` returns: enter it to acquire, leave it to release."""

    def __init__(self, client: "Client", acquire: Operation[Grant]) -> None:
        self._origin: Final = Origin(self)
        self.lost: Final[threading.Event] = _LostEvent(self._origin)
        """Set when the lease is lost: the blocks may soon belong to somebody else, so stop working with them.

        In a forked child it is set: the child does not hold the lease, and would not learn of its loss."""
        self.release_failure: BlockyardError | None = None
        """Why the release at the end of the block got no answer, or was refused. None: released, or still held.

        With a TTL the block does not raise it: the blocks are free when the TTL has passed."""
        self._client = client
        self._acquire = acquire
        self._allocation: Allocation | None = None
        self._keeper: Keeper
        self._told: LeaseLost | None = None
        self._callbacks: list[Callable[[LeaseLost], object]] = []
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="blockyard-lease", daemon=True)
        self._watcher = threading.Thread(target=self._watch_the_end, name="blockyard-lease-end", daemon=True)

    @property
    def allocation(self) -> Allocation:
        """The allocation, as in the last answer. It exists only inside the block."""
        if self._allocation is None:
            raise RuntimeError("the lease is not entered: use it in a with statement")
        return self._allocation

    def on_lost(self, callback: Callable[[LeaseLost], object]) -> None:
        """Calls this once when the lease is lost, with the reason; at once if it is lost already.

        It runs in the thread that notices, usually the renewing one: it must not block for long. In a forked child this
        raises `WrongProcess`.
        """
        self._origin.require("lease")
        with self._lock:
            self._callbacks.append(callback)
            error = self._told
        if error is not None:
            callback(error)

    def check(self) -> None:
        """Call it before anything that only the holder may do.

        Raises:
            LeaseLost: The lease is lost, even if nothing has noticed before, or it was left.
            WrongProcess: A parent of this process holds it, and this one does not.
        """
        self._origin.require("lease")
        name = self.allocation.name
        if self._left.is_set():
            raise LeaseLost(f"{name} was released at the end of its with block")
        step = self._next_step()
        if isinstance(step, Lost):
            raise LeaseLost(str(step.error)) from step.error.__cause__

    def __enter__(self) -> Self:
        if self._allocation is not None:
            raise RuntimeError("a lease is entered once; make another one")
        sent_at = lease_now()
        try:
            grant = self._client.call(self._acquire)
            self._allocation = grant.allocation
            self._keeper = Keeper(grant, sent_at=sent_at)
            self._renew_first()
            if grant.allocation.expire_time is not None:
                self._thread.start()
                self._watcher.start()
        except BaseException as error:
            if may_be_held(error):
                self._cancel(error)
            raise
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if not self._origin.is_here:
            return  # a forked child: the parent holds the blocks, and works with them
        self._left.set()
        try:
            self._client.call(release_lease(self.allocation))
        except AllocationNotFound:
            pass  # it ended so long ago that the server has forgotten it
        except BlockyardError as failure:
            self.release_failure = failure
            release_failed(self.allocation, failure, error)
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def _renew_first(self) -> None:
        """Renews what the token was granted before. Raises LeaseLost if it ends meanwhile."""
        while not self._keeper.may_begin:
            match self._keeper.next_step(lease_now()):
                case Wait(seconds):
                    self._left.wait(min(seconds, LONGEST_SLEEP_S))
                case Renew(timeout_s):
                    self._renew(timeout_s)
                case Lost(error):
                    raise error

    def _cancel(self, error: BaseException) -> None:
        if not self._origin.is_here:
            return  # a forked child, and the parent waits still
        self._left.set()
        try:
            self._client.call(cancel_acquire(self._acquire))
        except BlockyardError as failure:
            error.add_note(cancel_failed(failure))

    def _keep(self) -> None:
        try:
            while self._origin.is_here and not self._left.is_set():
                match self._next_step():
                    case Wait(seconds):
                        self._left.wait(min(seconds, LONGEST_SLEEP_S))
                    case Renew(timeout_s):
                        self._renew(timeout_s)
                    case Lost():
                        return
        finally:
            # Whatever ends this thread, nobody renews any more; in a child that it forked, the parent does.
            if self._origin.is_here:
                self._keeper.give_up("is no longer renewed")
                self._next_step()

    def _watch_the_end(self) -> None:
        """Tells about the loss while a renewal is under way.

        Its deadline does not count the time that the machine is suspended: it may end long after the lease.
        """
        while self._origin.is_here and not self._left.wait(LONGEST_SLEEP_S):
            if isinstance(self._next_step(), Lost):
                return

    def _renew(self, timeout_s: float) -> None:
        sent_at = lease_now()
        try:
            renewal = self._client.call(renew_lease(self.allocation, timeout_s=timeout_s))
        except BlockyardError as failure:
            with self._lock:
                self._keeper.failed(failure, now=lease_now())
        else:
            with self._lock:
                self._keeper.renewed(renewal, sent_at=sent_at)
                self._allocation = renewal.allocation

    def _next_step(self) -> Step:
        """What to do now; tells about the loss, once, unless the lease was left before."""
        with self._lock:
            step = self._keeper.next_step(lease_now())
            if not isinstance(step, Lost) or self._told is not None or self._left.is_set():
                return step
            self._told = step.error
            log_loss(step.error)
            callbacks = tuple(self._callbacks)
        self.lost.set()
        for callback in callbacks:
            callback(step.error)
        return step
