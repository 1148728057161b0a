"""Clients that do everything a fleet can be asked to do, and note what they were told, until the server dies."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, TypeVar

from blockyard import (
    Allocation,
    AsyncClient,
    CallFailed,
    Ended,
    Fleet,
    Grant,
    Instance,
    InUse,
    LeaseExpired,
    NoCapacity,
    NotFound,
    Operation,
    Placement,
    Reason,
    ReleaseOutcome,
    ReleaseResult,
    Renewal,
    operations,
)
from blockyard._allocator import batch
from blockyard._call import Call
from blockyard._fleet_admin import cordon_instance, create_instance, delete_instance, uncordon_instance, update_fleet
from tests.fault.intents import Intent, Told
from tests.harness.journal import blocks_of
from tests.harness.one_shot import OneShotClient

FLEET: Final = "gpu"
NODES: Final = tuple(f"node-{n}" for n in range(6))
BLOCKS: Final = 8

T = TypeVar("T")


class ServerGone(Exception):
    """No answer came: the outcome of the call is unknown."""


def no_answer(failure: CallFailed, *, database_may_go: bool = False) -> bool:
    """Whether a failure says nothing of the outcome: it is the transport's, or the server lost its database."""
    if failure.reason == Reason.STORE_UNAVAILABLE:
        return database_may_go
    return failure.reason is None and failure.status in {"UNAVAILABLE", "CANCELLED", "UNKNOWN", "INTERNAL"}


class Scheduler:
    """One client: acquires, releases, renews, batches and administers at random, one call after the other.

    `database_may_go`: that a server has no database ends the work, like a server that has gone.
    """

    def __init__(self, number: int, told: Told, *, database_may_go: bool = False) -> None:
        self._number = number
        self._name = f"scheduler-{number}"
        self._told = told
        self._database_may_go = database_may_go
        self._turn = 0
        self._dice = Random()
        self._client: OneShotClient

    async def work(self, client: OneShotClient, dice: Random, is_enough: Callable[[], bool] = lambda: False) -> None:
        """Goes on until the server has gone, or it is enough: a fail-over may be so quick that nobody notices."""
        self._client, self._dice = client, dice
        chores: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._acquire, 40),
            (self._release, 25),
            (self._release_a_part, 8),
            (self._renew, 10),
            (self._batch, 10),
            (self._administer, 7),
        ]
        kinds, weights = zip(*chores, strict=True)
        try:
            while not is_enough():
                (chore,) = self._dice.choices(kinds, weights)
                await chore()
        except ServerGone:
            return

    async def _ask(self, call: Call[T], *intents: Intent) -> T | CallFailed:
        """One call. Raises ServerGone with the intents in doubt."""
        doubts = [intent.in_doubt for intent in intents]
        for intent in intents:
            intent.in_doubt = True
        outcome = await self._client.start(call).outcome()
        if isinstance(outcome, CallFailed) and no_answer(outcome, database_may_go=self._database_may_go):
            raise ServerGone
        for intent, doubt in zip(intents, doubts, strict=True):
            intent.in_doubt = doubt
        self._told.answers += 1
        if isinstance(outcome, Grant | ReleaseResult | Renewal):
            self._told.revision = max(self._told.revision, outcome.revision)
        return outcome

    def _new_intent(self) -> Intent:
        self._turn += 1
        token = f"{self._name}-{self._turn}"
        ttl = self._dice.choice((None, None, 0.2, 5.0))
        call = operations.acquire(
            FLEET,
            holder=self._name,
            blocks=self._dice.randint(1, 3),
            instances=self._dice.choice((1, 1, 1, 2)),
            token=token,
            ttl=ttl,
        )
        intent = Intent(self._name, call, token, has_lease=ttl is not None)
        self._told.intents[token] = intent
        return intent

    def _note_acquire(self, intent: Intent, outcome: Grant | CallFailed) -> None:
        match outcome:
            case Grant():
                intent.note_grant(outcome)
                assert not outcome.replayed, "the token was never used before"
                assert outcome.allocation.fencing_token > self._told.floor, "a fencing token came back"
            case NoCapacity():
                intent.refused = True
            case _:
                raise AssertionError(f"an acquire was answered {outcome!r}")

    def _mine(self) -> list[Intent]:
        return [i for i in self._told.intents.values() if i.owner == self._name and i.allocation and not i.over]

    def _one_of_mine(self) -> Intent | None:
        mine = self._mine()
        return self._dice.choice(mine) if mine else None

    async def _acquire(self) -> None:
        intent = self._new_intent()
        self._note_acquire(intent, await self._ask(intent.call, intent))

    async def _release(self) -> None:
        intent = self._one_of_mine()
        if intent is None:
            return
        note_release(intent, await self._ask(self._release_of(intent), intent))

    def _release_of(self, intent: Intent) -> Operation[ReleaseResult]:
        assert intent.allocation is not None
        intent.asked_to_free |= intent.granted
        if self._dice.random() < 0.3:
            return operations.release_by_token(FLEET, intent.token)
        return operations.release(intent.allocation, holder=self._name)

    async def _release_a_part(self) -> None:
        intent = self._one_of_mine()
        if intent is None:
            return
        allocation: Allocation | None = intent.allocation
        assert allocation is not None
        place = self._dice.choice(allocation.placements)
        part = Placement(place.instance, tuple(self._dice.sample(place.blocks, k=1)))
        blocks = set(blocks_of([part]))
        intent.asked_to_free |= blocks
        outcome = await self._ask(operations.release(allocation, placements=[part]), intent)
        assert isinstance(outcome, ReleaseResult), outcome
        intent.freed |= blocks
        intent.over = outcome.allocation is not None and outcome.allocation.end_time is not None

    async def _renew(self) -> None:
        intent = self._one_of_mine()
        if intent is None:
            return
        assert intent.allocation is not None
        match await self._ask(operations.renew(intent.allocation), intent):
            case Renewal() as renewal:
                intent.note_lease(renewal.allocation.expire_time)
            case LeaseExpired():
                assert intent.expire_time is not None
                intent.over = True
            case outcome:
                raise AssertionError(f"a renewal was answered {outcome!r}")

    async def _batch(self) -> None:
        wanted = [self._new_intent() for _ in range(3)]
        mine = self._mine()
        leaving = self._dice.sample(mine, k=min(2, len(mine)))
        releases = [self._release_of(intent) for intent in leaving]
        calls: list[Operation[Grant | ReleaseResult]] = [*(intent.call for intent in wanted), *releases]
        outcomes = await self._ask(batch(calls), *wanted, *leaving)
        assert isinstance(outcomes, list), outcomes
        lost = False
        for intent, outcome in zip([*wanted, *leaving], outcomes, strict=True):
            if isinstance(outcome, CallFailed) and no_answer(outcome, database_may_go=self._database_may_go):
                intent.in_doubt = lost = True
            elif isinstance(outcome, ReleaseResult):
                note_release(intent, outcome)
            else:
                self._note_acquire(intent, outcome)
        if lost:
            raise ServerGone

    async def _administer(self) -> None:
        match self._dice.randrange(4):
            case 0:
                node = self._dice.choice(NODES)
                await self._ask(cordon_instance(FLEET, node))
                await self._ask(uncordon_instance(FLEET, node))
            case 1 if self._number == 0:  # one administrator, so that the last update that was answered is the last
                self._told.label_asked += 1
                fleet = await self._ask(update_fleet(FLEET, labels={"turn": str(self._told.label_asked)}))
                assert isinstance(fleet, Fleet), fleet
                self._told.label = self._told.label_asked
            case 2:
                await self._note_instance(create_instance(FLEET, self._extra, total_blocks=2))
            case _:
                await self._note_instance(delete_instance(FLEET, self._extra))

    @property
    def _extra(self) -> str:
        return f"extra-{self._number}"

    async def _note_instance(self, call: Call[Instance] | Call[None]) -> None:
        self._told.instances[self._extra] = None
        outcome = await self._ask(call)
        assert outcome is None or isinstance(outcome, Instance | InUse | NotFound), outcome
        self._told.instances[self._extra] = isinstance(outcome, Instance | InUse)


