"""What clients can know of blocks that change hands: never more than they can."""

from tests.history.black_box import check_black_box
from tests.history.effects import effects_of
from tests.history.record import HELD, Acquire, Describe, Described, Freed, Granted, History, Op, Release, Shape, View

GRANT = Op(0, 0, 0, 10, Acquire("a", (Shape(1, 2),)), Granted(View(1, "a", HELD, ((0, 3),), 1), replayed=False))
"""Of the blocks 0 and 1."""
PART = Op(1, 0, 20, None, Release(1, placements=((0, 1),)), None)
WHOLE = Op(2, 0, 15, None, Release(1), None)
KNOWN = Op(3, 0, 60, 70, Release(1), Freed("ALREADY_RELEASED", View(1, "a", "RELEASED", ((0, 2),), 3), 3))


def test_blocks_that_different_calls_may_have_freed_are_freed_one_by_one() -> None:
    """Both calls had no answer: the part may have gone before the whole."""
    frees = {effect.mask: (effect.start_ns, effect.end_ns) for effect in effects_of([GRANT, WHOLE, PART, KNOWN])}

    assert frees == {3: (0, 10), 1: (15, 70), 2: (15, 70)}


def test_between_the_part_and_the_whole_a_description_may_show_the_rest() -> None:
    seen = Described(2, 1, 1, (1,), (1,), ((0, 1, 2),))
    look = Op(4, 1, 30, 40, Describe(full=True), seen)

    assert check_black_box(History((2,), [GRANT, PART, WHOLE, KNOWN, look], ())).linearizable


def test_blocks_that_one_call_has_freed_are_freed_at_once() -> None:
    freed = Op(1, 0, 20, 30, Release(1), Freed("RELEASED", View(1, "a", "RELEASED", ((0, 3),), 2), 2))

    assert [effect.mask for effect in effects_of([GRANT, freed]) if effect.frees] == [3]
