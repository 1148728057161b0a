"""Every case of a long list is in one of the two targets."""

import pytest

from tests.harness.samples import some_at_first


@pytest.mark.parametrize("count", [1, 2, 3, 7, 10])
def test_so_many_are_quick_and_none_is_left_out(count: int) -> None:
    cases = some_at_first([*range(9), pytest.param(9, id="last", marks=pytest.mark.timeout(5))], count)

    assert [case.values for case in cases] == [(number,) for number in range(10)]
    quick = [case for case in cases if "slow" not in {mark.name for mark in case.marks}]
    assert len(quick) == count
    assert quick[-1].id == "last"
    assert [mark.name for mark in quick[-1].marks] == ["timeout"]


def test_a_tuple_has_a_value_for_each_argument() -> None:
    assert [case.values for case in some_at_first([(1, 2), (3, 4)], 1)] == [(1, 2), (3, 4)]
