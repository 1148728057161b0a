"""Ends calls that wait for their client for too long: the request does not come, or the answer is not taken.

GRPC keeps both for as long as the connection lives, outside of every limit of ours: nothing of such a call runs here.
It offers no way to end one either. But it cancels a call that nobody refers to any more, and resets its stream; so both
of its tasks are ended (docs/adr/0028).
"""

import asyncio
import gc
import logging
import weakref
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any, Final, cast

from blockyard_server.rpc.call_counts import NO_REQUEST, NOT_TAKEN
from blockyard_server.rpc.interceptors import Context, Handler, Method

TICK_S: Final = 1.0
"""Between two looks at what waits."""
LARGE_ANSWER_BYTES: Final = 64 * 1024
"""From this size on answers are weighed, one by one."""
OUTER_TASK: Final = "_schedule_rpc_coro"
"""The coroutine of gRPC that holds a call until its stream is closed; it has started the task of the handler."""


_Task = asyncio.Task[Any]
_log = logging.getLogger(__name__)


class StuckCalls:
    """Knows for how long each call has waited for its client. For one event loop.

    Time is counted in ticks of about a second that this event loop has lived to see: a process that was stopped for a
    minute finds requests and acknowledgements that it has not looked at yet, and must not end their calls.
    """

    def __init__(self, given_up: Counter[str], *, patience_s: float, most: int, most_bytes: int) -> None:
        """A call may wait for `patience_s`; if more than `most` wait, or large answers of `most_bytes`, for less.

        `given_up` counts the calls that were ended, by what they waited for: NO_REQUEST or NOT_TAKEN.
        """
        self._given_up = given_up
        self._patience_ticks = patience_s / TICK_S
        self._most = most
        self._most_bytes = most_bytes
        self._tick = 0
        self._without_request: dict[_Task, int] = {}
        """Calls whose headers have come, in the order of their ticks."""
        self._just_answered: list[weakref.ref[_Task]] = []
        self._not_taken: dict[_Task, int] = {}
        """Calls that were answered, and the tick at which that was noticed."""
        self._ending_streams: dict[_Task, int] = {}
        """Streams that were ended because their answers are not taken. Their tasks may be done, and gRPC's go on."""
        self._weights: dict[_Task, int] = {}
        """Calls with a large answer that is not taken yet, the first one first, and its bytes."""
        self._bytes = 0
        self._ticking: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait for their client, as of the last tick."""
        return len(self._without_request) + len(self._not_taken) + len(self._ending_streams)

    def start(self) -> None:
        """Begins to end what waits for too long."""
        self._ticking = asyncio.create_task(self._keep_ticking(), name="blockyard-stuck-calls")

    def stop(self) -> None:
        """Ends no call any more."""
        if self._ticking is not None:
            self._ticking.cancel()

    def note_arrival(self) -> None:
        """The headers of a call have come; the present task is the call's."""
        self._without_request[cast("_Task", asyncio.current_task())] = self._tick
        if len(self._without_request) > self._most:
            self._make_room()

    def _make_room(self) -> None:
        """Ends the oldest quarter of the calls without a request.

        Calls come one by one, and the request of an honest one is here before many others have come.
        """
        _drop_done(self._without_request)
        oldest = list(self._without_request)[: len(self._without_request) - 3 * self._most // 4]
        for task in oldest:
            del self._without_request[task]
        self._end(oldest, NO_REQUEST)

    def note_untaken_stream(self) -> None:
        """The client of a stream does not take what is sent; the stream ends, and the present task is its."""
        self._ending_streams[cast("_Task", asyncio.current_task())] = self._tick

    def intercept(self, method: Method, proceed: Handler) -> Handler:
        """As `Interceptor` says. The outermost one, since it is told what is really sent."""
        without_request = self._without_request

        async def begun(incoming: Any, context: Context) -> Any:
            without_request.pop(cast("_Task", asyncio.current_task()), None)
            return await proceed(incoming, context)

        async def answered(incoming: Any, context: Context) -> Any:
            task = cast("_Task", asyncio.current_task())
            without_request.pop(task, None)
            answer = await proceed(incoming, context)
            # A client that takes it at once costs no more than this: the task ends, and the reference is dead.
            self._just_answered.append(weakref.ref(task))
            if len(answer) >= LARGE_ANSWER_BYTES:
                self._weigh(task, len(answer))
            return answer

        return begun if method.streams else answered

    def _weigh(self, task: _Task, size: int) -> None:
        self._weights[task] = size
        self._bytes += size
        task.add_done_callback(self._taken)
        if self._bytes > self._most_bytes:
            # Half of them: to find the tasks costs the same for one as for many.
            oldest, weight = [], 0
            for each, its_size in self._weights.items():
                if each is task or self._bytes - weight <= self._most_bytes // 2:
                    break
                oldest.append(each)
                weight += its_size
            self._end(oldest, NOT_TAKEN)

    def _taken(self, task: _Task) -> None:
        self._bytes -= self._weights.pop(task, 0)

    async def _keep_ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            try:
                self.tick()
            except Exception:  # noqa: BLE001 - whatever it is, the next tick comes
                _log.exception("calls that wait for their clients are not ended")

    def tick(self) -> None:
        """Looks at what waits, and ends what has waited for too long."""
        self._tick += 1
        for reference in self._just_answered:
            task = reference()
            if task is not None and not task.done():
                self._not_taken.setdefault(task, self._tick)
        self._just_answered.clear()
        _drop_done(self._without_request)
        _drop_done(self._not_taken)
        self._end(self._overdue(self._without_request), NO_REQUEST)
        self._end(self._overdue(self._not_taken) + self._overdue(self._ending_streams), NOT_TAKEN)

    def _overdue(self, waiting: dict[_Task, int]) -> list[_Task]:
        """Takes out what has waited for too long, or for more than a tick if there are too many."""
        too_many = len(waiting) - self._most
        overdue = []
        for number, (task, since) in enumerate(waiting.items()):
            age = self._tick - since
            if age < self._patience_ticks and (number >= too_many or age <= 1):
                break
            overdue.append(task)
        for task in overdue:
            del waiting[task]
        return overdue

    def _end(self, tasks: Collection[_Task], why: str) -> None:
        if not tasks:
            return
        for outer, task in _with_outer(tasks):
            outer.cancel()
            task.cancel()
            self._given_up[why] += 1


def _drop_done(waiting: dict[_Task, int]) -> None:
    for task in [task for task in waiting if task.done()]:
        del waiting[task]


def _with_outer(tasks: Iterable[_Task]) -> list[tuple[_Task, _Task]]:
    """The tasks of gRPC that hold the calls of these ones, each with its own; without those that have ended."""
    wanted = set(tasks)
    found = []
    for outer in asyncio.all_tasks():
        coroutine = outer.get_coro()
        if getattr(coroutine, "__name__", "") != OUTER_TASK:
            continue
        # Its variables are in an object that the coroutine refers to.
        for variables in gc.get_referents(coroutine):
            found += [(outer, task) for task in gc.get_referents(variables) if _is_in(task, wanted)]
    return found


def _is_in(candidate: Any, wanted: set[_Task]) -> bool:
    return isinstance(candidate, asyncio.Task) and candidate in wanted
