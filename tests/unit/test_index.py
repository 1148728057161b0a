"""The bitmaps follow every change of an instance, and say what a look at every instance would say."""

from random import Random

import pytest

from blockyard_server.domain.bitmaps import BITS, NEVER, BitSlices, bitmap_of, positions_in
from blockyard_server.domain.errors import LimitExceeded
from blockyard_server.domain.index import MIN_DENSE, MIN_GONE
from blockyard_server.domain.requests import (
    DeleteInstance,
    Demand,
    InstanceFields,
    Operator,
    PlacementStrategy,
    Selector,
    Term,
)
from tests.oracle.domain_types import plain_terms
from tests.oracle.placement import matches
from tests.unit.pure_fleet import ACTIVE, CORDONED, OFFLINE, PureFleet, shape, term

NOT_OLD: Selector = (term("old", "DOES_NOT_EXIST"),)


def look(fleet: PureFleet, selector: Selector = ()) -> dict[str, int]:
    """The instances that a selector matches, with how many blocks the bitmaps say may be acquired there."""
    index = fleet.state.index
    found = {}
    for position in positions_in(index.matching(selector)):
        instance = index._at[position]
        assert instance is not None
        bit = 1 << position
        levels = [level for level in range(instance.total_blocks + 1) if index.with_room(level, bit)]
        assert not index.fitting(instance.total_blocks + 1, bit)
        assert index.fitting(instance.total_blocks, bit)
        found[instance.name] = levels[-1]
    return found


@pytest.fixture
def fleet() -> PureFleet:
    """Three instances, two of which NOT_OLD matches."""
    fleet = PureFleet(8, 4)
    fleet.add("n3", shape(8, labels={"old": "yes"}))
    assert look(fleet, NOT_OLD) == {"n1": 8, "n2": 4}
    return fleet


def test_a_selector_has_what_it_matches(fleet: PureFleet) -> None:
    assert look(fleet, (term("old", "EXISTS"),)) == {"n3": 8}
    assert look(fleet) == {"n1": 8, "n2": 4, "n3": 8}
    assert not look(fleet, (term("old", "IN", "no", "never"),))


def test_taking_and_freeing_blocks_is_seen(fleet: PureFleet) -> None:
    held = fleet.acquire(Demand(blocks=3, instance_names=("n1",))).revision
    fleet.acquire(Demand(blocks=4, instance_names=("n2",)))
    assert look(fleet, NOT_OLD) == {"n1": 5, "n2": 0}

    fleet.release(held, placements=(("n1", (1,)),))
    assert look(fleet, NOT_OLD) == {"n1": 6, "n2": 0}


def test_an_instance_that_takes_no_grants_matches_without_blocks_to_acquire(fleet: PureFleet) -> None:
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

    fleet.change("n2", labels={"old": "now"})
    fleet.change("n3", labels={})
    assert look(fleet, NOT_OLD) == {"n3": 8, "n4": 2}

    fleet.acquire(Demand(blocks=2, instance_names=("n4",)))
    fleet.change("n4", total_blocks=7)
    assert look(fleet, NOT_OLD) == {"n3": 8, "n4": 5}


def test_instances_that_come_and_go_before_anybody_asks_leave_nothing(fleet: PureFleet) -> None:
    fleet.add("n4", shape(2, labels={"zone": "a"}, resources={"gpu": 2}))
    fleet.add("n5", shape(2, labels={"zone": "a"}, resources={"gpu": 2}))
    fleet.change("n5", labels={"zone": "b"})
    fleet.do(DeleteInstance("gpu", "n4"))

    assert look(fleet, (term("zone", "EXISTS"),)) == {"n5": 2}
    assert fleet.take(Demand(requirements=(("gpu", 2),))) == (("n5", (0, 1)),)


def test_positions_of_instances_that_have_gone_are_used_anew_and_the_order_stays() -> None:
    fleet = PureFleet()
    for n in range(4 * MIN_GONE):
        fleet.add(f"n{n}", shape(2, labels={"parity": f"{n % 2}"}))
    assert len(look(fleet)) == 4 * MIN_GONE
    for n in range(3 * MIN_GONE):
        fleet.do(DeleteInstance("gpu", f"n{n}"))
        assert fleet.take(Demand(blocks=1), strategy=PlacementStrategy.FIRST_FIT) == ((f"n{n + 1}", (0,)),)
        fleet.release(fleet.state.revision)

    index = fleet.state.index
    assert len(index._at) < 4 * MIN_GONE
    left = [f"n{n}" for n in range(3 * MIN_GONE, 4 * MIN_GONE)]
    assert list(look(fleet)) == left
    assert list(look(fleet, (term("parity", "IN", "1"),))) == left[1::2]


def test_fleets_that_change_their_shapes_do_not_pile_them_up() -> None:
    fleet = PureFleet(8)
    for n in range(10 * MIN_GONE):
        fleet.change("n1", resources={"memory_mib": n + 1})
        assert fleet.take(Demand(requirements=(("memory_mib", n + 1),)))[0][0] == "n1"
        fleet.release(fleet.state.revision)

    assert len(fleet.state.index._shapes) <= 2 + MIN_GONE + 1


