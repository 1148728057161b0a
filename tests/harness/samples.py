"""Which cases of a long list `make test` has; `make test-slow` has the others."""

from collections.abc import Sequence
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet


def some_at_first(cases: Sequence[Any], count: int) -> list[ParameterSet]:
    """All cases for `parametrize`; those that are not among `count`, spread over the list, are slow.

    A case is a value, a tuple of values, or a `pytest.param`. The last one is among them: it may be a new one.
    """
    first = {len(cases) - 1 - number * len(cases) // count for number in range(count)}
    return [_case(case, is_slow=place not in first) for place, case in enumerate(cases)]


def _case(case: Any, *, is_slow: bool) -> ParameterSet:
    marks = (pytest.mark.slow,) if is_slow else ()
    if isinstance(case, ParameterSet):
        return pytest.param(*case.values, marks=(*case.marks, *marks), id=case.id)
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marks)
