"""Which blocks of an instance are granted, and the arithmetic of sets of blocks."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockyard_server.domain.blocks import block_count, choose_blocks, to_blocks, to_mask, to_runs, within, without

masks = st.integers(min_value=1, max_value=2**40 - 1)


def drawn(picture: str) -> int:
    """A set of blocks drawn with block 0 on the left: `.` is idle, `#` is not."""
    return sum(1 << block for block, cell in enumerate(picture) if cell == ".")


@pytest.mark.parametrize(
    ("idle", "count", "chosen"),
    [
        ("........", 3, (0, 1, 2)),
        ("...#..##", 2, (4, 5)),  # the run of two, though three fit lower
        ("....#...", 2, (5, 6)),  # the smaller of two that are too long
        ("..#..#..", 2, (0, 1)),  # among equals the lowest
        ("...#...#", 2, (0, 1)),
        ("#...#..#", 1, (5,)),  # one block out of the smallest run
        ("#...#..#.", 1, (8,)),
        (".#.#.#.#", 3, (0, 2, 4)),  # no run fits: the lowest numbers
        ("#..#..#..", 3, (1, 2, 4)),
        ("#######.", 1, (7,)),
        ("........", 8, (0, 1, 2, 3, 4, 5, 6, 7)),
    ],
)
def test_the_smallest_run_that_fits_is_taken_lowest_first_else_the_lowest_numbers(
    idle: str, count: int, chosen: tuple[int, ...]
) -> None:
    assert to_blocks(choose_blocks(drawn(idle), count)) == chosen


def runs_of(idle: tuple[int, ...]) -> list[list[int]]:
    runs: list[list[int]] = []
    for block in idle:
        if runs and runs[-1][-1] == block - 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


@given(masks, st.data())
def test_the_choice_is_what_the_rule_says_word_by_word(idle: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, idle.bit_count()))
    numbers = to_blocks(idle)
    fitting = sorted((len(run), run[0]) for run in runs_of(numbers) if len(run) >= count)
    expected = tuple(range(fitting[0][1], fitting[0][1] + count)) if fitting else numbers[:count]

    assert to_blocks(choose_blocks(idle, count)) == expected


def test_the_largest_instance_can_be_granted_whole() -> None:
    everything = (1 << 4096) - 1

    assert choose_blocks(everything, 4096) == everything


@given(masks)
def test_a_set_is_the_same_after_having_been_numbers(mask: int) -> None:
    assert to_mask(to_blocks(mask)) == mask


def test_what_is_taken_away_leaves_the_rest_in_its_order_and_no_empty_instance() -> None:
    held = (("b", (0, 1, 2)), ("a", (4,)), ("c", (5,)))

    assert without(held, (("a", (4,)), ("b", (1,)))) == (("b", (0, 2)), ("c", (5,)))


def test_only_what_is_held_is_within_what_is_wanted() -> None:
    held = (("b", (0, 2)), ("a", (4,)))

    assert within(held, (("a", (4, 5)), ("b", (1, 2)), ("c", (0,)))) == (("b", (2,)), ("a", (4,)))


def test_blocks_are_counted_over_all_instances() -> None:
    assert block_count((("a", (0, 1)), ("b", (7,)))) == 3


@given(st.sets(st.integers(0, 200)))
def test_the_runs_of_a_set_are_its_numbers_and_do_not_touch(numbers: set[int]) -> None:
    runs = to_runs(to_mask(tuple(sorted(numbers))))

    assert [number for first, last in runs for number in range(first, last + 1)] == sorted(numbers)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(runs))


@given(st.lists(st.integers(0, 300)))
def test_the_set_of_some_numbers_does_not_depend_on_their_order_and_repetition(numbers: list[int]) -> None:
    assert to_mask(tuple(numbers)) == sum(1 << number for number in set(numbers))
