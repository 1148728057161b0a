"""Whose turn it is: fleets share a writer by the time that their turns take, classes and tenants by their weights."""

from collections import Counter
from dataclasses import dataclass
from math import inf

from blockyard_server.engine.asker import ANYBODY, Asker, Urgency
from blockyard_server.engine.fair_queue import FairQueue
from blockyard_server.engine.turns import MAX_IDLE_KEYS, Turns

ALICE, BOB = Asker("alice"), Asker("bob")


@dataclass(eq=False)
class Item:
    """Something that waits."""

    name: str
    asker: Asker = ANYBODY
    urgency: Urgency = Urgency.ACQUIRE
    cost: float = 1.0
    number: int = 0


def turn(queue: FairQueue[Item], cost_s: float, most: int = 1, most_units: float = inf) -> tuple[str, list[str]]:
    """One turn that took so long: whose, and what was taken."""
    fleet = queue.first
    assert fleet is not None
    taken = queue.take(most, most_units)
    assert taken.fleet == fleet
    queue.end_turn(fleet, cost_s)
    return fleet, [item.name for item in taken.entries]


def filled(**waiting: int) -> FairQueue[Item]:
    """So many items of each fleet, one fleet after the other."""
    queue: FairQueue[Item] = FairQueue()
    for fleet, items in waiting.items():
        for number in range(items):
            queue.add(fleet, Item(f"{fleet}{number}"))
    return queue


def test_within_a_fleet_the_order_of_arrival_holds() -> None:
    queue = filled(a=3)

    assert [turn(queue, 1.0, most=2) for _ in range(2)] == [("a", ["a0", "a1"]), ("a", ["a2"])]
    assert queue.first is None
    assert len(queue) == 0


def test_fleets_of_equal_cost_take_turns() -> None:
    queue = filled(a=3, b=3)

    assert [turn(queue, 1.0)[0] for _ in range(6)] == list("ababab")


def test_a_fleet_whose_turns_take_long_gets_as_much_time_as_the_others_and_no_more() -> None:
    queue = filled(heavy=100, light=100)

    turns = Counter(fleet for fleet, _ in (turn(queue, 10.0 if queue.first == "heavy" else 1.0) for _ in range(55)))

    assert turns == {"heavy": 5, "light": 50}


def test_who_comes_anew_waits_for_the_turn_under_way_and_for_no_other() -> None:
    queue = filled(a=10, b=10)
    for _ in range(6):
        turn(queue, 1.0)
    under_way = queue.first
    assert under_way is not None
    queue.take(1)
    queue.add("new", Item("new0"))
    queue.end_turn(under_way, 1.0)

    # The other one may have been waiting for the same moment before.
    assert "new" in [turn(queue, 1.0)[0] for _ in range(2)]


def test_who_waited_for_nothing_has_saved_up_no_turns() -> None:
    queue = filled(busy=100)
    for _ in range(50):
        turn(queue, 1.0)
    for number in range(10):
        queue.add("idle so far", Item(f"{number}"))

    assert Counter(turn(queue, 1.0)[0] for _ in range(10)) == {"busy": 5, "idle so far": 5}


def test_who_was_just_served_at_length_does_not_jump_the_queue_by_coming_back() -> None:
    queue = filled(heavy=1, light=20)
    assert turn(queue, 10.0)[0] == "heavy"
    queue.add("heavy", Item("again"))

    assert [turn(queue, 1.0)[0] for _ in range(11)] == ["light"] * 10 + ["heavy"]


def test_what_is_asked_again_goes_before_what_waits() -> None:
    queue = filled(a=4)
    taken = queue.take(3)
    assert taken.more
    queue.end_turn("a", 1.0, taken.entries[1:])

    assert len(queue) == 3
    assert turn(queue, 1.0, most=3) == ("a", ["a1", "a2", "a3"])


def test_names_that_have_gone_do_not_pile_up() -> None:
    turns: Turns[str] = Turns()
    turns.add("busy")
    for number in range(3 * MAX_IDLE_KEYS):
        turns.add(f"passing {number}")
        for key in ("busy", f"passing {number}"):
            turns.begin(key)
            turns.charge(key, 1.0)
        turns.remove(f"passing {number}")

    assert turns.idle_keys <= MAX_IDLE_KEYS + 1
    assert len(turns._ready) <= 2 * MAX_IDLE_KEYS
    turns.remove("busy")
    assert not turns.idle_keys


