"""The clients of a chaos run, and the record of what they were told."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

from blockyard import AsyncClient, AsyncLease, BlockyardError, CallFailed, Event, LeaseLost
from tests.chaos.disturbances import Violation
from tests.history.clients import Client, Course, Line, Place
from tests.history.files import HistoryWriter
from tests.history.record import Acquire, Answer, Asked, Describe, Freed, Granted, ListHeld, Op, Renewed
from tests.history.wire import instance_id
from tests.history.witness import revision_of

FLEETS: Final = 2
CLIENTS: Final = 12
INSTANCES: Final = 4
BLOCKS: Final = 8
"""Of each instance. The fleets are nearly full, so that a block that is wrongly idle is granted soon."""
TIMEOUT_S: Final = 1.5
"""A call's deadline during the disturbances."""
CALM_TIMEOUT_S: Final = 30.0
SDK_TIMEOUT_S: Final = 5.0
"""The deadline of a call of the SDK, with its retries, during the disturbances."""
SETTLE_BOUND_S: Final = 240.0
"""All clients find out what became of their calls within this."""
PAUSE_S: Final = 0.04
"""Between two calls of a client, at most: the load leaves the machine time for what disturbs it."""
KEEPERS: Final = 3
"""SDK clients that want the only block of one instance."""
LEASE_FLEET: Final = "leases"
ONE_BLOCK: Final = "one"
"""The instance of the keepers."""
MANY_BLOCKS: Final = "many"
"""The instance of the clients that fork."""
LEASE_S: Final = 3.0
GO_ON: Final = 0.9
"""How likely a keeper goes on after each look at its lease."""
ASKED_AGAIN: Final = 60
"""Tokens of each client that are sent again after everything has ended."""


class ToldWriter(HistoryWriter):
    """The record of one fleet's calls, and what the disturbances need to know of it."""

    def __init__(self, folder: Path, sizes: Sequence[int]) -> None:
        super().__init__(folder, sizes)
        self.acknowledged = 0
        """Changes that were answered with success."""
        self.revision = 0
        """The highest that any answer named."""

    def append(self, op: Op) -> None:
        """One call."""
        super().append(op)
        self.acknowledged += isinstance(op.answer, Granted | Freed | Renewed)
        self.revision = max(self.revision, revision_of(op.answer))


class ChaosClient(Client):
    """A client of the history's, that also sends tokens again that were granted long ago."""

    def __init__(self, number: int, place: Place, course: Course, dice: Random) -> None:
        super().__init__(number, place, course, dice)
        self._granted: list[Acquire] = []
        """Everything that it was ever granted."""

    async def ask(self, asked: Asked) -> Answer | None:
        """One call, recorded."""
        await asyncio.sleep(self._dice.uniform(0, PAUSE_S))
        answer = await super().ask(asked)
        if isinstance(asked, Acquire) and isinstance(answer, Granted) and not answer.replayed:
            self._granted.append(asked)
        return answer

    async def _look(self) -> None:
        if self._granted and self._dice.random() < 0.3:
            await self.ask(self._dice.choice(self._granted))
        else:
            await super()._look()

    async def work(self) -> None:
        """Calls until it is enough. Raises Violation for an answer that nobody may get."""
        try:
            await super().work()
        except (CallFailed, AssertionError) as wrong:
            raise Violation(f"client {self._number} was answered {describe(wrong)}") from wrong

    async def settle(self) -> None:
        """Looks at everything, finds out what became of its calls, ends them, and sends granted tokens again.

        Raises Violation.
        """
        try:
            await self.ask(ListHeld())
            await self.ask(Describe(full=True))
            await super().settle()
            for asked in self._dice.sample(self._granted, k=min(ASKED_AGAIN, len(self._granted))):
                await self.ask(asked)
            await self.ask(Describe(full=True))
        except (CallFailed, AssertionError) as wrong:
            raise Violation(f"client {self._number} was answered at the end {describe(wrong)}") from wrong


def describe(wrong: BaseException) -> str:
    """A failure in one line."""
    if isinstance(wrong, CallFailed):
        return f"{wrong.status} {wrong.reason or ''}: {wrong}"
    return str(wrong) or repr(wrong)


