"""The queue against a naive one that only remembers who waits: nothing is lost, nobody starves, shares are as weights.

The bounds are those of start-time fair queueing: two that always wait differ by no more than the largest portion of
each, and whoever comes anew waits for no more than one portion of each of the others.
"""

from collections import defaultdict, deque
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from blockyard_server.engine.asker import Asker, Urgency
from blockyard_server.engine.fair_queue import UNITS_AT_ONCE, FairQueue

FLEETS = ("a", "b", "c")
TENANTS = ("alice", "bob", "carol")
MAX_COST = 20
WEIGHTS = {Urgency.CONTROL: 8, Urgency.ACQUIRE: 4, Urgency.ADMIN: 1}
PORTION = UNITS_AT_ONCE + MAX_COST
"""No lane is served more units at a time: the last request of a portion may be a large one."""


@dataclass(eq=False)
class Item:
    """Something that waits."""

    fleet: str
    asker: Asker
    urgency: Urgency
    cost: float
    number: int = 0
    arrival: int = 0

    @property
    def lane(self) -> tuple[str, Urgency, str]:
        """What keeps its order."""
        return self.fleet, self.urgency, self.asker.tenant


class Naive:
    """Who waits, as a list of lists."""

    def __init__(self) -> None:
        self.lanes: dict[tuple[str, Urgency, str], deque[Item]] = defaultdict(deque)

    def on(self, fleet: str) -> list[Item]:
        """All that wait on a fleet, in the order in which they came."""
        found = [item for lane, items in self.lanes.items() if lane[0] == fleet for item in items]
        return sorted(found, key=lambda item: item.arrival)

    def __len__(self) -> int:
        return sum(map(len, self.lanes.values()))


items = st.builds(
    Item,
    st.sampled_from(FLEETS),
    st.builds(Asker, st.sampled_from(TENANTS), st.just(1)),
    st.sampled_from(Urgency),
    st.integers(1, MAX_COST).map(float),
)
turns = st.tuples(st.integers(1, 12), st.integers(1, 60).map(float), st.floats(0.001, 1.0), st.integers(0, 12))


@given(st.lists(st.one_of(items, turns), max_size=120))
def test_nothing_is_lost_and_each_lane_keeps_its_order(
    steps: list[Item | tuple[int, float, float, int]],
) -> None:
    queue: FairQueue[Item] = FairQueue()
    naive = Naive()
    for arrival, step in enumerate(steps):
        if isinstance(step, Item):
            step.arrival = arrival
            queue.add(step.fleet, step)
            naive.lanes[step.lane].append(step)
            continue
        most, most_units, cost_s, returned = step
        assert (queue.first is None) == (len(naive) == 0)
        if queue.first is None:
            continue
        first, waited = queue.first, naive.on(queue.first)
        turn = queue.take(most, most_units)
        again = turn.entries[len(turn.entries) - returned :] if returned else []
        assert turn.fleet == first
        assert 1 <= len(turn.entries) <= most
        assert sum(item.cost for item in turn.entries[:-1]) < most_units
        if len(waited) <= most and sum(item.cost for item in waited) <= most_units:
            assert turn.entries == waited, "there was room for all"
        assert turn.more == (len(turn.entries) < len(waited))
        for item in turn.entries:
            assert item is naive.lanes[item.lane].popleft()
        for item in reversed(again):
            naive.lanes[item.lane].appendleft(item)
        queue.end_turn(first, cost_s, again)
        assert len(queue) == len(naive)
        assert {id(item) for item in queue} == {id(item) for lane in naive.lanes.values() for item in lane}


costs = st.lists(st.integers(1, MAX_COST), min_size=1, max_size=5)
backlogs = st.dictionaries(st.tuples(st.sampled_from(Urgency), st.sampled_from(TENANTS)), costs, min_size=2, max_size=9)


@given(backlogs, st.tuples(*[st.integers(1, 5)] * 3), st.integers(1, 40), st.integers(1, 100))
def test_those_that_always_wait_on_a_fleet_have_shares_as_their_weights(
    lanes: dict[tuple[Urgency, str], list[int]], weights: tuple[int, ...], most: int, most_units: int
) -> None:
    queue: FairQueue[Item] = FairQueue()
    served: dict[tuple[Urgency, str], int] = dict.fromkeys(lanes, 0)
    weight = dict(zip(TENANTS, weights, strict=True))

    def refill(lane: tuple[Urgency, str], number: int) -> None:
        urgency, tenant = lane
        queue.add("a", Item("a", Asker(tenant, weight[tenant]), urgency, lanes[lane][number % len(lanes[lane])]))

    for lane in lanes:
        for number in range(2 * most + 2):
            refill(lane, number)
    for turn_number in range(60):
        turn = queue.take(most, most_units)
        queue.end_turn("a", 0.01)
        for number, item in enumerate(turn.entries):
            served[item.urgency, item.asker.tenant] += int(item.cost)
            refill((item.urgency, item.asker.tenant), turn_number + number)

    classes = {urgency: sum(units for (u, _), units in served.items() if u is urgency) for urgency, _ in lanes}
    for one, other in combinations(classes, 2):
        _expect_fair(classes[one], WEIGHTS[one], classes[other], WEIGHTS[other])
    for lane, another in combinations(served, 2):
        if lane[0] is another[0]:
            _expect_fair(served[lane], weight[lane[1]], served[another], weight[another[1]])


def _expect_fair(one: int, its_weight: int, other: int, others_weight: int) -> None:
    difference = abs(Fraction(one, its_weight) - Fraction(other, others_weight))
    assert difference <= Fraction(PORTION, its_weight) + Fraction(PORTION, others_weight)


@given(
    st.dictionaries(st.sampled_from(["mallory", "trent", "peggy"]), st.integers(1, 60), min_size=1, max_size=3),
    st.integers(0, 100),
    st.sampled_from([Urgency.CONTROL, Urgency.ACQUIRE]),
)
def test_who_comes_anew_waits_for_one_turn_of_each_tenant_on_however_many_fleets(
    floods: dict[str, int], after: int, urgency: Urgency
) -> None:
    """All turns take equally long. A flood of renewals has two turns for each of the acquires'."""
    queue: FairQueue[Item] = FairQueue()
    for tenant, fleets in floods.items():
        for number in range(fleets):
            for _ in range(5):
                queue.add(f"{tenant}-{number}", Item("", Asker(tenant), urgency, 1))
    for _ in range(min(after, 5 * sum(floods.values()) - 10)):
        fleet = queue.first
        assert fleet is not None
        queue.take(1)
        queue.end_turn(fleet, 1.0)

    queue.add("quiet", Item("quiet", Asker("victor"), Urgency.ACQUIRE, 1))
    waited = 0
    while (fleet := queue.first) != "quiet":
        assert fleet is not None
        queue.take(1)
        queue.end_turn(fleet, 1.0)
        waited += 1
        assert waited <= len(floods) * (1 if urgency is Urgency.ACQUIRE else 2) + 1
