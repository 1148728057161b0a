"""How many tokens one tenant may cancel before they are granted, and how exactly that is known."""

import pytest

from blockyard_server.domain import quotas as quotas_module
from blockyard_server.domain.actor import Actor
from blockyard_server.domain.answers import Grant, ReleaseAnswer, ReleaseOutcome
from blockyard_server.domain.errors import LimitExceeded
from blockyard_server.domain.quotas import COUNT_AGAIN_US, OpenCancellations, Quotas
from blockyard_server.domain.requests import Release
from blockyard_server.engine.batch import Outcome
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.transactor import Transactor
from tests.memory.transaction import MemoryTransaction
from tests.unit.engine_stories import acquire, filled_store
from tests.unit.hooked_store import HookedStore

MAXIMUM = 3
TRAIN, SERVE = Actor("train/a", "token:x", "train"), Actor("serve/a", "token:y", "serve")


class Fleet:
    """A fleet whose tenants may cancel three tokens, and a server of it."""

    def __init__(self, store: HookedStore, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.transactor = Transactor(store, clock, quotas=Quotas(MAXIMUM))

    def cancel(self, *tokens: str, actor: Actor | None = TRAIN, caller: str | None = None) -> list[Outcome]:
        """Releases of tokens that were not granted, in one transaction."""
        whose = caller if caller is not None else actor.tenant if actor is not None else "default"
        return self.transactor.carry_out("gpu", [Release("gpu", whose, token=token, actor=actor) for token in tokens])

    def is_cancelled(self, token: str, actor: Actor | None = TRAIN, caller: str | None = None) -> bool:
        """Whether one more is."""
        (outcome,) = self.cancel(token, actor=actor, caller=caller)
        if isinstance(outcome, LimitExceeded):
            assert outcome.metadata == {"limit": "open_cancellations", "maximum": str(MAXIMUM)}
            return False
        assert isinstance(outcome, ReleaseAnswer)
        assert outcome.outcome is ReleaseOutcome.CANCELLED_BEFORE_GRANT
        return True


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(filled_store(64), ManualClock())


def test_a_tenant_may_cancel_so_many_tokens_and_others_as_many(fleet: Fleet) -> None:
    outcomes = fleet.cancel("a", "b", "c", "d")
    assert [isinstance(outcome, LimitExceeded) for outcome in outcomes] == [False, False, False, True]
    assert not fleet.is_cancelled("e")
    assert fleet.is_cancelled("a"), "a repetition changes nothing"
    assert fleet.is_cancelled("a", SERVE)


def test_the_namespaces_of_a_tenant_count_together_and_an_adopted_caller_by_itself(fleet: Fleet) -> None:
    adopting = Actor("train/a", "token:x", "train", frozenset({"old"}))
    for n, caller in enumerate(("train", "train/batch", "train/nightly")):
        assert fleet.is_cancelled(f"t{n}", adopting, caller)
    assert not fleet.is_cancelled("more", adopting, "train/another")
    assert fleet.is_cancelled("more", adopting, "old")
    assert fleet.is_cancelled("more", Actor("trainer/a", "token:z", "trainer"))


def test_where_nobody_is_asked_there_is_no_limit(fleet: Fleet) -> None:
    assert all(fleet.is_cancelled(f"t{n}", None) for n in range(2 * MAXIMUM))


def test_whoever_has_cancelled_too_many_goes_on_with_all_else(fleet: Fleet) -> None:
    fleet.cancel("a", "b", "c", "d")
    (granted,) = fleet.transactor.carry_out("gpu", [acquire("mine")])
    assert isinstance(granted, Grant)
    (released,) = fleet.transactor.carry_out("gpu", [Release("gpu", "slurm", token="mine")])
    assert isinstance(released, ReleaseAnswer)
    assert released.outcome is ReleaseOutcome.RELEASED
    (late,) = fleet.transactor.carry_out("gpu", [Release("gpu", "train", allocation=granted.revision)])
    assert isinstance(late, ReleaseAnswer)


def test_what_another_server_wrote_counts(fleet: Fleet) -> None:
    other = Fleet(fleet.store, fleet.clock)
    assert fleet.is_cancelled("a")
    assert other.is_cancelled("b")
    assert fleet.is_cancelled("c")
    assert not other.is_cancelled("d")
    assert not fleet.is_cancelled("d")


def test_a_server_that_starts_knows_what_there_is(fleet: Fleet) -> None:
    fleet.cancel("a", "b", "c")
    assert not Fleet(fleet.store, fleet.clock).is_cancelled("d")


def test_what_was_forgotten_makes_room_after_a_while(fleet: Fleet) -> None:
    fleet.cancel("a", "b", "c", "d")
    fleet.transactor.prune("gpu", fleet.store.rows["gpu"].revision)
    fleet.clock.advance(COUNT_AGAIN_US - 1)
    assert not fleet.is_cancelled("e")
    fleet.clock.advance(1)
    assert fleet.is_cancelled("e")


def test_the_database_counts_once_and_again_only_at_the_limit(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    count = MemoryTransaction.open_cancellations

    def counted(transaction: MemoryTransaction, at_least: int) -> dict[str, int]:
        counts.append(at_least)
        return count(transaction, at_least)

    monkeypatch.setattr(MemoryTransaction, "open_cancellations", counted)
    for n in range(MAXIMUM):
        fleet.clock.advance(COUNT_AGAIN_US)
        assert fleet.is_cancelled(f"t{n}")
    assert counts == [1], "where it was refused by what is known it would count"
    for _ in range(3):
        assert not fleet.is_cancelled("more")
    fleet.clock.advance(COUNT_AGAIN_US)
    assert not fleet.is_cancelled("more")
    assert len(counts) == 3


def test_owners_with_few_are_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "MAX_OWNERS", 10)
    quotas = Quotas(1000)
    known = OpenCancellations()
    known.counted({"many": 999}, 0)
    for n in range(50):
        known.note(f"passing-{n}/x")
        known.forget_few(quotas)
        assert len(known._by_owner) <= 10
    known.note("many/y")
    with pytest.raises(LimitExceeded):
        known.check("gpu", "many", quotas)
