"""Views are kept right by every change of an instance, and dropped at their bounds."""

import pytest

from blockyard_server.domain.errors import Unsatisfiable
from blockyard_server.domain.index import MAX_SCANNED, MAX_VIEW_SHARE, MAX_VIEWS, View
from blockyard_server.domain.requests import DeleteInstance, Demand, Selector
from tests.unit.pure_fleet import ACTIVE, CORDONED, OFFLINE, WORST_FIT, PureFleet, shape, term

NOT_OLD: Selector = (term("old", "DOES_NOT_EXIST"),)


def views_of(fleet: PureFleet) -> list[View]:
    return list(fleet.state.index._views.values())


def look(fleet: PureFleet, selector: Selector, *, by_resources: bool = False) -> dict[str, int]:
    """The instances in a selector's view, with how many blocks may be acquired there, as its groups say."""
    view = fleet.state.index.view(selector, by_resources=by_resources)
    found = {instance.name: 0 for instance in view.members.values()}
    for group in view.groups.values():
        for order, level in group._level_of.items():
            found[fleet.state.index.by_order[order].name] = level
    assert sum(group.members for group in view.groups.values()) == len(view.members)
    assert set(fleet.state.index.by_order) >= set(view.members)
    return found


@pytest.fixture
def fleet() -> PureFleet:
    """Three instances, two of which the view of NOT_OLD has."""
    fleet = PureFleet(8, 4)
    fleet.add("n3", shape(8, labels={"old": "yes"}))
    look(fleet, NOT_OLD)
    return fleet


def test_a_view_has_what_its_selector_matches(fleet: PureFleet) -> None:
    assert look(fleet, NOT_OLD) == {"n1": 8, "n2": 4}
    assert look(fleet, (term("old", "EXISTS"),)) == {"n3": 8}
    assert look(fleet, ()) == {"n1": 8, "n2": 4, "n3": 8}


def test_a_view_is_made_once_and_found_again(fleet: PureFleet) -> None:
    index = fleet.state.index

    assert index.view(NOT_OLD, by_resources=False) is index.view(NOT_OLD, by_resources=False)
    assert index.view(NOT_OLD, by_resources=True) is not index.view(NOT_OLD, by_resources=False)


def test_taking_and_freeing_blocks_is_seen(fleet: PureFleet) -> None:
    held = fleet.acquire(Demand(blocks=3, instance_names=("n1",))).revision
    fleet.acquire(Demand(blocks=4, instance_names=("n2",)))
    assert look(fleet, NOT_OLD) == {"n1": 5, "n2": 0}

    fleet.release(held, placements=(("n1", (1,)),))
    assert look(fleet, NOT_OLD) == {"n1": 6, "n2": 0}


def test_an_instance_that_takes_no_grants_is_a_member_without_blocks_to_acquire(fleet: PureFleet) -> None:
    fleet.change("n1", state=CORDONED)
    fleet.change("n2", state=OFFLINE)
    assert look(fleet, NOT_OLD) == {"n1": 0, "n2": 0}

    fleet.change("n1", state=ACTIVE)
    assert look(fleet, NOT_OLD) == {"n1": 8, "n2": 0}


def test_instances_come_go_change_their_labels_and_their_size(fleet: PureFleet) -> None:
    fleet.add("n4", shape(2))
    assert look(fleet, NOT_OLD) == {"n1": 8, "n2": 4, "n4": 2}

    fleet.do(DeleteInstance("gpu", "n1"))
    assert look(fleet, NOT_OLD) == {"n2": 4, "n4": 2}

    fleet.change("n2", labels=(("old", "now"),))
    fleet.change("n3", labels=())
    assert look(fleet, NOT_OLD) == {"n3": 8, "n4": 2}

    fleet.acquire(Demand(blocks=2, instance_names=("n4",)))
    fleet.change("n4", total_blocks=7)
    assert look(fleet, NOT_OLD) == {"n3": 8, "n4": 5}


def test_a_group_without_members_is_gone(fleet: PureFleet) -> None:
    view = fleet.state.index.view(NOT_OLD, by_resources=False)
    assert sorted(view.groups) == [(4, ()), (8, ())]

    fleet.change("n1", total_blocks=4)

    assert list(view.groups) == [(4, ())]