def note_release(intent: Intent, outcome: ReleaseResult | CallFailed) -> None:
    """A release of the whole intent was answered."""
    assert isinstance(outcome, ReleaseResult), outcome
    if outcome.outcome is ReleaseOutcome.ALREADY_EXPIRED:
        assert intent.has_lease, "it has no lease, and expired"
    intent.freed |= intent.granted
    intent.over = True


async def persist(name: str, client: AsyncClient, gone: Callable[[], bool]) -> int:
    """A scheduler on the SDK's own retries: whatever happens to the server, each call is answered in the end.

    Stops between two calls once `gone` says so. Answers how many allocations it had.
    """
    had = 0
    while not gone():
        try:
            grant = await client.acquire(FLEET, blocks=1, holder=name)
        except NoCapacity:
            await asyncio.sleep(0.01)
            continue
        had += 1
        result = await client.release(grant.allocation)
        assert result.outcome in {ReleaseOutcome.RELEASED, ReleaseOutcome.ALREADY_RELEASED}
    return had


async def settle(intent: Intent, client: AsyncClient, dice: Random, *, known: bool) -> None:
    """Finds out what became of a call without an answer, or makes sure that nothing did.

    `known` is whether the server has granted the intent's token.
    """
    if intent.asked_to_free or dice.random() < 0.4:
        await _close_the_door(intent, client, known=known)
    else:
        await _ask_again(intent, client, known=known)
    intent.in_doubt = False


async def _ask_again(intent: Intent, client: AsyncClient, *, known: bool) -> None:
    try:
        grant = await client.call(intent.call)
    except NoCapacity:
        assert not known, "a token that is granted was refused for want of capacity"
        intent.refused = True
    except Ended:
        assert known, "a token that was never granted has ended"
        assert intent.has_lease, "nobody released it, and it has no lease"
        intent.over = True
    else:
        assert grant.replayed is known, "the token and the grant do not go together"
        intent.note_grant(grant)


async def _close_the_door(intent: Intent, client: AsyncClient, *, known: bool) -> None:
    result = await client.release_by_token(FLEET, intent.token)
    assert (result.outcome is not ReleaseOutcome.CANCELLED_BEFORE_GRANT) is known
    note_release(intent, result)
    for _ in range(2):
        try:
            await client.call(intent.call)
        except Ended:
            continue
        raise AssertionError("a late acquire came through a closed door")
