"""The writers of the process: each a bounded queue, group commit, and one thread in which transactions run.

Requests that arrive while a commit is under way share the next one. A request waits for its outcome in a future of
its own, so a client that goes away cancels its waiting and never the commit. Classes, tenants and fleets take turns
(`fair_queue.py`, docs/adr/0029), and so do requests and exclusive work (docs/adr/0017).
"""

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf
from typing import Final, TypeVar

from blockyard_server.domain.answers import Answer
from blockyard_server.domain.errors import Refused
from blockyard_server.domain.requests import Request
from blockyard_server.engine.asker import ANYBODY, Asker, Urgency, cost_of, urgency_of
from blockyard_server.engine.batch import RETRY_NEXT_BATCH, Outcome, RetryNextBatch
from blockyard_server.engine.counts import Counts
from blockyard_server.engine.failures import EngineFailure, InternalError, Overloaded, ShuttingDown
from blockyard_server.engine.fair_queue import FairQueue
from blockyard_server.engine.linger import Linger
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.waiting_room import Company, WaitingRoom

EXCLUSIVE_TURN_S: Final = 0.025
"""After so long with exclusive work it is the requests' turn, and after so long with requests its own."""
COMPANY_S: Final = 1.0
"""For so long after another tenant's request a writer serves more than one: who was answered asks again at once."""
MAX_SHARED_BATCH: Final = 128
"""Requests of one fleet that share a transaction while more than one tenant asks, and their units."""
MIN_SHARED_BATCH: Final = 16
SHARED_TURN_S: Final = 0.02
"""Between these bounds there are as many as take so long: nobody's next request waits for much longer."""
RECENT: Final = 0.25
"""The weight of the latest turn in the mean of what a unit takes."""
MAX_BATCH_LIMITS: Final = 1000
"""For so many fleets a writer remembers that their batches were too large."""
MAX_WAITING_EXCLUSIVE: Final = 1000
"""Sweeps and snapshots that may wait for the writer thread; one more is refused with OVERLOADED."""

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """How the writer groups and bounds work."""

    max_waiting: int = 10_000
    """Requests that may wait, in all shards together (`WaitingRoom`); one more is refused with OVERLOADED."""
    max_batch: int = 512
    """Requests of one fleet that share a transaction; no more than MAX_SHARED_BATCH beside other tenants."""
    linger_s: float = 0.004
    """How long the writer waits for as many requests as came together last time. A request that comes alone
    never waits."""
    max_linger_s: float = 0.05
    """How long it waits for them in a busy process: as long as the last round took of the CPU, but no longer than this.
    So a call that waits for others gains what a shared commit saves, and loses at most as much again."""


@dataclass(slots=True)
class _Ticket:
    request: Request
    outcome: "asyncio.Future[Answer]"
    begins_call: bool
    asker: Asker
    urgency: Urgency
    since_s: float
    number: int = 0

    @property
    def cost(self) -> float:
        """As the queue asks for it."""
        return cost_of(self.request)


@dataclass(slots=True)
class _ExclusiveWork:
    """Work for the writer thread between two batches."""

    work: Callable[[], object]
    outcome: "asyncio.Future[object]"


