"""The calls that are under way, so that a draining server can end those that take too long, each with an answer."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from blockyard_server.engine.failures import EngineFailure, ShuttingDown, StoreUnavailable
from blockyard_server.rpc.interceptors import Context, Handler, Method

_Task = asyncio.Task[Any]


class CallsUnderWay:
    """Knows the task of each call. For one event loop."""

    def __init__(self) -> None:
        self._streams: set[_Task] = set()
        self._reads: set[_Task] = set()
        self._changes: set[_Task] = set()
        self._ended: dict[_Task, EngineFailure] = {}
        """Calls that were ended from here, and what each is to be answered."""

    async def end_streams(self, patience_s: float) -> None:
        """Ends every open stream: those that know how by themselves within `patience_s`, then the rest.

        An open stream would make grpc's own stop wait out its whole grace.
        """
        if self._streams:
            await asyncio.wait(self._streams, timeout=patience_s)
        self._end(self._streams, _stopping)

    def end_reads(self) -> None:
        """Every read that is under way is answered with SHUTTING_DOWN."""
        self._end(self._reads, _stopping)

    def end_changes(self) -> None:
        """Every change that is under way is answered with STORE_UNAVAILABLE: it may have been made, or be made yet."""
        self._end(self._changes, lambda: StoreUnavailable("the server stops without an answer of the database"))

    def _end(self, calls: set[_Task], failure: Callable[[], EngineFailure]) -> None:
        for task in calls:
            self._ended[task] = failure()
            task.cancel()

    def intercept(self, method: Method, proceed: Handler) -> Handler:
        """As `Interceptor` says."""
        calls = self._streams if method.streams else self._changes if method.changes else self._reads

        async def known(incoming: Any, context: Context) -> Any:
            task = cast("_Task", asyncio.current_task())
            calls.add(task)
            try:
                return await proceed(incoming, context)
            except asyncio.CancelledError:
                # Of the client, or its deadline, unless it was ended from here, and from here alone.
                ended = self._ended.get(task)
                if ended is None or task.uncancel() > 0:
                    raise
            finally:
                calls.discard(task)
                self._ended.pop(task, None)
            raise ended

        return known


def _stopping() -> ShuttingDown:
    return ShuttingDown("the server is stopping; try again")
