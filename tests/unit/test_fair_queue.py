"""Whose turn it is: fleets share a writer by the time that their turns take."""

from collections import Counter

from blockyard_server.engine.fair_queue import MAX_IDLE_FLEETS, FairQueue


def turn(queue: FairQueue[str], cost_s: float, most: int = 1) -> tuple[str, list[str]]:
    """One turn that took so long: whose, and what was taken."""
    fleet = queue.first
    assert fleet is not None
    taken, _ = queue.take(most)
    queue.end_turn(fleet, cost_s)
    return fleet, taken


def filled(**waiting: int) -> FairQueue[str]:
    """So many items of each fleet, one fleet after the other."""
    queue: FairQueue[str] = FairQueue()
    for fleet, items in waiting.items():
        for number in range(items):
            queue.add(fleet, f"{fleet}{number}")
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
    queue.add("new", "new0")
    queue.end_turn(under_way, 1.0)

    # The other one may have been waiting for the same moment before.
    assert "new" in [turn(queue, 1.0)[0] for _ in range(2)]


def test_who_waited_for_nothing_has_saved_up_no_turns() -> None:
    queue = filled(busy=100)
    for _ in range(50):
        turn(queue, 1.0)
    for number in range(10):
        queue.add("idle so far", f"{number}")

    assert Counter(turn(queue, 1.0)[0] for _ in range(10)) == {"busy": 5, "idle so far": 5}


def test_who_was_just_served_at_length_does_not_jump_the_queue_by_coming_back() -> None:
    queue = filled(heavy=1, light=20)
    assert turn(queue, 10.0)[0] == "heavy"
    queue.add("heavy", "again")

    assert [turn(queue, 1.0)[0] for _ in range(11)] == ["light"] * 10 + ["heavy"]


def test_what_is_asked_again_goes_before_what_waits() -> None:
    queue = filled(a=4)
    taken, more = queue.take(3)
    assert more
    queue.end_turn("a", 1.0, taken[1:])

    assert len(queue) == 3
    assert turn(queue, 1.0, most=3) == ("a", ["a1", "a2", "a3"])


def test_names_of_fleets_that_have_gone_do_not_pile_up() -> None:
    queue = filled(busy=4 * MAX_IDLE_FLEETS)
    for number in range(3 * MAX_IDLE_FLEETS):
        queue.add(f"passing {number}", "once")
        for _ in range(2):
            turn(queue, 1.0)

    assert len(queue._ends_s) <= MAX_IDLE_FLEETS + 1
    while queue.first is not None:
        turn(queue, 1.0, most=1000)
    assert not queue._ends_s