class Writer:
    """Carries out requests, a tenant's of one class in the order of their arrival in a fleet. A shard of `Writers`."""

    def __init__(
        self,
        transactor: Transactor,
        limits: WriterLimits,
        counts: Counts | None = None,
        room: WaitingRoom | None = None,
        cpu_s: Callable[[], float] = time.process_time,
    ) -> None:
        """`room` is that of all shards; None: there is no other.

        `cpu_s` is the CPU time that the process has used, in all its threads.
        """
        self._transactor = transactor
        self._room = WaitingRoom(limits.max_waiting) if room is None else room
        self._company = Company(COMPANY_S)
        self._unit_s = SHARED_TURN_S / MAX_SHARED_BATCH
        """How long a unit has taken lately, in shared turns."""
        self._counts = Counts() if counts is None else counts
        self._limits = limits
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="blockyard-writer")
        self._queue: FairQueue[_Ticket] = FairQueue()
        self._batch_limits: dict[str, int] = {}
        """Fleets of which fewer requests than `max_batch` are taken at a time, because more were too many."""
        self._exclusive: deque[_ExclusiveWork] = deque()
        self._calls_waiting = 0
        """How many calls the waiting requests came in: those of a Batch came in one."""
        self._linger = Linger(limits.linger_s, limits.max_linger_s, cpu_s)
        self._wake = asyncio.Event()
        self._refusing = False
        """New requests are refused; exclusive work is not yet."""
        self._given_up = False
        """What was not begun is refused, too."""
        self._stopping = False
        self.busy_since_s: float | None = None
        """Since when its thread is at the work that it is at, by the monotonic clock; None: at none."""
        self._loop_task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """How many requests wait now."""
        return len(self._queue)

    def start(self) -> None:
        """Begins to carry out what is enqueued."""
        self._loop_task = asyncio.create_task(self._run(), name="blockyard-writer")

    def refuse(self) -> None:
        """From now on new requests are refused. What was accepted, and exclusive work, are carried out."""
        self._refusing = True

    def give_up(self) -> None:
        """Refuses what waits and was not begun, too: there is no time left for it."""
        self._refusing = self._given_up = True
        for ticket in self._queue:
            if not ticket.outcome.done():
                ticket.outcome.set_exception(_no_time_left())

    async def stop(self) -> None:
        """Carries out what was accepted, refuses the rest, and ends."""
        self._refusing = self._stopping = True
        self._wake.set()
        if self._loop_task is not None:
            await self._loop_task
        self._thread.shutdown()

    def enqueue(
        self,
        request: Request,
        asker: Asker = ANYBODY,
        *,
        urgency: Urgency | None = None,
        begins_call: bool = True,
    ) -> "asyncio.Future[Answer]":
        """Queues a request: the future has its answer, or raises Refused or EngineFailure.

        `urgency` is that of all of its call's requests on the fleet, which keep their order; None: it is a call by
        itself. `begins_call` is False for what came in the same call as the request before: it is no other call to
        wait for. Raises Overloaded, ShuttingDown.
        """
        if self._refusing:
            raise ShuttingDown("the server is stopping; try again, with the same token, at another one or later")
        if urgency is None:
            urgency = urgency_of(request)
        self._room.enter(asker, urgency)
        self._counts.waiting[urgency] += 1
        self._company.note(asker.tenant)
        outcome = asyncio.get_running_loop().create_future()
        self._queue.add(request.fleet, _Ticket(request, outcome, begins_call, asker, urgency, time.monotonic()))
        self._calls_waiting += begins_call
        if self._linger.is_enough(self._calls_waiting):
            self._wake.set()
        return outcome

    async def run_exclusive(self, work: Callable[[], T], *, however_many: bool = False) -> T:
        """Runs `work` in the writer thread between two batches: no transaction is open. Raises EngineFailure.

        `however_many`: it is not refused for the others that wait.
        """
        if self._stopping:
            raise ShuttingDown("the server is stopping; try again at another one or later")
        if len(self._exclusive) >= MAX_WAITING_EXCLUSIVE and not however_many:
            message = f"{MAX_WAITING_EXCLUSIVE} reads wait for their turn, the most that this server accepts; try later"
            raise Overloaded(message, maximum=MAX_WAITING_EXCLUSIVE)
        outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._exclusive.append(_ExclusiveWork(work, outcome))
        self._wake.set()
        result: T = await outcome  # type: ignore[assignment]  # what `work` answers, by way of a queue of all kinds
        return result

    async def _run(self) -> None:
        while True:
            await self._gather()
            if self._stopping and not self._queue and not self._exclusive:
                return
            await self._run_exclusive_work()
            await self._carry_out_round()

    async def _run_exclusive_work(self) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + EXCLUSIVE_TURN_S
        while self._exclusive:
            await self._run_one_exclusive(self._exclusive.popleft())
            if self._queue and loop.time() >= until_s:
                return

    async def _carry_out_round(self) -> None:
        """One turn of each fleet that waits, until a fleet would have its second, or exclusive work has waited."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + EXCLUSIVE_TURN_S
        served: set[str] = set()
        calls, left_waiting = 0, False
        while (fleet := self._queue.first) is not None and fleet not in served:
            if self._exclusive and served and loop.time() >= until_s:
                left_waiting = True
                break
            served.add(fleet)
            most, most_units = self._most(fleet)
            turn = self._queue.take(most, most_units)
            self._room.leave(_askers(turn.entries))
            self._note_waiting(turn.entries, -1)
            turn_calls = _calls(turn.entries)
            calls += turn_calls
            self._calls_waiting -= turn_calls
            began_s = loop.time()
            again = await self._carry_out(fleet, turn.entries)
            self._room.come_back(_askers(again))
            self._note_waiting(again, 1)
            self._calls_waiting += _calls(again)
            took_s = loop.time() - began_s
            if most_units < inf and len(turn.entries) >= MIN_SHARED_BATCH:
                self._unit_s += RECENT * (took_s / sum(ticket.cost for ticket in turn.entries) - self._unit_s)
            self._queue.end_turn(fleet, took_s, again)
            left_waiting = left_waiting or turn.more or bool(again)
        self._linger.note_batch(calls + self._calls_waiting, left_waiting=left_waiting)

    def _note_waiting(self, tickets: list[_Ticket], times: int) -> None:
        waiting = self._counts.waiting
        for ticket in tickets:
            waiting[ticket.urgency] += times

    def _most(self, fleet: str) -> tuple[int, float]:
        """How many of the fleet's requests one turn takes, and how many units."""
        most = self._batch_limits.get(fleet, self._limits.max_batch)
        if not self._company.is_present():
            return most, inf
        units = min(MAX_SHARED_BATCH, max(MIN_SHARED_BATCH, int(SHARED_TURN_S / self._unit_s)))
        return min(most, units), units

    async def _gather(self) -> None:
        """Waits for work: for as many calls as came together last time, but no longer than the linger."""
        timer = asyncio.get_running_loop().call_later(self._linger.begin(), self._end_linger)
        while not (self._queue and self._linger.is_enough(self._calls_waiting)) and not self._interrupted:
            self._wake.clear()
            await self._wake.wait()
        timer.cancel()
        self._linger.end()

    def _end_linger(self) -> None:
        """The timer says that it is over, not the clock: a timer may fire before its time."""
        self._linger.time_out(idle=not self._queue)
        self._wake.set()

    @property
    def _interrupted(self) -> bool:
        return self._stopping or bool(self._exclusive)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        self.busy_since_s = time.monotonic()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self.busy_since_s = None

    async def _run_one_exclusive(self, exclusive: _ExclusiveWork) -> None:
        try:
            result = await self._in_thread(exclusive.work)
        except Exception as failure:  # noqa: BLE001 - whatever it is, it belongs to who asked, and the writer goes on
            if not exclusive.outcome.done():
                exclusive.outcome.set_exception(failure)
        else:
            if not exclusive.outcome.done():
                exclusive.outcome.set_result(result)

    async def _carry_out(self, fleet: str, tickets: list[_Ticket]) -> list[_Ticket]:
        """Carries out one batch; answers who must be asked again."""
        tickets = [ticket for ticket in tickets if not ticket.outcome.done()]
        if not tickets:
            return []
        begun_s, waits = time.monotonic(), self._counts.waits
        outcomes = await self._outcomes(fleet, [ticket.request for ticket in tickets])
        again = []
        for ticket, outcome in zip(tickets, outcomes, strict=True):
            if not isinstance(outcome, RetryNextBatch):
                waits[ticket.urgency].add(begun_s - ticket.since_s)
            if ticket.outcome.done():
                continue
            if isinstance(outcome, RetryNextBatch):
                if self._given_up:
                    ticket.outcome.set_exception(_no_time_left())
                else:
                    again.append(ticket)
            elif isinstance(outcome, Refused | EngineFailure):
                ticket.outcome.set_exception(outcome)
            else:
                ticket.outcome.set_result(outcome)
        return again

    async def _outcomes(self, fleet: str, requests: list[Request]) -> list[Outcome | EngineFailure]:
        """What became of each request. The next batch is smaller if this one was too large or has failed."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        outcomes: list[Outcome | EngineFailure]
        try:
            outcomes = list(await self._in_thread(lambda: self._transactor.carry_out(fleet, requests)))
        except EngineFailure as failure:
            self._limit_batch(fleet, len(requests) // 2)
            outcomes = [failure] * len(requests)
        except Exception as fault:  # noqa: BLE001 - a fault in one request must not end the writer
            self._limit_batch(fleet, len(requests) // 2)
            if len(requests) > 1:
                return [RETRY_NEXT_BATCH] * len(requests)  # halved until the faulty one is alone, so that only it fails
            outcomes = [_internal_error(fleet, fault)]
        else:
            self._learn(fleet, len(requests), sum(not isinstance(outcome, RetryNextBatch) for outcome in outcomes))
        self._counts.note_batch(requests, outcomes, loop.time() - begun_s)
        return outcomes

    def _learn(self, fleet: str, asked: int, carried_out: int) -> None:
        if carried_out < asked:
            self._limit_batch(fleet, 2 * carried_out)
        elif fleet in self._batch_limits:
            self._limit_batch(fleet, 2 * self._batch_limits[fleet])

    def _limit_batch(self, fleet: str, requests: int) -> None:
        """Takes at most so many of the fleet's requests next time: fewer after a failure or a cut, else ever more."""
        if requests >= self._limits.max_batch:
            self._batch_limits.pop(fleet, None)
        elif fleet in self._batch_limits or len(self._batch_limits) < MAX_BATCH_LIMITS:
            self._batch_limits[fleet] = max(1, requests)


def _no_time_left() -> ShuttingDown:
    return ShuttingDown("the server is stopping; nothing was done: try again at another one or later")


def _calls(tickets: list[_Ticket]) -> int:
    return sum(ticket.begins_call for ticket in tickets)


def _askers(tickets: list[_Ticket]) -> list[Asker]:
    return [ticket.asker for ticket in tickets]


def _internal_error(fleet: str, fault: Exception) -> InternalError:
    incident = uuid.uuid4().hex[:12]
    _log.error("incident %s: a request on fleet %s failed unexpectedly", incident, fleet, exc_info=fault)
    return InternalError(
        f"the server failed at this request; its log says more under incident {incident}", incident=incident
    )
