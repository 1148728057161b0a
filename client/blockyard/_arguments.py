"""What is refused before anything is sent, because it would be taken for something else."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

K = TypeVar("K")
T = TypeVar("T")


def not_empty(value: T | None, argument: str) -> T | None:
    """A guard or a filter; None is none.

    Raises:
        ValueError: It is given, but empty (`""`, 0): a name that was lost on the way must not come to mean "any".
    """
    if value is None or value:
        return value
    raise ValueError(f"{argument} is empty ({value!r}); omit it to match any")


def several(values: Iterable[T], argument: str) -> tuple[T, ...]:
    """The values of an argument that takes several.

    Raises:
        TypeError: It is one string, whose characters would be taken for the values.
    """
    if isinstance(values, str | bytes | bytearray):
        raise TypeError(f"{argument} takes several values, such as a list; not the single {values!r}")
    return tuple(values)


def some(values: Iterable[T] | None, argument: str) -> tuple[T, ...]:
    """The values of a filter, or () for None.

    Raises:
        TypeError: It is one string.
        ValueError: It is given, but without a value: that must not come to mean "any" either.
    """
    if values is None:
        return ()
    chosen = several(values, argument)
    if not chosen:
        raise ValueError(f"{argument} is empty; omit it to match any")
    return chosen


def mapped(values: Mapping[K, T] | None, argument: str) -> Mapping[K, T]:
    """The values of an argument that has some by key; none for None.

    Raises:
        TypeError: It is something else.
    """
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise TypeError(f"{argument} takes values by key, such as a dict; not {values!r}")
    return values