def test_resources_make_groups_only_where_a_demand_has_requirements(fleet: PureFleet) -> None:
    fleet.change("n1", resources=(("gpu", 8),))
    fleet.add("n4", shape(8, resources={"gpu": 4}))

    by_resources = fleet.state.index.view(NOT_OLD, by_resources=True)
    assert sorted(by_resources.groups) == [(4, ()), (8, (("gpu", 4),)), (8, (("gpu", 8),))]
    assert sorted(fleet.state.index.view(NOT_OLD, by_resources=False).groups) == [(4, ()), (8, ())]

    fleet.change("n4", resources=(("gpu", 8),))
    assert sorted(by_resources.groups) == [(4, ()), (8, (("gpu", 8),))]


def test_a_refused_or_hidden_choice_is_found_again(fleet: PureFleet) -> None:
    for instances in (2, 3):
        fleet.refusal(fleet.wish(Demand(instances=instances, blocks=5, selector=NOT_OLD)), Unsatisfiable)
    assert look(fleet, NOT_OLD) == {"n1": 8, "n2": 4}

    fleet.acquire(Demand(instances=2, blocks=1, selector=NOT_OLD), validate_only=True)
    assert look(fleet, NOT_OLD) == {"n1": 8, "n2": 4}


def test_an_entry_that_came_back_to_its_level_is_found_once(fleet: PureFleet) -> None:
    for _ in range(5):
        fleet.release(fleet.acquire(Demand(blocks=1, selector=NOT_OLD), strategy=WORST_FIT).revision)

    group = fleet.state.index.view(NOT_OLD, by_resources=False).groups[8, ()]
    assert [len(heap) for heap in group._heaps.values()] == [1, 1]
    assert fleet.take(Demand(blocks=8, selector=NOT_OLD)) == (("n1", tuple(range(8))),)


def test_no_more_views_are_kept_than_the_limit_and_the_least_recently_used_goes_first() -> None:
    fleet = PureFleet()
    selectors = [(term("none", "IN", f"{n}"),) for n in range(MAX_VIEWS + 1)]
    for selector in selectors[:-1]:
        fleet.state.index.view(selector, by_resources=False)
    assert len(views_of(fleet)) == MAX_VIEWS

    fleet.state.index.view(selectors[0], by_resources=False)
    fleet.state.index.view(selectors[-1], by_resources=False)

    kept = [selector for selector, _ in fleet.state.index._views]
    assert len(kept) == MAX_VIEWS
    assert selectors[0] in kept
    assert selectors[1] not in kept


def test_the_entries_of_all_views_together_are_bounded_and_a_dropped_view_is_updated_no_more() -> None:
    fleet = PureFleet(*[8] * 10)
    for n in range(3 * MAX_VIEW_SHARE):
        fleet.state.index.view((term(f"absent-{n}", "DOES_NOT_EXIST"),), by_resources=False)

    assert len(views_of(fleet)) == MAX_VIEW_SHARE
    assert all(set(i.views) == set(views_of(fleet)) for i in fleet.state.index.by_order.values())


def test_a_view_that_is_larger_than_the_bound_alone_is_still_kept() -> None:
    fleet = PureFleet(8)
    index = fleet.state.index
    for n in range(2 * MAX_VIEW_SHARE):
        index.view((term(f"absent-{n}", "DOES_NOT_EXIST"),), by_resources=False)
    fleet.do(DeleteInstance("gpu", "n1"))

    assert look(fleet, ()) == {}
    assert len(views_of(fleet)) >= 1


@pytest.mark.parametrize(("matching", "by_view"), [(MAX_SCANNED, False), (MAX_SCANNED + 1, True)])
def test_few_matches_are_looked_at_and_many_have_a_view(matching: int, *, by_view: bool) -> None:
    fleet = PureFleet()
    for n in range(matching):
        fleet.add(f"n{n}", shape(2, labels={"zone": "a", "host": f"n{n}"}))
    zone = (term("zone", "IN", "a"),)

    assert len(fleet.take(Demand(instances=matching, blocks=1, selector=zone))) == matching
    assert bool(views_of(fleet)) is by_view
    assert fleet.take(Demand(blocks=1, selector=(*zone, term("host", "IN", "n7")))) == (("n7", (1,)),)
    assert len(views_of(fleet)) == by_view


def test_the_sum_of_what_may_be_acquired_follows_every_change(fleet: PureFleet) -> None:
    index = fleet.state.index
    assert index.acquirable_blocks == 20

    fleet.acquire(Demand(blocks=3))
    fleet.change("n1", state=CORDONED)
    fleet.change("n2", total_blocks=6)
    fleet.add("n4", shape(5))
    fleet.do(DeleteInstance("gpu", "n3"))

    assert index.acquirable_blocks == sum(i.idle_count for i in index.by_order.values() if i.active) == 3 + 5
