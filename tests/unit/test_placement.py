"""Which instances a demand gets: exact to the tie, all or nothing, and why not."""

import pytest

from blockyard_server.domain.errors import LimitExceeded, NoCapacity, Unsatisfiable
from blockyard_server.domain.index import MIN_DENSE
from blockyard_server.domain.placement import blocks_needed
from blockyard_server.domain.requests import DeleteInstance, Demand, FleetFields, InstanceState, PlacementStrategy
from tests.unit.pure_fleet import ACTIVE, BEST_FIT, CORDONED, FIRST_FIT, OFFLINE, WORST_FIT, PureFleet, shape, term

EVERY_STRATEGY = pytest.mark.parametrize("strategy", [FIRST_FIT, BEST_FIT, WORST_FIT])


def uneven_fleet() -> PureFleet:
    """Six instances of 8 blocks, of which 5, 3, 3, 8, 8 and 1 are idle."""
    fleet = PureFleet(8, 8, 8, 8, 8, 8)
    for name, busy in (("n1", 3), ("n2", 5), ("n3", 5), ("n6", 7)):
        fleet.take(Demand(blocks=busy, instance_names=(name,)))
    return fleet


@pytest.mark.parametrize(
    ("strategy", "blocks", "chosen"),
    [
        (FIRST_FIT, 1, "n1"),
        (FIRST_FIT, 4, "n1"),
        (FIRST_FIT, 6, "n4"),
        (BEST_FIT, 1, "n6"),
        (BEST_FIT, 2, "n2"),  # a tie with n3
        (BEST_FIT, 4, "n1"),
        (BEST_FIT, 6, "n4"),  # a tie with n5
        (WORST_FIT, 1, "n4"),
        (WORST_FIT, 8, "n4"),
    ],
)
def test_each_strategy_takes_exactly_one_instance(strategy: PlacementStrategy, blocks: int, chosen: str) -> None:
    assert [name for name, _ in uneven_fleet().take(Demand(blocks=blocks), strategy=strategy)] == [chosen]


@pytest.mark.parametrize(
    ("strategy", "chosen"),
    [
        (FIRST_FIT, ["n1", "n2", "n3", "n4", "n5"]),
        (BEST_FIT, ["n2", "n3", "n1", "n4", "n5"]),
        (WORST_FIT, ["n4", "n5", "n1", "n2", "n3"]),
    ],
)
def test_a_gang_makes_the_choice_again_and_again_never_twice_the_same(
    strategy: PlacementStrategy, chosen: list[str]
) -> None:
    placements = uneven_fleet().take(Demand(instances=5, blocks=2), strategy=strategy)

    assert [name for name, _ in placements] == chosen
    assert all(len(blocks) == 2 for _, blocks in placements)


def test_the_order_of_registration_outlives_an_update_and_is_never_used_again() -> None:
    fleet = PureFleet(8, 8)
    fleet.change("n1", labels={"zone": "a"})
    assert fleet.take(Demand(blocks=1), strategy=FIRST_FIT)[0][0] == "n1"

    fleet.release(fleet.state.revision)
    fleet.do(DeleteInstance("gpu", "n1"))
    fleet.add("n1")

    assert fleet.take(Demand(blocks=1), strategy=FIRST_FIT)[0][0] == "n2"


def test_an_acquire_that_names_no_strategy_has_that_of_the_fleet() -> None:
    fleet = PureFleet(4, 8, fields=FleetFields(default_placement_strategy=WORST_FIT))

    assert fleet.take(Demand(blocks=1)) == (("n2", (0,)),)
    assert fleet.take(Demand(blocks=1), strategy=BEST_FIT) == (("n1", (0,)),)


@EVERY_STRATEGY
def test_a_gang_that_fits_only_partly_takes_nothing(strategy: PlacementStrategy) -> None:
    fleet = PureFleet(8, 8, 8)
    fleet.take(Demand(blocks=8))
    before = fleet.picture()

    refusal = fleet.refusal(fleet.wish(Demand(instances=3, blocks=1), strategy=strategy), NoCapacity)

    assert refusal.metadata == {
        "demand": "0",
        "instances_needed": "3",
        "instances_found": "2",
        "idle_blocks": "16",
    }
    assert fleet.picture() == before


