"""How many tokens one tenant may cancel before they are granted, and how exactly that is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockyard_server.domain import quotas as quotas_module
from blockyard_server.domain.actor import Actor
from blockyard_server.domain.answers import Grant, ReleaseAnswer, ReleaseOutcome
from blockyard_server.domain.errors import LimitExceeded
from blockyard_server.domain.quotas import OpenCancellations, Quotas
from blockyard_server.domain.requests import Release
from blockyard_server.engine.batch import Outcome
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.transactor import Transactor
from tests.unit.engine_stories import acquire, filled_store
from tests.unit.hooked_store import HookedStore

MAXIMUM = 3
RETENTION_US = 3_000_000
TRAIN, SERVE = Actor("train/a", "token:x", "train"), Actor("serve/a", "token:y", "serve")


class Fleet:
    """A fleet whose tenants may cancel three tokens, and a server of it."""

    def __init__(self, store: HookedStore, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.transactor = Transactor(store, clock, quotas=Quotas(MAXIMUM, RETENTION_US))

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
    other.transactor.load("gpu")
    assert fleet.is_cancelled("a")
    assert other.is_cancelled("b")
    assert fleet.is_cancelled("c")
    assert not other.is_cancelled("d")
    assert not fleet.is_cancelled("d")


def test_what_was_forgotten_makes_room(fleet: Fleet) -> None:
    fleet.cancel("a", "b", "c")
    fleet.clock.advance(RETENTION_US // MAXIMUM - 1)
    assert not fleet.is_cancelled("d")
    fleet.clock.advance(1)
    assert fleet.is_cancelled("d")
    assert not fleet.is_cancelled("e")


def test_a_fleet_that_is_loaded_again_begins_with_empty_buckets(fleet: Fleet) -> None:
    fleet.cancel("a", "b", "c")
    restarted = Fleet(fleet.store, fleet.clock)
    assert [restarted.is_cancelled(token) for token in "defg"] == [True, True, True, False]


@given(st.lists(st.floats(0, 3 * RETENTION_US).map(int), max_size=40), st.integers(1, 10))
def test_nobody_is_refused_before_the_maximum_is_remembered_and_no_more_than_twice_as_many_are(
    pauses_us: list[int], maximum: int
) -> None:
    known = OpenCancellations(Quotas(maximum, RETENTION_US))
    now_us, remembered_us = 10**15, list[int]()
    for pause_us in pauses_us:
        now_us += pause_us // 10
        remembered = sum(now_us - time_us < RETENTION_US for time_us in remembered_us)
        assert remembered <= 2 * maximum
        try:
            known.check("gpu", "train", now_us)
        except LimitExceeded:
            assert remembered >= maximum
        else:
            known.note("train", now_us)
            remembered_us.append(now_us)


def test_the_fullest_buckets_are_kept_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas_module, "MAX_OWNERS", 10)
    known = OpenCancellations(Quotas(5))
    for _ in range(5):
        known.note("many/x", 1000)
    for n in range(50):
        known.note(f"passing-{n}/x", 1000 + n)
        assert len(known) <= 10
    with pytest.raises(LimitExceeded):
        known.check("gpu", "many", 1000)
