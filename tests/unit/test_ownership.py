"""Whose allocation it is: its tenant renews and releases it, an operator releases it, and nobody else does anything."""

from dataclasses import replace
from typing import Final

import pytest

from blockyard_server.domain.actor import Actor
from blockyard_server.domain.answers import ReleaseOutcome
from blockyard_server.domain.errors import NotOwner
from blockyard_server.domain.events import Expired, Released, TokenWasCancelled
from blockyard_server.domain.requests import Acquire, Demand, Release, Renew
from tests.unit.pure_fleet import SECOND, PureFleet

TRAIN: Final = Actor("train/sched-a", "token:k3v9", "train", frozenset({"default"}))
OTHER: Final = Actor("infer/sched-b", "token:k4w0", "infer")
OPERATOR: Final = replace(OTHER, name="infer/op", may_release_any=True)
NOBODY_ASKED: Final = None


@pytest.fixture
def fleet() -> PureFleet:
    return PureFleet(8)


def acquire(caller: str = "train", actor: Actor | None = TRAIN) -> Acquire:
    return Acquire("gpu", caller, "token", "job", (Demand(blocks=1),), ttl_us=60 * SECOND, actor=actor)


@pytest.mark.parametrize("caller", ["train", "train/batch", "default"])
@pytest.mark.parametrize("actor", [TRAIN, NOBODY_ASKED])
def test_its_own_tenant_renews_and_releases_it(fleet: PureFleet, caller: str, actor: Actor | None) -> None:
    granted = fleet.do(acquire(caller)).view.allocation.allocation
    fleet.do(Renew("gpu", granted, ttl_us=90 * SECOND, actor=actor))

    assert fleet.do(Release("gpu", caller, granted, actor=actor)).outcome is ReleaseOutcome.RELEASED


@pytest.mark.parametrize("caller", ["train", "train/batch", "infer-2", "default", "Infer"])
def test_another_tenant_does_not(fleet: PureFleet, caller: str) -> None:
    granted = fleet.do(acquire(caller)).view.allocation.allocation
    for request in (Renew("gpu", granted, actor=OTHER), Release("gpu", "infer", granted, actor=OTHER)):
        refusal = fleet.refusal(request, NotOwner)
        assert refusal.metadata == {"allocation": f"fleets/gpu/allocations/{granted}", "tenant": "infer"}


def test_an_operator_releases_it_and_does_not_renew_it(fleet: PureFleet) -> None:
    granted = fleet.do(acquire()).view.allocation.allocation
    fleet.refusal(Renew("gpu", granted, actor=OPERATOR), NotOwner)

    assert fleet.do(Release("gpu", "infer", granted, actor=OPERATOR)).outcome is ReleaseOutcome.RELEASED
    assert isinstance(fleet.events[-1], Released)
    assert (fleet.events[-1].actor, fleet.events[-1].via) == ("infer/op", "token:k4w0")


def test_another_tenants_token_is_another_token(fleet: PureFleet) -> None:
    fleet.do(acquire())
    answer = fleet.do(Release("gpu", "infer", token="token", actor=OTHER))

    assert answer.outcome is ReleaseOutcome.CANCELLED_BEFORE_GRANT
    assert isinstance(fleet.events[-1], TokenWasCancelled)
    assert fleet.events[-1].actor == "infer/sched-b"


def test_who_comes_when_a_lease_has_ended_did_not_end_it(fleet: PureFleet) -> None:
    granted = fleet.do(acquire()).view.allocation.allocation
    fleet.now_us += 61 * SECOND
    fleet.do(Release("gpu", "train", granted, actor=TRAIN))

    assert isinstance(fleet.events[-1], Expired)
    assert fleet.events[-1].actor == ""
