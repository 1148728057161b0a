"""Which names have a series of their own."""

from blockyard_server.engine.bounded_names import ELECTION_S, MAX_KNOWN, OTHER, BoundedNames


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_first_ones_have_a_series_and_the_rest_share_one() -> None:
    names = BoundedNames(2)
    assert [names.note(name) for name in ("a", "b", "c", "a", "c")] == ["a", "b", OTHER, "a", OTHER]
    assert names.elect() == {"a", "b"}
    assert BoundedNames(0).note("a") == OTHER


def test_a_much_more_active_one_takes_the_place_of_one_at_rest_but_not_at_once() -> None:
    clock = Clock()
    names = BoundedNames(2, clock)
    for name, amount in (("a", 10), ("b", 3), ("c", 7), ("d", 6)):
        names.note(name, amount)
    assert names.elect() == {"a", "b"}
    clock.now_s = ELECTION_S
    assert names.elect() == {"a", "c"}, "d is less active than c, and not much more than a"
    assert names.note("b") == OTHER


def test_one_that_is_about_as_active_takes_no_place() -> None:
    clock = Clock()
    names = BoundedNames(1, clock)
    names.note("a", 5)
    names.note("b", 10)
    clock.now_s = ELECTION_S
    assert names.elect() == {"a"}


def test_what_was_done_long_ago_counts_less() -> None:
    clock = Clock()
    names = BoundedNames(1, clock)
    names.note("a", 100)
    for _ in range(5):
        clock.now_s += ELECTION_S
        names.note("b", 20)
        names.elect()
    assert names.shown == {"b"}


def test_the_names_that_are_remembered_are_bounded() -> None:
    names = BoundedNames(1)
    for number in range(3 * MAX_KNOWN):
        names.note(f"n{number}")
    assert len(names._activity) <= MAX_KNOWN + 1
    assert names.shown == {"n0"}