@EVERY_STRATEGY
def test_two_demands_that_only_together_exceed_an_instance_take_nothing(strategy: PlacementStrategy) -> None:
    fleet = PureFleet(8)
    before = fleet.picture()

    refusal = fleet.refusal(fleet.wish(Demand(blocks=5), Demand(blocks=4), strategy=strategy), NoCapacity)

    assert refusal.metadata["demand"] == "1"
    assert fleet.picture() == before
    assert fleet.take(Demand(blocks=8)) == (("n1", tuple(range(8))),)


def test_later_demands_see_what_earlier_ones_took_and_share_an_instance_if_there_is_room() -> None:
    fleet = PureFleet(8, 8)

    assert fleet.take(Demand(blocks=3), Demand(blocks=5), Demand(instances=1, blocks=2)) == (
        ("n1", tuple(range(8))),
        ("n2", (0, 1)),
    )


def test_demands_are_met_in_their_order_even_if_another_order_would_fit_better() -> None:
    fleet = PureFleet(8, 4)
    wish = fleet.wish(Demand(blocks=4), Demand(blocks=8), strategy=FIRST_FIT)

    assert fleet.refusal(wish, NoCapacity).metadata["demand"] == "1"


def test_exclusive_takes_all_of_a_wholly_idle_instance() -> None:
    fleet = PureFleet(8, 4)
    fleet.take(Demand(blocks=1, instance_names=("n2",)))

    assert fleet.take(Demand(exclusive=True)) == (("n1", tuple(range(8))),)
    assert fleet.refusal(fleet.wish(Demand(exclusive=True)), NoCapacity).metadata["instances_found"] == "0"


def test_exclusive_with_blocks_takes_an_instance_of_at_least_that_many_and_all_of_it() -> None:
    fleet = PureFleet(2, 8, 4)

    assert fleet.take(Demand(exclusive=True, blocks=3)) == (("n3", (0, 1, 2, 3)),)
    fleet.refusal(fleet.wish(Demand(exclusive=True, blocks=9)), Unsatisfiable)


@pytest.mark.parametrize(
    ("requirements", "need"),
    [
        ({"gpu": 1}, 1),
        ({"gpu": 2}, 2),
        ({"gpu": 3}, 3),
        ({"memory_mib": 1}, 1),
        ({"memory_mib": 125}, 1),  # an eighth of it
        ({"memory_mib": 126}, 2),
        ({"gpu": 1, "memory_mib": 600}, 5),
        ({"gpu": 8, "memory_mib": 1000}, 8),
        ({"gpu": 9}, None),
        ({"gpu": 1, "nvme": 1}, None),  # it lacks one
        ({"fpga": 1}, None),  # it has none of them
        ({"huge": 2**62}, 8),
        ({"huge": 2**61 + 1}, 5),  # exact, where floating point would say 4
    ],
)
def test_requirements_take_the_smallest_share_that_covers_every_entry(
    requirements: dict[str, int], need: int | None
) -> None:
    fields = shape(8, resources={"gpu": 8, "memory_mib": 1000, "fpga": 0, "huge": 2**62})

    assert blocks_needed(Demand(requirements=tuple(sorted(requirements.items()))), fields) == need


def test_requirements_come_to_different_numbers_of_blocks_on_different_instances() -> None:
    fleet = PureFleet()
    fleet.add("small", shape(4, resources={"gpu": 4}))
    fleet.add("fine", shape(16, resources={"gpu": 4}))
    fleet.add("none", shape(8))

    placements = fleet.take(Demand(instances=2, requirements=(("gpu", 2),)), strategy=FIRST_FIT)

    assert placements == (("small", (0, 1)), ("fine", tuple(range(8))))
    wish = fleet.wish(Demand(instances=3, requirements=(("gpu", 2),)))
    assert fleet.refusal(wish, Unsatisfiable).metadata["instances_fitting"] == "2"


