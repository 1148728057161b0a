"""Selectors in Kubernetes' words."""

import pytest

from blockyard.cli.option_values import MalformedValue
from blockyard.cli.selector_text import read_selector
from blockyard.enums import Operator
from blockyard.types import Expression


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu in (a100,h100)", Expression("gpu", Operator.IN, ("a100", "h100"))),
        ("gpu in ( a100 , h100 )", Expression("gpu", Operator.IN, ("a100", "h100"))),
        ("gpu notin (a100)", Expression("gpu", Operator.NOT_IN, ("a100",))),
        ("zone=a", Expression("zone", Operator.IN, ("a",))),
        ("zone == a", Expression("zone", Operator.IN, ("a",))),
        ("zone != b", Expression("zone", Operator.NOT_IN, ("b",))),
        ("zone=", Expression("zone", Operator.IN, ("",))),
        ("spot", Expression("spot", Operator.EXISTS)),
        ("!spot", Expression("spot", Operator.DOES_NOT_EXIST)),
        ("example.com/zone-1 in (x)", Expression("example.com/zone-1", Operator.IN, ("x",))),
    ],
)
def test_a_term_is_read(text: str, expected: Expression) -> None:
    assert read_selector(text) == (expected,)


def test_commas_between_terms_mean_and_and_commas_in_parentheses_separate_values() -> None:
    assert read_selector("gpu in (a,b), zone!=c,!spot") == (
        Expression("gpu", Operator.IN, ("a", "b")),
        Expression("zone", Operator.NOT_IN, ("c",)),
        Expression("spot", Operator.DOES_NOT_EXIST),
    )


@pytest.mark.parametrize(
    "text", ["", "a,", "gpu in a", "gpu in (a", "gpu within (a)", "a b", "gpu in ((a))", "-x", "a=b=c"]
)
def test_what_is_no_selector_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(MalformedValue, match=r"write 'key in \(a,b\)'"):
        read_selector(text)
