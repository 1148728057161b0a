"""Rows as PostgreSQL's array literals, one for each column: a few joins instead of a conversion for each value."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from blockyard_server.store.codec import Row
from blockyard_server.store.postgres.statements import ONE


def encode_columns(rows: Sequence[Row], kinds: Sequence[str]) -> list[str]:
    """Each column of the rows as an array of its type, or its one value. There is at least one row."""
    return [
        column[0] if kind == ONE else "{" + ",".join(map(_ENCODERS[kind], column)) + "}"
        for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)
    ]


def _number(value: int | None) -> str:
    return "NULL" if value is None else str(value)


def _text(value: str | None) -> str:
    if value is None:
        return "NULL"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _bytes(value: bytes) -> str:
    return f'"\\\\x{value.hex()}"'


_ENCODERS: Final[Mapping[str, Callable[[Any], str]]] = MappingProxyType(
    {"text": _text, "int": _number, "bigint": _number, "bytea": _bytes}
)
