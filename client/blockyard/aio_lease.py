"""A lease for the time of an `async with` block, kept alive by a task."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

from blockyard._call import Operation, T
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
    from blockyard.aio import AsyncClient


class _LostEvent(asyncio.Event):
    """An event that counts as set in a forked child."""

    def __init__(self, origin: Origin) -> None:
        super().__init__()
        self._origin = origin

    def is_set(self) -> bool:
        return not self._origin.is_here or super().is_set()

    async def wait(self) -> Literal[True]:
        return True if not self._origin.is_here else await super().wait()


class AsyncLease:
    """What `AsyncClient.lease` returns: enter it to acquire, leave it to release."""

    def __init__(self, client: "AsyncClient", acquire: Operation[Grant]) -> None:
        self._origin: Final = Origin(self)
        self.lost: Final[asyncio.Event] = _LostEvent(self._origin)
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
        self._left = False
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    @property
    def allocation(self) -> Allocation:
        """The allocation, as in the last answer. It exists only inside the block."""
        if self._allocation is None:
            raise RuntimeError("the lease is not entered: use it in an async with statement")
        return self._allocation

    def on_lost(self, callback: Callable[[LeaseLost], object]) -> None:
        """Calls this once when the lease is lost, with the reason; at once if it is lost already.

        It runs in the event loop: it must not block. The body's `asyncio.current_task().cancel` would stop the body.
        """
        self._origin.require("lease")
        self._callbacks.append(callback)
        if self._told is not None:
            callback(self._told)

    def check(self) -> None:
        """Call it before anything that only the holder may do.

        Raises:
            LeaseLost: The lease is lost, even if nothing has noticed before, or it was left.
            WrongProcess: A parent of this process holds it, and this one does not.
        """
        self._origin.require("lease")
        name = self.allocation.name
        if self._left:
            raise LeaseLost(f"{name} was released at the end of its async with block")
        step = self._next_step()
        if isinstance(step, Lost):
            raise LeaseLost(str(step.error)) from step.error.__cause__

    async def __aenter__(self) -> Self:
        if self._allocation is not None:
            raise RuntimeError("a lease is entered once; make another one")
        sent_at = lease_now()
        try:
            grant = await self._client.call(self._acquire)
            self._allocation = grant.allocation
            self._keeper = Keeper(grant, sent_at=sent_at)
            await self._renew_first()
        except BaseException as error:
            if may_be_held(error):
                await self._cancel(error)
            raise
        if grant.allocation.expire_time is not None:
            self._tasks = (
                asyncio.create_task(self._keep(), name="blockyard-lease"),
                asyncio.create_task(self._watch_the_end(), name="blockyard-lease-end"),
            )
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if not self._origin.is_here:
            return  # a forked child: the parent holds the blocks, and works with them
        self._left = True
        for task in self._tasks:
            task.cancel()
        try:
            await self._finish(release_lease(self.allocation))
        except AllocationNotFound:
            pass  # it ended so long ago that the server has forgotten it
        except BlockyardError as failure:
            self.release_failure = failure
            release_failed(self.allocation, failure, error)

    async def _renew_first(self) -> None:
        """Renews what the token was granted before. Raises LeaseLost if it ends meanwhile."""
        while not self._keeper.may_begin:
            match self._keeper.next_step(lease_now()):
                case Wait(seconds):
                    await asyncio.sleep(min(seconds, LONGEST_SLEEP_S))
                case Renew(timeout_s):
                    await self._renew(timeout_s)
                case Lost(error):
                    raise error

    async def _cancel(self, error: BaseException) -> None:
        if not self._origin.is_here:
            return  # a forked child, and the parent waits still
        try:
            await self._finish(cancel_acquire(self._acquire))
        except BlockyardError as failure:
            error.add_note(cancel_failed(failure))

    async def _finish(self, operation: Operation[T]) -> T:
        """Carries out an operation to its end, even if the task that waits for it is cancelled (again)."""
        task = asyncio.create_task(self._client.call(operation))
        _unfinished.add(task)
        task.add_done_callback(_unfinished.discard)
        return await asyncio.shield(task)

    async def _keep(self) -> None:
        try:
            while self._origin.is_here:
                match self._next_step():
                    case Wait(seconds):
                        await asyncio.sleep(min(seconds, LONGEST_SLEEP_S))
                    case Renew(timeout_s):
                        await self._renew(timeout_s)
                    case Lost():
                        return
        finally:
            # Whatever ends this task, nobody renews any more; in a forked child, the parent does.
            if self._origin.is_here:
                self._keeper.give_up("is no longer renewed")
                self._next_step()

    async def _watch_the_end(self) -> None:
        """Tells about the loss while a renewal is under way.

        Its deadline does not count the time that the machine is suspended: it may end long after the lease.
        """
        while True:
            await asyncio.sleep(LONGEST_SLEEP_S)
            if not self._origin.is_here or isinstance(self._next_step(), Lost):
                return

    async def _renew(self, timeout_s: float) -> None:
        sent_at = lease_now()
        try:
            renewal = await self._client.call(renew_lease(self.allocation, timeout_s=timeout_s))
        except BlockyardError as failure:
            self._keeper.failed(failure, now=lease_now())
        else:
            self._keeper.renewed(renewal, sent_at=sent_at)
            self._allocation = renewal.allocation

    def _next_step(self) -> Step:
        """What to do now; tells about the loss, once, unless the lease was left before."""
        step = self._keeper.next_step(lease_now())
        if isinstance(step, Lost) and self._told is None and not self._left:
            self._told = step.error
            log_loss(step.error)
            self.lost.set()
            for callback in self._callbacks:
                callback(step.error)
        return step


_unfinished: Final[set[asyncio.Task[object]]] = set()
"""Keeps the tasks alive that nobody waits for any more: an event loop only refers to them weakly."""