def test_all_that_a_turn_has_room_for_keeps_its_order() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number, urgency in enumerate([Urgency.ADMIN, Urgency.ACQUIRE, Urgency.CONTROL, Urgency.ADMIN]):
        queue.add("a", Item(f"{number}", (ALICE, BOB)[number % 2], urgency))

    assert turn(queue, 1.0, most=4) == ("a", ["0", "1", "2", "3"])


def test_classes_share_a_turn_by_their_weights_and_each_keeps_its_order() -> None:
    queue: FairQueue[Item] = FairQueue()
    for urgency in (Urgency.ADMIN, Urgency.ACQUIRE, Urgency.CONTROL):
        for number in range(1000):
            queue.add("a", Item(f"{urgency.name}-{number}", urgency=urgency))

    taken = [name.split("-") for _ in range(13) for name in turn(queue, 1.0, most=104)[1]]

    shares = Counter(urgency for urgency, _ in taken)
    assert shares["CONTROL"] + shares["ACQUIRE"] + shares["ADMIN"] == 13 * 104
    assert abs(shares["CONTROL"] - 832) <= 16
    assert abs(shares["ACQUIRE"] - 416) <= 16
    for kind, number in shares.items():
        assert [int(n) for name, n in taken if name == kind] == list(range(number))


def test_tenants_share_a_turn_by_what_their_requests_cost() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number in range(500):
        queue.add("a", Item(f"large-{number}", ALICE, cost=9.0))
    for number in range(500):
        queue.add("a", Item(f"small-{number}", BOB))

    taken = Counter(name.split("-")[0] for _ in range(10) for name in turn(queue, 1.0, 500, 90.0)[1])

    assert abs(taken["large"] - 50) <= 3
    assert abs(taken["small"] - 450) <= 16


def test_a_tenant_on_many_fleets_has_one_share_and_another_waits_for_one_turn() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number in range(1000):
        queue.add(f"flooded {number}", Item("flood", ALICE))
    for _ in range(3):
        turn(queue, 1.0)
    queue.add("quiet", Item("quiet 0", BOB))
    queue.add("quiet", Item("quiet 1", BOB))

    assert "quiet" in [turn(queue, 1.0)[0] for _ in range(2)]
    assert "quiet" in [turn(queue, 1.0)[0] for _ in range(3)]


def test_renewals_do_not_wait_for_acquires_on_many_fleets() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number in range(1000):
        queue.add(f"flooded {number}", Item("acquire"))
    turn(queue, 1.0)
    queue.add("held", Item("renew", urgency=Urgency.CONTROL))

    assert "held" in [turn(queue, 1.0)[0] for _ in range(2)]


def test_a_tenant_with_twice_the_weight_has_twice_the_time() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number in range(600):
        queue.add("of alice", Item(f"{number}", Asker("alice", weight=2)))
        queue.add("of bob", Item(f"{number}", BOB))

    turns = Counter(turn(queue, 1.0)[0] for _ in range(300))

    assert abs(turns["of alice"] - 200) <= 2


def test_a_turn_that_carried_nothing_out_took_its_time_all_the_same() -> None:
    queue = filled(faulty=8, sound=1)
    taken = queue.take(8)
    queue.end_turn("faulty", 1.0, taken.entries)

    assert turn(queue, 1.0)[0] == "sound"


def test_who_is_asked_again_has_not_used_its_share() -> None:
    """A batch is cut short: the second tenant, who was not carried out, is not the one to wait."""
    queue: FairQueue[Item] = FairQueue()
    for number in range(40):
        queue.add("a", Item(f"alice {number}", ALICE))
    for number in range(40):
        queue.add("a", Item(f"bob {number}", BOB))
    taken = queue.take(16)
    assert [item.asker for item in taken.entries] == [ALICE] * 8 + [BOB] * 8
    queue.end_turn("a", 1.0, taken.entries[8:])

    assert turn(queue, 1.0, most=8)[1] == [f"bob {number}" for number in range(8)]


def test_who_comes_anew_goes_before_the_one_that_had_all_turns_so_far() -> None:
    queue = filled(a=10)
    for _ in range(3):
        turn(queue, 1.0)
    queue.add("b", Item("new", BOB))

    assert turn(queue, 1.0)[0] == "b"


def test_those_who_share_a_turn_share_its_time() -> None:
    queue: FairQueue[Item] = FairQueue()
    for number in range(300):
        queue.add("shared", Item(f"alice {number}", ALICE))
        queue.add("shared", Item(f"bob {number}", BOB))
        queue.add("own", Item(f"carol {number}", Asker("carol")))

    turns = Counter(turn(queue, 1.0, most=16)[0] for _ in range(30))

    assert abs(turns["shared"] - 20) <= 1
