"""What clients were told, kept apart from the server: each intent, and what must therefore be true of it."""

from dataclasses import dataclass, field
from datetime import datetime

from blockyard import Allocation, EventKind, Grant, Operation
from tests.harness.journal import Block, Journal, blocks_of


@dataclass
class Intent:
    """One acquire, and what became of it as far as its client knows."""

    owner: str
    call: Operation[Grant]
    token: str
    has_lease: bool
    allocation: Allocation | None = None
    """As it was granted. None while no answer has come."""
    refused: bool = False
    """The last answer was a refusal: nothing is held by it."""
    expire_time: datetime | None = None
    """The end of the lease that the client was told last."""
    asked_to_free: set[Block] = field(default_factory=set)
    """Releases were sent for these."""
    freed: set[Block] = field(default_factory=set)
    """Releases of these were acknowledged."""
    in_doubt: bool = False
    """A call about it has had no answer."""
    over: bool = False
    """The client was told that nothing of it is held."""

    def note_grant(self, grant: Grant) -> None:
        """The acquire was answered."""
        if self.allocation is None:
            self.allocation = grant.allocation
        assert grant.allocation.name == self.allocation.name, "one token, two allocations"
        assert grant.allocation.idempotency_token == self.token
        self.refused = False
        self.note_lease(grant.allocation.expire_time)

    def note_lease(self, expire_time: datetime | None) -> None:
        """An answer said how long the lease lasts."""
        if expire_time is not None:
            self.expire_time = max(expire_time, self.expire_time or expire_time)

    @property
    def granted(self) -> set[Block]:
        """The blocks of the grant."""
        return set(blocks_of(self.allocation.placements)) if self.allocation else set()

    def check(self, journal: Journal, held: dict[str, set[Block]]) -> None:
        """Compares what the client was told with what the server has; `held` is by allocation."""
        if self.allocation is None:
            if self.refused and not self.in_doubt:
                assert self.token not in journal.granted, "a refusal was granted"
            return
        name = self.allocation.name
        assert journal.granted.get(self.token) == name, f"the acknowledged grant {name} is gone"
        now = held.get(name, set())
        assert now <= self.granted, f"{name} holds what it was not granted"
        assert now.isdisjoint(self.freed), f"{name} holds what was acknowledged as released"
        end = journal.ended.get(name)
        if end is not None and end.kind is EventKind.EXPIRED:
            assert self.expire_time is not None, f"{name} has no lease, and expired"
            assert end.time >= self.expire_time, f"the lease of {name} ended before the client was told it would"
        else:
            assert self.granted - self.asked_to_free <= now, f"the acknowledged grant {name} has lost blocks"
        if self.over:
            assert end is not None, f"{name} is held, and its client was told that it is over"


@dataclass
class Told:
    """Everything that clients of one fleet were told."""

    intents: dict[str, Intent] = field(default_factory=dict)
    """By token; those that are over and were checked once are dropped."""
    revision: int = 0
    """The highest that any answer had."""
    floor: int = 0
    """The revision at the last check: what is granted after it has a higher fencing token."""
    instances: dict[str, bool | None] = field(default_factory=dict)
    """Instances that come and go: there, gone, or (None) in doubt."""
    label: int = 0
    """The highest value of the fleet's label `turn` whose update was acknowledged."""
    label_asked: int = 0
    """The highest value that was sent."""
    answers: int = 0
    """How many answers came."""

    def check(self, journal: Journal) -> None:
        """Compares all of it with the journal after a restart."""
        assert journal.revision >= self.revision, "the revision went back"
        held: dict[str, set[Block]] = {}
        for block, name in journal.holds.items():
            held.setdefault(name, set()).add(block)
        for intent in self.intents.values():
            intent.check(journal, held)
        for name in held:
            assert journal.tokens[name] in self.intents, f"{name} is held, and is nobody's intent"
        self.floor = journal.revision

    def forget_what_is_over(self) -> None:
        """Keeps the work of the next check small."""
        self.intents = {t: i for t, i in self.intents.items() if not i.over and not (i.refused and not i.in_doubt)}
