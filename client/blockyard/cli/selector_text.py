"""Reads a label selector as people write it for Kubernetes: `gpu in (a100, h100), zone != b, !spot`. Pure.

The forms of a term: `key in (a, b)`, `key notin (a, b)`, `key = a`, `key == a`, `key != a`, `key`, `!key`.
"""

import re
from collections.abc import Iterator
from typing import Final

from blockyard.cli.option_values import MalformedValue
from blockyard.enums import Operator
from blockyard.types import Expression

_KEY: Final = r"(?P<key>[A-Za-z0-9](?:[A-Za-z0-9._/-]*[A-Za-z0-9])?)"
_SET_TERM: Final = re.compile(rf"{_KEY}\s+(?P<word>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUALITY_TERM: Final = re.compile(rf"{_KEY}\s*(?P<word>==|=|!=)\s*(?P<value>[^\s,()=!]*)")
_EXISTENCE_TERM: Final = re.compile(rf"(?P<word>!?)\s*{_KEY}")
_OPERATORS: Final = {
    "in": Operator.IN,
    "=": Operator.IN,
    "==": Operator.IN,
    "notin": Operator.NOT_IN,
    "!=": Operator.NOT_IN,
    "": Operator.EXISTS,
    "!": Operator.DOES_NOT_EXIST,
}


def read_selector(text: str) -> tuple[Expression, ...]:
    """The terms of a selector, all of which must hold. Raises `MalformedValue` with a sentence that shows the forms."""
    return tuple(_read_term(term) for term in _split_terms(text))


def _read_term(term: str) -> Expression:
    for form in (_SET_TERM, _EQUALITY_TERM, _EXISTENCE_TERM):
        found = form.fullmatch(term)
        if found is None:
            continue
        parts = found.groupdict()
        values: tuple[str, ...] = ()
        if "values" in parts:
            values = tuple(value.strip() for value in parts["values"].split(","))
        elif "value" in parts:
            values = (parts["value"],)
        return Expression(key=parts["key"], operator=_OPERATORS[parts["word"]], values=values)
    raise MalformedValue(
        f"{term!r} is not a term of a selector; write 'key in (a,b)', 'key notin (a,b)', 'key=a', 'key!=a', "
        "'key' (it is there) or '!key' (it is not)."
    )


def _split_terms(text: str) -> Iterator[str]:
    """The parts between the commas that are not inside parentheses."""
    depth = 0
    start = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            yield text[start:position].strip()
            start = position + 1
    yield text[start:].strip()
