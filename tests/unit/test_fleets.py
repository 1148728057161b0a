"""What operators do to fleets."""

from typing import Any

import pytest

from blockyard_server.domain import limits
from blockyard_server.domain.errors import (
    EtagMismatch,
    FleetExists,
    FleetInUse,
    FleetNotFound,
    InvalidRequest,
    LimitExceeded,
)
from blockyard_server.domain.requests import CreateFleet, DeleteFleet, DeleteInstance, Demand, FleetFields, UpdateFleet
from tests.unit.pure_fleet import SECOND, START, WORST_FIT, PureFleet


def test_a_new_fleet_begins_at_revision_one() -> None:
    fleet = PureFleet(created=False)

    record = fleet.do(CreateFleet("gpu", FleetFields(labels={"a": "b"})))

    assert (record.fleet, record.revision, record.config_revision) == ("gpu", 1, 1)
    assert (record.create_time_us, record.update_time_us) == (START, START)
    assert record.fields == FleetFields(labels={"a": "b"})
    assert fleet.state.record == record


def test_making_a_fleet_again_with_the_same_fields_changes_nothing_and_answers_it_as_it_is() -> None:
    fleet = PureFleet(8)
    fleet.acquire()
    fleet.now_us += SECOND
    before = fleet.picture()

    record = fleet.do(CreateFleet("gpu", FleetFields()))

    assert (record.revision, record.config_revision, record.create_time_us) == (3, 1, START)
    assert fleet.picture() == before


def test_making_a_fleet_again_with_other_fields_is_refused_naming_them() -> None:
    fleet = PureFleet()
    other = FleetFields(labels={"a": "b"}, default_placement_strategy=WORST_FIT)

    refusal = fleet.refusal(CreateFleet("gpu", other), FleetExists)

    assert refusal.metadata == {"fleet": "fleets/gpu", "fields": "labels, default_placement_strategy"}


def test_one_fleet_more_than_a_server_keeps_is_refused() -> None:
    fleet = PureFleet(created=False)
    fleet.records.fleet_count = limits.MAX_FLEETS

    refusal = fleet.refusal(CreateFleet("gpu", FleetFields()), LimitExceeded)
    assert refusal.metadata == {"limit": "fleets", "maximum": str(limits.MAX_FLEETS)}

    fleet.records.fleet_count -= 1
    assert fleet.do(CreateFleet("gpu", FleetFields())).revision == 1


@pytest.mark.parametrize("update", [False, True])
def test_a_default_lease_longer_than_the_longest_is_refused(*, update: bool) -> None:
    fleet = PureFleet(fields=FleetFields(default_ttl_us=5, max_ttl_us=5)) if update else PureFleet(created=False)
    request = (
        UpdateFleet("gpu", {"default_ttl_us": 6}) if update else CreateFleet("gpu", FleetFields({}, WORST_FIT, 6, 5))
    )

    refusal = fleet.refusal(request, InvalidRequest)

    assert [field for field, _ in refusal.violations] == ["fleet.default_ttl"]


def test_an_update_changes_what_it_names_and_nothing_else() -> None:
    fleet = PureFleet(fields=FleetFields(labels={"a": "b"}, max_ttl_us=9))
    fleet.now_us += SECOND

    record = fleet.do(UpdateFleet("gpu", {"max_ttl_us": 10}))

    assert record.fields == FleetFields(labels={"a": "b"}, max_ttl_us=10)
    assert (record.revision, record.config_revision) == (2, 2)
    assert (record.create_time_us, record.update_time_us) == (START, START + SECOND)
    assert fleet.state.record == record


@pytest.mark.parametrize("changes", [{}, {"labels": {}}, {"default_ttl_us": None}])
def test_an_update_that_changes_nothing_makes_no_revision(changes: dict[str, Any]) -> None:
    fleet = PureFleet()
    before = fleet.picture()

    assert fleet.do(UpdateFleet("gpu", changes)) == fleet.state.record
    assert fleet.picture() == before


def test_an_etag_guards_an_update_and_a_deletion_and_grants_do_not_change_it() -> None:
    fleet = PureFleet(8)
    fleet.acquire()
    for request in (UpdateFleet("gpu", {"max_ttl_us": 1}, etag="r2"), DeleteFleet("gpu", etag="r2")):
        refusal = fleet.refusal(request, EtagMismatch)
        assert refusal.metadata == {"resource": "fleets/gpu", "etag": "r1"}

    assert fleet.do(UpdateFleet("gpu", {"max_ttl_us": 1}, etag="r1")).config_revision == 4
    fleet.refusal(UpdateFleet("gpu", {"max_ttl_us": 2}, etag="r1"), EtagMismatch)


@pytest.mark.parametrize("force", [False, True])
def test_a_fleet_that_holds_blocks_is_not_deleted_whatever_the_force(*, force: bool) -> None:
    fleet = PureFleet(8, 8)
    fleet.acquire(Demand(blocks=3))
    before = fleet.picture()

    refusal = fleet.refusal(DeleteFleet("gpu", force=force), FleetInUse)

    assert refusal.metadata == {"fleet": "fleets/gpu", "held_blocks": "3", "instances": "2"}
    assert fleet.picture() == before


def test_a_fleet_with_instances_is_deleted_with_force_only() -> None:
    fleet = PureFleet(8)

    refusal = fleet.refusal(DeleteFleet("gpu"), FleetInUse)
    assert refusal.metadata == {"fleet": "fleets/gpu", "held_blocks": "0", "instances": "1"}

    fleet.do(DeleteFleet("gpu", force=True))
    assert fleet.state.record is None
    assert fleet.busy == {}


def test_a_fleet_with_more_instances_than_one_request_deletes_is_deleted_in_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "MAX_INSTANCES_DELETED_WITH_FLEET", 1)
    fleet = PureFleet(8, 8)

    refusal = fleet.refusal(DeleteFleet("gpu", force=True), LimitExceeded)
    assert refusal.metadata == {"limit": "instances_deleted_with_fleet", "maximum": "1"}
    assert "delete instances one by one first" in str(refusal)

    fleet.do(DeleteInstance("gpu", "n1"))
    fleet.do(DeleteFleet("gpu", force=True))
    assert fleet.state.record is None


def test_an_empty_fleet_is_deleted_without_force_and_is_gone() -> None:
    fleet = PureFleet()
    fleet.do(DeleteFleet("gpu"))

    for request in (DeleteFleet("gpu"), UpdateFleet("gpu"), fleet.wish()):
        assert fleet.refusal(request, FleetNotFound).metadata == {"fleet": "fleets/gpu"}


def test_a_fleet_made_anew_goes_on_from_the_revision_and_the_order_it_had() -> None:
    fleet = PureFleet(8, 8)
    old = fleet.acquire(token="t").revision
    fleet.release(old)
    fleet.do(DeleteFleet("gpu", force=True))

    record = fleet.do(CreateFleet("gpu", FleetFields(max_ttl_us=7)))
    fleet.add("n1")

    assert (record.revision, record.config_revision) == (7, 7)
    assert record.fields.max_ttl_us == 7
    assert fleet.state.index.by_name["n1"].order == 3
    assert fleet.acquire(token="new").view.allocation.allocation > old
