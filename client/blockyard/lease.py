"""A lease for the time of a `with` block, kept alive by a thread."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from blockyard import operations
from blockyard._call import Operation
from blockyard._clock import lease_now
from blockyard._leasing import (
    LONGEST_SLEEP_S,
    Keeper,
    Lost,
    Renew,
    Step,
    Wait,
    close_door,
    door_open,
    may_be_held,
    release_failed,
)
from blockyard.errors import AllocationNotFound, BlockyardError, LeaseLost
from blockyard.types import Allocation, Grant

if TYPE_CHECKING:
    from blockyard.client import Client

JOIN_S: Final = 1.0
"""How long leaving waits for a renewal that is under way; it does no harm afterwards."""


class Lease:
    """What `Client.lease` returns: enter it to acquire, leave it to release."""

    def __init__(self, client: "Client", acquire: Operation[Grant]) -> None:
        self.lost: Final = threading.Event()
        """Set when the lease is lost: the blocks may be somebody else's soon, so stop working with them."""
        self._client = client
        self._acquire = acquire
        self._allocation: Allocation | None = None
        self._keeper: Keeper
        self._told: LeaseLost | None = None
        self._callbacks: list[Callable[[LeaseLost], object]] = []
        self._lock = threading.Lock()
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="blockyard-lease", daemon=True)

    @property
    def allocation(self) -> Allocation:
        """What is held, as the last answer said. Only from entering on."""
        if self._allocation is None:
            raise RuntimeError("the lease is not entered: use it in a with statement")
        return self._allocation

    def on_lost(self, callback: Callable[[LeaseLost], object]) -> None:
        """Calls this once when the lease is lost, with the reason; at once if it is lost already.

        It runs in the thread that notices, usually the renewing one: it must not block for long.
        """
        with self._lock:
            self._callbacks.append(callback)
            error = self._told
        if error is not None:
            callback(error)

    def check(self) -> None:
        """Call it before anything that only the holder may do.

        Raises:
            LeaseLost: The lease is lost, even if nothing has noticed before, or it was left.
        """
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
            if grant.allocation.expire_time is not None:
                self._thread.start()
        except BaseException as error:
            if may_be_held(error):
                self._close_door(error)
            raise
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._left.set()
        try:
            self._client.call(operations.release(self.allocation))
        except AllocationNotFound:
            pass  # it ended so long ago that the server has forgotten it
        except BlockyardError as failure:
            if error is None:
                raise
            error.add_note(release_failed(self.allocation, failure))
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def _close_door(self, error: BaseException) -> None:
        self._left.set()
        try:
            self._client.call(close_door(self._acquire))
        except BlockyardError as failure:
            error.add_note(door_open(failure))

    def _keep(self) -> None:
        try:
            while not self._left.is_set():
                match self._next_step():
                    case Wait(seconds):
                        self._left.wait(min(seconds, LONGEST_SLEEP_S))
                    case Renew(timeout_s):
                        self._renew(timeout_s)
                    case Lost():
                        return
        finally:
            # Whatever ends this thread, nobody renews any more.
            self._keeper.give_up("is no longer renewed")
            self._next_step()

    def _renew(self, timeout_s: float) -> None:
        sent_at = lease_now()
        try:
            renewal = self._client.call(operations.renew(self.allocation, timeout_s=timeout_s))
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
            callbacks = tuple(self._callbacks)
        self.lost.set()
        for callback in callbacks:
            callback(step.error)
        return step