class Load:
    """Everything that works on the servers at `addresses` during a round, as tasks of this process."""

    def __init__(self, folder: Path, addresses: Sequence[str], dice: Random) -> None:
        self._addresses = addresses
        self.course = Course(10**9, lambda: True, [], TIMEOUT_S)
        self.places = [
            Place(f"fleet-{number}", INSTANCES, BLOCKS, ToldWriter(folder / f"fleet-{number}", [BLOCKS] * INSTANCES))
            for number in range(FLEETS)
        ]
        self._dice = dice
        self._clients: list[ChaosClient] = []
        self.watched: dict[str, list[Event]] = {place.fleet: [] for place in self.places}
        self.leases = 0
        """Leases of the SDK that were entered."""
        self._leases: dict[str, AsyncLease] = {}
        """Those that are entered, by keeper."""
        self._workers: list[asyncio.Task[None]] = []
        self._watches: list[asyncio.Task[None]] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()

    @property
    def writers(self) -> list[ToldWriter]:
        """The records, one for each fleet."""
        return [place.writer for place in self.places if isinstance(place.writer, ToldWriter)]

    @property
    def acknowledged(self) -> int:
        """Changes that were answered with success."""
        return sum(writer.acknowledged for writer in self.writers)

    async def make_fleets(self) -> None:
        """Before the first call of a history."""
        async with AsyncClient(self._addresses[0], timeout_s=CALM_TIMEOUT_S) as client:
            for place in self.places:
                await client.create_fleet(place.fleet)
                for number in range(INSTANCES):
                    await client.create_instance(place.fleet, instance_id(number), total_blocks=BLOCKS)
            await client.create_fleet(LEASE_FLEET)
            await client.create_instance(LEASE_FLEET, ONE_BLOCK, total_blocks=1)
            await client.create_instance(LEASE_FLEET, MANY_BLOCKS, total_blocks=64)

    def begin(self, lines: Sequence[Line], client: AsyncClient) -> None:
        """Starts all tasks."""
        self.course.lines = lines
        self._clients = [
            ChaosClient(number, self.places[number % FLEETS], self.course, Random(self._dice.random()))
            for number in range(CLIENTS)
        ]
        self._workers = [asyncio.create_task(each.work()) for each in self._clients]
        self._watches = [asyncio.create_task(self._watch(client, fleet)) for fleet in self.watched]
        self._keepers = [asyncio.create_task(self._keep(client, f"keeper-{number}")) for number in range(KEEPERS)]

    def raise_what_was_seen(self) -> None:
        """Raises the Violation that a task has ended with."""
        for task in [*self._workers, *self._watches, *self._keepers]:
            if task.done() and not task.cancelled():
                task.result()

    async def stop_working(self) -> None:
        """No more calls. Raises Violation. The watches go on."""
        self.course.end_early()
        self._over.set()
        await asyncio.gather(*self._workers, *self._keepers, return_exceptions=True)
        self.raise_what_was_seen()

    async def settle(self) -> None:
        """Every client finds out what became of its calls, and ends what it holds. Raises Violation."""
        self.course.timeout_s = CALM_TIMEOUT_S
        try:
            async with asyncio.timeout(SETTLE_BOUND_S):
                await asyncio.gather(*(client.settle() for client in self._clients))
        except TimeoutError:
            raise Violation(f"the clients do not get their answers within {SETTLE_BOUND_S:.0f} s of calm") from None

    async def end(self) -> None:
        """Nothing runs any more. Also twice."""
        self._over.set()
        for task in [*self._workers, *self._watches]:
            task.cancel()
        # A lease that is left is released: a keeper that is cancelled meanwhile would leave a call behind.
        await asyncio.gather(*self._workers, *self._watches, *self._keepers, return_exceptions=True)
        for writer in self.writers:
            writer.close()

    async def _watch(self, client: AsyncClient, fleet: str) -> None:
        """Follows a fleet's journal from its first event on, through all disturbances."""
        seen = self.watched[fleet]
        while True:
            try:
                async with client.watch(fleet, from_revision=len(seen) + 1, progress_interval=0.5) as watch:
                    async for event in watch:
                        if event.revision != len(seen) + 1:
                            raise Violation(f"a watch of {fleet} has revision {event.revision} after {len(seen)}")
                        seen.append(event)
            except CallFailed as failure:
                if failure.status in {"NOT_FOUND", "OUT_OF_RANGE", "DATA_LOSS"}:
                    raise Violation(f"a watch of {fleet} was answered {describe(failure)}") from failure
                await asyncio.sleep(0.2)

    async def _keep(self, client: AsyncClient, name: str) -> None:
        """Holds the one block by a lease of the SDK, again and again. No two may say at once that they have it."""
        dice = Random(name)
        while not self._over.is_set():
            with suppress(BlockyardError):
                async with client.lease(
                    LEASE_FLEET, holder=name, blocks=1, instance_names=[ONE_BLOCK], ttl=LEASE_S
                ) as lease:
                    self.leases += 1
                    self._leases[name] = lease
                    try:
                        while not self._over.is_set() and dice.random() < GO_ON:
                            self._have_one_holder(name, lease)
                            await asyncio.sleep(0.05)
                    finally:
                        del self._leases[name]
            await asyncio.sleep(0.05)

    def _have_one_holder(self, name: str, lease: AsyncLease) -> None:
        """Raises LeaseLost if this lease is lost, and Violation if another one says that it is held, too."""
        lease.check()
        for other, its_lease in self._leases.items():
            if other != name:
                with suppress(LeaseLost):
                    its_lease.check()
                    raise Violation(f"{name} and {other} hold the same block by their leases")