def test_only_named_instances_are_taken_and_a_name_that_is_not_there_fits_nothing() -> None:
    fleet = PureFleet(8, 8, 8)

    assert fleet.take(Demand(blocks=1, instance_names=("n3", "n2", "n3")), strategy=FIRST_FIT) == (("n2", (0,)),)
    fleet.refusal(fleet.wish(Demand(blocks=1, instance_names=("n9",))), Unsatisfiable)
    wish = fleet.wish(Demand(instances=2, blocks=1, instance_names=("n1", "n9", "n1")))
    assert fleet.refusal(wish, Unsatisfiable).metadata["instances_fitting"] == "1"


def test_names_and_a_selector_must_both_agree() -> None:
    fleet = PureFleet(8)
    fleet.add("labelled", shape(8, labels={"zone": "a"}))
    zone = (term("zone", "IN", "a"),)

    assert fleet.take(Demand(blocks=1, selector=zone, instance_names=("n1", "labelled"))) == (("labelled", (0,)),)
    fleet.refusal(fleet.wish(Demand(blocks=1, selector=zone, instance_names=("n1",))), Unsatisfiable)


@pytest.mark.parametrize("state", [CORDONED, OFFLINE])
@pytest.mark.parametrize(
    "demand",
    [Demand(blocks=1), Demand(blocks=1, exclusive=True), Demand(blocks=1, instance_names=("n1",))],
    ids=["any", "exclusive", "named"],
)
def test_an_instance_that_is_not_active_would_fit_but_not_now(state: InstanceState, demand: Demand) -> None:
    fleet = PureFleet(8)
    fleet.change("n1", state=state)

    refusal = fleet.refusal(fleet.wish(demand), NoCapacity)

    assert refusal.metadata["idle_blocks"] == "0"
    fleet.change("n1", state=ACTIVE)
    assert fleet.take(demand)[0][0] == "n1"


@pytest.mark.parametrize("many", [False, True], ids=["positions", "bitmaps"])
def test_what_would_not_fit_an_idle_fleet_is_unsatisfiable_and_what_would_is_a_lack_of_capacity(*, many: bool) -> None:
    fleet = PureFleet()
    for n in range(MIN_DENSE + 1 if many else 3):
        fleet.add(f"n{n}", shape(4, labels={"zone": "a"}))
    count = len(fleet.busy)
    zone = (term("zone", "IN", "a"),)
    fleet.take(Demand(instances=count, blocks=4, selector=zone))

    def refused(instances: int, blocks: int, kind: type[Unsatisfiable | NoCapacity]) -> dict[str, str]:
        return fleet.refusal(fleet.wish(Demand(instances, blocks, selector=zone)), kind).metadata

    assert refused(1, 5, Unsatisfiable)["instances_fitting"] == "0"
    assert refused(count + 1, 1, Unsatisfiable)["instances_fitting"] == str(count)
    assert refused(1, 4, NoCapacity)["instances_found"] == "0"
    assert refused(count, 1, NoCapacity)["instances_needed"] == str(count)


def test_an_empty_fleet_can_satisfy_nothing() -> None:
    assert PureFleet().refusal(PureFleet().wish(), Unsatisfiable).metadata["instances_fitting"] == "0"


def test_a_grant_that_would_be_too_large_is_refused_and_leaves_nothing_behind() -> None:
    fleet = PureFleet(4096, 4096, 4096, 4096, 1)
    before = fleet.picture()

    refusal = fleet.refusal(fleet.wish(Demand(instances=5, exclusive=True)), LimitExceeded)

    assert refusal.metadata == {"limit": "blocks_per_request", "maximum": "16384"}
    assert fleet.picture() == before
    assert len(fleet.take(Demand(instances=4, exclusive=True, blocks=4096))) == 4
