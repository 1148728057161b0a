"""What a fleet would do that gets one call after the other: the meaning that histories are compared with.

Written from the contract, naively, with nothing of the server's own code; placement is the oracle's. `carry_out`
decides and changes nothing; `apply` takes on an event, and refuses one that cannot follow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from tests.history.record import (
    ALREADY_EXPIRED,
    ALREADY_RELEASED,
    CANCELLED,
    EXPIRED,
    HELD,
    RELEASED,
    Acquire,
    Answer,
    Asked,
    Describe,
    Described,
    Event,
    Freed,
    Get,
    Got,
    Granted,
    Listed,
    ListHeld,
    Placements,
    Refused,
    Release,
    Renew,
    Renewed,
    Shape,
    View,
)
from tests.oracle import placement


class Impossible(Exception):
    """An event that cannot follow from what was before. The message says why."""


@dataclass(slots=True)
class Life:
    """An allocation."""

    token: str
    ttl_us: int | None
    granted: Placements
    placements: Placements
    revision: int
    state: str = HELD
    expire_us: int | None = None


class SequentialFleet:
    """A fleet whose instances have `sizes` blocks, at `revision`."""

    def __init__(self, sizes: tuple[int, ...], revision: int = 0) -> None:
        self.revision = revision
        self.instances = [placement.Instance(number, number, size) for number, size in enumerate(sizes)]
        self.lives: dict[int, Life] = {}
        """Every allocation ever, by its id."""
        self.held: dict[int, Life] = {}
        """Those that are held, in the order of their grants."""
        self.tokens: dict[str, int | None] = {}
        """What each token was granted; None for a cancellation."""
        self.cancelled: dict[str, int] = {}
        """The revision of each cancellation."""
        self._appliers: dict[str, Callable[[Event], None]] = {
            "GRANTED": self._grant,
            "RELEASED": self._free,
            "EXPIRED": self._free,
            "RENEWED": self._renewed,
            "TOKEN_CANCELLED": self._cancel,
            "LEASES_EXTENDED": self._extend,
        }

    def carry_out(self, asked: Asked, time_us: int = 0) -> tuple[Answer, Event | None]:
        """The answer, and what it changes."""
        match asked:
            case Acquire():
                return self._acquire(asked, time_us)
            case Release():
                return self._release(asked, time_us)
            case Renew():
                return self._renew(asked, time_us)
            case _:
                return self.read(asked), None

    def read(self, asked: Describe | Get | ListHeld) -> Answer:
        """The answer to a call that changes nothing."""
        match asked:
            case Describe():
                return self._describe(asked)
            case Get() if asked.allocation in self.lives:
                return Got(self.view(asked.allocation))
            case Get():
                return Refused("ALLOCATION_NOT_FOUND", asked.allocation)
            case ListHeld():
                return Listed(self.revision, tuple([self.view(name) for name in self.held]))

    def view(self, allocation: int) -> View:
        """An allocation as an answer shows it."""
        life = self.lives[allocation]
        return View(allocation, life.token, life.state, life.placements, life.revision, life.expire_us)

    def place(self, shapes: tuple[Shape, ...]) -> Placements | None:
        """The blocks for all demands, by BEST_FIT. None: they do not fit now, or never would."""
        found = placement.place(self.instances, _demands(shapes), placement.BEST_FIT)
        return tuple(found.blocks.items()) if isinstance(found, placement.Placed) else None

    def fits(self, shapes: tuple[Shape, ...]) -> bool:
        """Whether `place` would find blocks; quick for a single demand."""
        return placement.fits_now(self.instances, _demands(shapes), placement.BEST_FIT)

    def _acquire(self, asked: Acquire, time_us: int) -> tuple[Answer, Event | None]:
        if asked.token in self.tokens:
            allocation = self.tokens[asked.token]
            if allocation is None:
                return Refused("TOKEN_CANCELLED"), None
            if self.lives[allocation].state != HELD:
                return Refused("ALLOCATION_ENDED", allocation), None
            return Granted(self.view(allocation), replayed=True), None
        placements = self.place(asked.shapes)
        if placements is None:
            return Refused("NO_CAPACITY"), None
        revision = self.revision + 1
        expire_us = None if asked.ttl_ms is None else time_us + asked.ttl_ms * 1000
        event = Event(revision, "GRANTED", time_us, revision, placements, expire_us, asked.token)
        return Granted(View(revision, asked.token, HELD, placements, revision, expire_us), replayed=False), event

    def _release(self, asked: Release, time_us: int) -> tuple[Answer, Event | None]:
        allocation = asked.allocation
        if asked.token is not None:
            if self.tokens.get(asked.token) is None:
                revision = self.cancelled.get(asked.token, self.revision + 1)
                event = Event(revision, "TOKEN_CANCELLED", time_us, token=asked.token)
                return Freed(CANCELLED, None, revision), None if asked.token in self.tokens else event
            allocation = self.tokens[asked.token]
        if allocation is None or allocation not in self.lives:
            return Refused("ALLOCATION_NOT_FOUND", allocation), None
        life = self.lives[allocation]
        freed = common(life.placements, asked.placements) if asked.placements else life.placements
        if life.state != HELD or not freed:
            outcome = ALREADY_EXPIRED if life.state == EXPIRED else ALREADY_RELEASED
            return Freed(outcome, self.view(allocation), life.revision), None
        left = without(life.placements, freed)
        revision = self.revision + 1
        event = Event(revision, RELEASED, time_us, allocation, freed, ended=not left)
        state = HELD if left else RELEASED
        view = View(allocation, life.token, state, left or life.placements, revision, life.expire_us)
        return Freed(RELEASED, view, revision), event

    def _renew(self, asked: Renew, time_us: int) -> tuple[Answer, Event | None]:
        life = self.lives.get(asked.allocation)
        if life is None:
            return Refused("ALLOCATION_NOT_FOUND", asked.allocation), None
        if life.state != HELD:
            reason = "LEASE_EXPIRED" if life.state == EXPIRED else "ALLOCATION_ENDED"
            return Refused(reason, asked.allocation), None
        expire_us = time_us + asked.ttl_ms * 1000
        if life.expire_us is None or expire_us <= life.expire_us:
            return Renewed(self.view(asked.allocation)), None
        revision = self.revision + 1
        event = Event(revision, "RENEWED", time_us, asked.allocation, expire_us=expire_us)
        return Renewed(View(asked.allocation, life.token, HELD, life.placements, revision, expire_us)), event

    def _describe(self, asked: Describe) -> Described:
        busy = tuple([each.busy.bit_count() for each in self.instances])
        idle = tuple([each.total_blocks - count for each, count in zip(self.instances, busy, strict=True)])
        holds = None
        if asked.full:
            holds = tuple(
                sorted((i, allocation, mask) for allocation, life in self.held.items() for i, mask in life.placements)
            )
        return Described(self.revision, sum(busy), sum(idle), busy, idle, holds)

    def apply(self, event: Event) -> None:
        """Takes on a change. Raises Impossible."""
        if event.revision != self.revision + 1:
            raise Impossible(f"revision {event.revision} follows {self.revision}")
        apply = self._appliers.get(event.kind)
        if apply is None:
            raise Impossible(f"{event.kind} is no event of this history")
        apply(event)
        self.revision = event.revision

    def _renewed(self, event: Event) -> None:
        life = self._held(event)
        if life.expire_us is None or event.expire_us is None or event.time_us >= life.expire_us:
            raise Impossible(f"the lease of {event.allocation} had ended, or it has none, and was renewed")
        if event.expire_us <= life.expire_us:
            raise Impossible(f"the renewal of {event.allocation} shortened its lease")
        life.ttl_us, life.expire_us = event.expire_us - event.time_us, event.expire_us
        life.revision = event.revision

    def _cancel(self, event: Event) -> None:
        if event.token is None or event.token in self.tokens:
            raise Impossible(f"token {event.token} was known, and was cancelled")
        self.tokens[event.token] = None
        self.cancelled[event.token] = event.revision

    def _extend(self, event: Event) -> None:
        for life in self.held.values():
            if life.expire_us is not None and life.ttl_us is not None and event.expire_us is not None:
                life.expire_us = max(life.expire_us, min(event.time_us + life.ttl_us, event.expire_us))

    def _held(self, event: Event) -> Life:
        life = None if event.allocation is None else self.held.get(event.allocation)
        if life is None:
            raise Impossible(f"{event.allocation} is not held, and was {event.kind}")
        return life

    def _grant(self, event: Event) -> None:
        if event.token is None or event.token in self.tokens:
            raise Impossible(f"token {event.token} was known, and was granted again")
        for instance, mask in event.placements:
            if self.instances[instance].busy & mask:
                raise Impossible(f"blocks of instance {instance} were held, and were granted to {event.allocation}")
        for instance, mask in event.placements:
            self.instances[instance].busy |= mask
        ttl_us = None if event.expire_us is None else event.expire_us - event.time_us
        life = Life(event.token, ttl_us, event.placements, event.placements, event.revision, expire_us=event.expire_us)
        self.lives[event.revision] = self.held[event.revision] = life
        self.tokens[event.token] = event.revision

    def _free(self, event: Event) -> None:
        life = self._held(event)
        if common(life.placements, event.placements) != event.placements:
            raise Impossible(f"blocks were freed that {event.allocation} did not hold")
        if event.kind == EXPIRED and (life.expire_us is None or event.time_us < life.expire_us):
            raise Impossible(f"the lease of {event.allocation} ended early, or it has none")
        left = without(life.placements, event.placements)
        if bool(left) == event.ended:
            raise Impossible(f"{event.allocation} has {left} left, and ended is {event.ended}")
        for instance, mask in event.placements:
            self.instances[instance].busy &= ~mask
        life.revision = event.revision
        if left:
            life.placements = left
        else:
            life.state = event.kind
            del self.held[event.allocation or 0]


@cache
def _demands(shapes: tuple[Shape, ...]) -> tuple[placement.Demand[int], ...]:
    return tuple(
        [
            placement.Demand(
                each.instances,
                each.blocks,
                exclusive=each.exclusive,
                only=() if each.on is None else (each.on,),
            )
            for each in shapes
        ]
    )


def common(held: Placements, wanted: Placements) -> Placements:
    """The wanted blocks that are held, in the order of `held`."""
    masks = dict(wanted)
    return tuple([(i, mask & masks[i]) for i, mask in held if i in masks and mask & masks[i]])


def without(held: Placements, freed: Placements) -> Placements:
    """What is left."""
    masks = dict(freed)
    return tuple([(i, mask & ~masks.get(i, 0)) for i, mask in held if mask & ~masks.get(i, 0)])
