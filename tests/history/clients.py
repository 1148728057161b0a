"""The workload: clients that ask for everything a scheduler may ask for, and record each call and its answer.

Nothing is retried behind their backs. A client whose call has no answer asks again on another connection with the same
token, or closes the door behind it, until it knows; each attempt is a call of the history.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Self

import grpc.aio

from blockyard._allocator import batch
from blockyard._call import Call
from blockyard._failures import failure_of_error, failure_of_status
from tests.history.files import HistoryWriter
from tests.history.record import (
    HELD,
    Acquire,
    Answer,
    Asked,
    Describe,
    Freed,
    Get,
    Got,
    Granted,
    ListHeld,
    Op,
    Refused,
    Release,
    Renew,
    Shape,
    View,
)
from tests.history.wire import decode_answer, decode_refusal, encode_call

MOST_HELD: Final = 4
"""Allocations that one client holds at once."""
MOST_MORE: Final = 20
PAUSE_S: Final = 0.03
"""After a call without an answer."""
TRIES: Final = 400
"""How often a client asks what became of one intent, before it leaves it for later."""
TTLS_MS: Final = (None, None, None, 300, 3000)
OPTIONS: Final = [
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 2000),  # also how long one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 500),
]


class Line:
    """One connection without any retry. An async context manager."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address, options=OPTIONS)
        self._stubs: dict[str, grpc.aio.UnaryUnaryMultiCallable[Any, Any]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def send(self, call: Call[Any], timeout_s: float) -> Any:
        """The message that comes back. Raises AioRpcError."""
        stub = self._stubs.get(call.path)
        if stub is None:
            stub = self._channel.unary_unary(call.path, type(call.request).SerializeToString, call.answer.FromString)
            self._stubs[call.path] = stub
        # It waits for the connection: otherwise clients would count broken ones instead of calling.
        return await stub(call.request, timeout=timeout_s, wait_for_ready=True)


@dataclass(slots=True)
class Course:
    """What all clients of a run share."""

    operations: int
    """The clients stop when so many calls were made; finding out what is unknown comes on top."""
    is_enough: Callable[[], bool]
    """Whether all has taken place that was asked for. Until then they go on, to MOST_MORE times as many calls."""
    lines: Sequence[Line]
    timeout_s: float
    made: int = 0
    unknown: int = 0
    refused: int = 0
    why_unknown: Counter[str] = field(default_factory=Counter)
    """Calls on the wire without an answer, by the reason or the status; a batch counts once."""

    ended: bool = False

    def end_early(self) -> None:
        """No more calls than there are, apart from those that find out what is unknown."""
        self.ended = True

    @property
    def goes_on(self) -> bool:
        """Whether clients have anything left to do but to find out what is unknown."""
        if self.ended or self.made >= MOST_MORE * self.operations:
            return False
        return self.made < self.operations or not self.is_enough()


@dataclass(slots=True)
class Intent:
    """One acquire and what its client knows of it."""

    asked: Acquire
    view: View | None = None
    """As it was granted."""
    doubtful: bool = False
    """An acquire of it has had no answer."""
    over: bool = False


@dataclass(slots=True)
class Place:
    """The fleet that a client works on."""

    fleet: str
    instances: int
    blocks: int
    """On each instance."""
    writer: HistoryWriter
    shapes: tuple[tuple[Shape, ...], ...] = field(init=False)

    def __post_init__(self) -> None:
        """What is asked for: small things mostly, wide, pinned, exclusive and combined ones now and then."""
        pinned = tuple((Shape(1, 2, on=instance),) for instance in range(0, self.instances, 4))
        small = ((Shape(1, 1),), (Shape(1, 2),), (Shape(1, 3),), (Shape(2, 1),))
        rare = ((Shape(1, 1, exclusive=True),), (Shape(3, 2),), (Shape(1, 2), Shape(2, 1)), *pinned)
        self.shapes = small * 4 + rare


class Client:
    """One client. `work` until the course is run, then `settle`."""

    def __init__(self, number: int, place: Place, course: Course, dice: Random) -> None:
        self._number = number
        self._place = place
        self._course = course
        self._dice = dice
        self._line = number % len(course.lines)
        self._turn = 0
        self._mine: list[Intent] = []
        self._doubtful: list[Intent] = []

    async def work(self) -> None:
        """Calls until enough were made."""
        chores: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._acquire, 36),
            (self._release, 26),
            (self._renew, 6),
            (self._ask_again, 4),
            (self._batch, 60),
            (self._look, 10),
        ]
        kinds, weights = zip(*chores, strict=True)
        while self._course.goes_on:
            if len(self._mine) >= MOST_HELD and self._dice.random() < 0.7:
                await self._release()
            else:
                await self._dice.choices(kinds, weights)[0]()

    async def settle(self) -> None:
        """Finds out what became of everything, and gives everything back."""
        for intent in [*self._doubtful, *self._mine]:
            for _ in range(TRIES):
                target = Release(token=intent.asked.token)
                if isinstance(await self.ask(target), Freed):
                    break
            else:
                raise AssertionError(f"nobody answers what became of {intent}")
        self._doubtful.clear()
        self._mine.clear()

    async def ask(self, asked: Asked) -> Answer | None:
        """One call, recorded. None: no answer came."""
        call = encode_call(self._place.fleet, f"client-{self._number}", asked)
        start_ns = time.monotonic_ns()
        try:
            answer: Answer | None = decode_answer(
                asked, await self._course.lines[self._line].send(call, self._course.timeout_s)
            )
        except grpc.aio.AioRpcError as error:
            answer = self._failed(error)
        self._record(asked, start_ns, answer)
        if answer is None:
            await self._turn_away()
        return answer

    def _failed(self, error: grpc.aio.AioRpcError) -> Answer | None:
        """The refusal, or None, and why there is no answer is counted."""
        failure = failure_of_error(error)
        answer = decode_refusal(failure)
        if answer is None:
            self._course.why_unknown[failure.reason or failure.status] += 1
        return answer

    async def _ask_perhaps_twice(self, asked: Asked, share: float) -> list[Answer | None]:
        """Two equal calls at once, or one."""
        times = 2 if self._dice.random() < share else 1
        return list(await asyncio.gather(*(self.ask(asked) for _ in range(times))))

    async def _turn_away(self) -> None:
        """To another connection, after a while."""
        self._line = (self._line + 1) % len(self._course.lines)
        await asyncio.sleep(self._dice.uniform(0, 2 * PAUSE_S))

    def _record(self, asked: Asked, start_ns: int, answer: Answer | None) -> None:
        end_ns = None if answer is None else time.monotonic_ns()
        self._place.writer.append(Op(0, self._number, start_ns, end_ns, asked, answer))
        self._course.made += 1
        self._course.unknown += answer is None
        self._course.refused += isinstance(answer, Refused)

    def _new_intent(self) -> Intent:
        self._turn += 1
        shapes, ttl_ms = self._dice.choice(self._place.shapes), self._dice.choice(TTLS_MS)
        return Intent(Acquire(f"{self._number}-{self._turn}", shapes, ttl_ms))

    async def _acquire(self) -> None:
        intent = self._new_intent()
        for answer in await self._ask_perhaps_twice(intent.asked, 0.05):
            await self._note(intent, answer)
        await self._keep(intent)

    async def _keep(self, intent: Intent) -> None:
        """What was granted is mine; what may have been granted is found out."""
        for _ in range(TRIES):
            if intent.view is not None or intent.over or not intent.doubtful:
                break
            # A refusal for want of room says nothing of an attempt that is still on its way: only a cancellation does.
            if self._dice.random() < 0.7:
                await self._note(intent, await self.ask(intent.asked))
            else:
                await self._close_the_door(intent)
        if intent.over:
            return
        if intent.view is not None:
            self._mine.append(intent)
        elif intent.doubtful:
            self._doubtful.append(intent)

    async def _note(self, intent: Intent, answer: Answer | None) -> None:
        match answer:
            case None:
                intent.doubtful = True
            case Granted():
                intent.view = intent.view or answer.view
            case Refused(reason="ALLOCATION_ENDED"):
                intent.over = True
                for _ in range(TRIES):
                    # Which blocks it had is told by nothing else.
                    if intent.view is not None or isinstance(await self.ask(Get(answer.allocation or 0)), Got):
                        break
            case Refused(reason="TOKEN_CANCELLED"):
                intent.over = True
            case _:
                pass

    async def _close_the_door(self, intent: Intent) -> None:
        if isinstance(await self.ask(Release(token=intent.asked.token)), Freed):
            intent.over = True

    async def _ask_again(self) -> None:
        """An acquire that was answered long ago is sent once more."""
        if self._mine:
            intent = self._dice.choice(self._mine)
            await self._note(intent, await self.ask(intent.asked))
            self._forget_what_is_over()

    async def _release(self) -> None:
        if not self._mine:
            return
        intent = self._dice.choice(self._mine)
        assert intent.view is not None
        name, chance = intent.view.allocation, self._dice.random()
        if chance < 0.15:
            asked = Release(token=intent.asked.token)
        elif chance < 0.35 and not any(shape.exclusive for shape in intent.asked.shapes):
            # What is left of an exclusive grant owns its instance, which the sequential model does not know of.
            instance, mask = self._dice.choice(intent.view.placements)
            asked = Release(name, placements=((instance, mask & -mask if self._dice.random() < 0.7 else mask),))
        else:
            asked = Release(name)
        for answer in await self._ask_perhaps_twice(asked, 0.1):
            if isinstance(answer, Freed) and (answer.view is None or answer.view.state != HELD):
                intent.over = True
        self._forget_what_is_over()

    async def _renew(self) -> None:
        leased = [intent for intent in self._mine if intent.asked.ttl_ms is not None]
        intent = self._dice.choice(leased or self._mine or [Intent(Acquire("", ()))])
        if intent.view is None:
            return
        answer = await self.ask(Renew(intent.view.allocation, intent.asked.ttl_ms or 1000))
        intent.over |= isinstance(answer, Refused)
        self._forget_what_is_over()

    async def _look(self) -> None:
        chance = self._dice.random()
        if chance < 0.35 and self._mine:
            view = self._dice.choice(self._mine).view
            assert view is not None
            await self.ask(Get(view.allocation))
        elif chance < 0.5:
            await self.ask(ListHeld())
        else:
            await self.ask(Describe(full=chance < 0.7))

    async def _batch(self) -> None:
        """Several operations in one call; in the history each stands for itself, over the same time."""
        leaving = self._dice.sample(self._mine, k=self._dice.randint(0, len(self._mine)))
        wanted = [
            self._new_intent() for _ in range(self._dice.randint(1, max(1, MOST_HELD - len(self._mine) + len(leaving))))
        ]
        asked: list[Acquire | Release] = [intent.asked for intent in wanted]
        asked += [Release(intent.view.allocation) for intent in leaving if intent.view is not None]
        calls: list[Any] = [encode_call(self._place.fleet, f"client-{self._number}", each) for each in asked]
        start_ns = time.monotonic_ns()
        answers: list[Answer | None] = [None] * len(asked)
        try:
            message = await self._course.lines[self._line].send(batch(calls), self._course.timeout_s)
            answers = [_outcome(each, result) for each, result in zip(asked, message.results, strict=True)]
        except grpc.aio.AioRpcError as error:
            self._failed(error)
        for each, answer in zip(asked, answers, strict=True):
            self._record(each, start_ns, answer)
        if None in answers:
            await self._turn_away()
        for intent, answer in zip([*wanted, *leaving], answers, strict=True):
            if isinstance(answer, Freed):
                intent.over = True
            elif intent in wanted:
                await self._note(intent, answer)
        self._forget_what_is_over()
        for intent in wanted:
            await self._keep(intent)

    def _forget_what_is_over(self) -> None:
        self._mine = [intent for intent in self._mine if not intent.over]


def _outcome(asked: Asked, result: Any) -> Answer | None:
    kind = result.WhichOneof("result")
    if kind == "error":
        return decode_refusal(failure_of_status(result.error))
    return decode_answer(asked, getattr(result, kind))
