"""What operators do to instances."""

from typing import Any

import pytest

from blockyard_server.domain import limits
from blockyard_server.domain.errors import (
    EtagMismatch,
    FleetNotFound,
    InstanceExists,
    InstanceInUse,
    InstanceNotFound,
    LimitExceeded,
)
from blockyard_server.domain.requests import (
    CreateInstance,
    DeleteInstance,
    Demand,
    InstanceFields,
    InstanceState,
    UpdateInstance,
)
from tests.unit.pure_fleet import ACTIVE, CORDONED, OFFLINE, SECOND, START, PureFleet, shape


def test_a_registered_instance_has_the_next_place_in_the_order() -> None:
    fleet = PureFleet(8)

    record = fleet.do(CreateInstance("gpu", "b", shape(4, labels={"zone": "a"}, state=CORDONED)))

    assert (record.fleet, record.instance, record.order, record.busy_blocks) == ("gpu", "b", 2, 0)
    assert record.fields == shape(4, labels={"zone": "a"}, state=CORDONED)
    assert (record.config_revision, record.create_time_us, record.update_time_us) == (3, START, START)
    assert fleet.state.instance_record(fleet.state.instance("b")) == record


@pytest.mark.parametrize("state", [ACTIVE, CORDONED, OFFLINE])
def test_registering_the_same_shape_again_changes_nothing_whatever_the_state(state: InstanceState) -> None:
    fleet = PureFleet(8)
    fleet.acquire(Demand(blocks=3))
    fleet.change("n1", state=CORDONED)
    before = fleet.picture()

    record = fleet.do(CreateInstance("gpu", "n1", shape(8, state=state)))

    assert (record.fields.state, record.busy_blocks, record.config_revision) == (CORDONED, 3, 4)
    assert fleet.picture() == before


@pytest.mark.parametrize(
    ("other", "fields"),
    [
        (shape(9), "total_blocks"),
        (shape(8, labels={"a": "b"}), "labels"),
        (shape(9, resources={"gpu": 1}), "total_blocks, resources"),
    ],
)
def test_registering_another_shape_is_refused_naming_what_differs(other: InstanceFields, fields: str) -> None:
    refusal = PureFleet(8).refusal(CreateInstance("gpu", "n1", other), InstanceExists)

    assert refusal.metadata == {"instance": "fleets/gpu/instances/n1", "fields": fields}


def test_one_instance_more_than_a_fleet_keeps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_INSTANCES_PER_FLEET", 2)
    fleet = PureFleet(8, 8)

    refusal = fleet.refusal(CreateInstance("gpu", "n3", shape()), LimitExceeded)

    assert refusal.metadata == {"limit": "instances_per_fleet", "maximum": "2"}
    assert fleet.do(CreateInstance("gpu", "n2", shape())).order == 2


def test_growing_is_possible_while_all_is_held_and_the_new_blocks_are_idle() -> None:
    fleet = PureFleet(4)
    fleet.acquire(Demand(blocks=4))

    record = fleet.do(UpdateInstance("gpu", "n1", {"total_blocks": 6}))

    assert (record.fields.total_blocks, record.busy_blocks) == (6, 4)
    assert fleet.take(Demand(blocks=2)) == (("n1", (4, 5)),)


def test_shrinking_is_refused_while_a_block_that_would_go_is_held() -> None:
    fleet = PureFleet(8)
    first = fleet.acquire(Demand(blocks=3)).revision
    fleet.acquire(Demand(blocks=2))
    fleet.release(first)  # held: 3 and 4
    before = fleet.picture()

    refusal = fleet.refusal(UpdateInstance("gpu", "n1", {"total_blocks": 4}), InstanceInUse)
    assert refusal.metadata == {"instance": "fleets/gpu/instances/n1", "held_blocks": "1"}
    assert fleet.refusal(UpdateInstance("gpu", "n1", {"total_blocks": 1}), InstanceInUse).metadata["held_blocks"] == "2"
    assert fleet.picture() == before

    assert fleet.do(UpdateInstance("gpu", "n1", {"total_blocks": 5})).busy_blocks == 2
    assert fleet.take(Demand(blocks=3)) == (("n1", (0, 1, 2)),)


def test_an_update_changes_what_it_names_and_nothing_else() -> None:
    fleet = PureFleet()
    fleet.add("n1", shape(8, labels={"zone": "a"}, resources={"gpu": 8}))
    fleet.now_us += SECOND

    record = fleet.do(UpdateInstance("gpu", "n1", {"resources": {"gpu": 9}, "state": OFFLINE}))

    assert record.fields == shape(8, labels={"zone": "a"}, resources={"gpu": 9}, state=OFFLINE)
    assert (record.order, record.config_revision) == (1, 3)
    assert (record.create_time_us, record.update_time_us) == (START, START + SECOND)
    assert fleet.state.instance_record(fleet.state.instance("n1")) == record


@pytest.mark.parametrize("changes", [{}, {"state": ACTIVE}, {"total_blocks": 8, "labels": {}}])
def test_an_update_that_changes_nothing_makes_no_revision(changes: dict[str, Any]) -> None:
    fleet = PureFleet(8)
    before = fleet.picture()

    assert fleet.do(UpdateInstance("gpu", "n1", changes)).config_revision == 2
    assert fleet.picture() == before


def test_an_etag_guards_an_update_and_a_deletion_and_grants_do_not_change_it() -> None:
    fleet = PureFleet(8)
    fleet.release(fleet.acquire().revision)
    for request in (
        UpdateInstance("gpu", "n1", {"total_blocks": 9}, etag="r1"),
        DeleteInstance("gpu", "n1", etag="r1"),
    ):
        refusal = fleet.refusal(request, EtagMismatch)
        assert refusal.metadata == {"resource": "fleets/gpu/instances/n1", "etag": "r2"}

    fleet.do(UpdateInstance("gpu", "n1", {"total_blocks": 9}, etag="r2"))
    fleet.do(DeleteInstance("gpu", "n1", etag="r5"))
    assert fleet.busy == {}


@pytest.mark.parametrize("state", [ACTIVE, CORDONED, OFFLINE])
def test_an_instance_that_holds_blocks_is_not_deleted(state: InstanceState) -> None:
    fleet = PureFleet(8)
    held = fleet.acquire(Demand(blocks=3)).revision
    fleet.change("n1", state=state)

    refusal = fleet.refusal(DeleteInstance("gpu", "n1"), InstanceInUse)
    assert refusal.metadata == {"instance": "fleets/gpu/instances/n1", "held_blocks": "3"}

    fleet.release(held)
    fleet.do(DeleteInstance("gpu", "n1"))
    assert fleet.busy == {}


def test_what_is_not_there_is_named() -> None:
    fleet = PureFleet(8)
    for request in (UpdateInstance("gpu", "n9"), DeleteInstance("gpu", "n9")):
        refusal = fleet.refusal(request, InstanceNotFound)
        assert refusal.metadata == {"instance": "fleets/gpu/instances/n9"}

    nothing = PureFleet(created=False)
    nothing.refusal(CreateInstance("gpu", "n1", shape()), FleetNotFound)
    nothing.refusal(UpdateInstance("gpu", "n1"), FleetNotFound)
    nothing.refusal(DeleteInstance("gpu", "n1"), FleetNotFound)
