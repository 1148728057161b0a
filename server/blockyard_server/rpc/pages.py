"""A page ends early where its rows weigh too much: gRPC clients accept 4 MiB by default."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from blockyard_server.domain.limits import MAX_PAGE_BYTES

Row = TypeVar("Row")


class _Sized(Protocol):
    def ByteSize(self) -> int: ...


M = TypeVar("M", bound=_Sized)
M_co = TypeVar("M_co", bound=_Sized, covariant=True)


class _Rows(Protocol[M_co]):
    """A repeated field."""

    def add(self) -> M_co: ...


def fill_page(into: _Rows[M], rows: Sequence[Row], fill: Callable[[M, Row], None]) -> Row | None:
    """Adds the rows until they weigh `MAX_PAGE_BYTES`.

    Returns the row after which the next page goes on, if some were left out; None if all are there.
    """
    weight = 0
    for i, row in enumerate(rows):
        message = into.add()
        fill(message, row)
        weight += message.ByteSize()
        if weight >= MAX_PAGE_BYTES and i + 1 < len(rows):
            return row
    return None