def test_what_is_remembered_of_requirements_follows_the_instances() -> None:
    fleet = PureFleet()
    fleet.add("n1", shape(8, resources={"gpu": 4}))
    two = Demand(requirements=(("gpu", 2),))
    assert fleet.take(two) == (("n1", (0, 1, 2, 3)),)

    fleet.add("n2", shape(8, resources={"gpu": 8}))
    assert fleet.take(two, strategy=PlacementStrategy.WORST_FIT) == (("n2", (0, 1)),)
    fleet.change("n1", resources={"gpu": 16})
    assert fleet.take(two) == (("n1", (4,)),)


@pytest.mark.parametrize("hosts", [3, 4 * MIN_DENSE])
def test_every_selector_agrees_with_a_look_at_each_instance(hosts: int) -> None:
    dice = Random(hosts)
    fleet = PureFleet()
    for n in range(300):
        labels = {"zone": f"z{dice.randrange(3)}", "host": f"h{dice.randrange(hosts)}", "serial": f"s{n}"}
        if dice.random() < 0.3:
            labels["old"] = "yes"
        fleet.add(f"n{n}", shape(2, labels=labels))
        if n % 100 == 50:
            look(fleet)
    for n in dice.sample(range(300), 60):
        fleet.change(f"n{n}", labels=(("host", f"h{dice.randrange(hosts)}"), ("zone", "z9")))

    def some_term() -> Term:
        key = dice.choice(("zone", "host", "serial", "old", "absent"))
        operator: Operator = dice.choice(("IN", "NOT_IN", "EXISTS", "DOES_NOT_EXIST"))
        values = [f"{key[0]}{dice.randrange(hosts)}" for _ in range(dice.randrange(1, 6))]
        return term(key, operator, *(values if operator in {"IN", "NOT_IN"} else ()))

    for _ in range(300):
        selector = tuple(some_term() for _ in range(dice.randrange(1, 4)))
        index = fleet.state.index
        found = {i.name for p in positions_in(index.matching(selector)) if (i := index._at[p]) is not None}
        assert found == {i.name for i in index.by_name.values() if matches(plain_terms(selector), i.labels)}


def test_different_requirements_on_a_fleet_of_different_instances_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockyard_server.domain.limits.MAX_SHAPES_PER_REQUEST", 100)
    fleet = PureFleet()
    for n in range(60):
        fleet.add(f"n{n}", InstanceFields(4, resources={"memory_mib": 1000 + n}))
    one, other = (Demand(requirements=(("memory_mib", wanted),)) for wanted in (100, 200))

    refusal = fleet.refusal(fleet.wish(one, other), LimitExceeded)

    assert refusal.metadata == {"limit": "shapes_per_request", "maximum": "100"}
    assert len(fleet.take(one)) == 1
    assert len(fleet.take(one, other)) == 1, "what is remembered costs nothing"


def test_the_sum_of_what_may_be_acquired_follows_every_change(fleet: PureFleet) -> None:
    index = fleet.state.index
    assert index.acquirable_blocks == 20

    fleet.acquire(Demand(blocks=3))
    fleet.change("n1", state=CORDONED)
    fleet.change("n2", total_blocks=6)
    fleet.add("n4", shape(5))
    fleet.do(DeleteInstance("gpu", "n3"))

    assert index.acquirable_blocks == sum(i.idle_count for i in index.by_order.values() if i.active) == 3 + 5


def test_bit_slices_agree_with_a_look_at_each_number() -> None:
    dice = Random(7)
    numbers = [dice.choice((0, 1, 7, 8, 4096, dice.randrange(NEVER + 1))) for _ in range(500)]
    others = [dice.choice((number, dice.randrange(NEVER + 1))) for number in numbers]
    slices, other = BitSlices(), BitSlices()
    slices.append(numbers[:200], 0)
    slices.append(numbers[200:], 200)
    other.append(others, 0)
    for position in dice.sample(range(500), 100):
        slices.change(position, numbers[position], number := dice.randrange(NEVER + 1))
        numbers[position] = number

    among = bitmap_of(dice.sample(range(500), 300), 500)
    asked = set(positions_in(among))
    for least in (0, 1, 2, 8, 4096, NEVER, *(dice.randrange(NEVER) for _ in range(20))):
        assert set(positions_in(slices.at_least(least, among))) == {p for p in asked if numbers[p] >= least}
    assert set(positions_in(slices.at_least(other, among))) == {p for p in asked if numbers[p] >= others[p]}
    smallest, largest = min(numbers[p] for p in asked), max(numbers[p] for p in asked)
    assert set(positions_in(slices.smallest(among))) == {p for p in asked if numbers[p] == smallest}
    assert set(positions_in(slices.largest(among))) == {p for p in asked if numbers[p] == largest}
    assert NEVER == 2**BITS - 1
