"""Tells whether two Acquires with one token are the same request.

The comparison is over the decoded, defaulted fields, never over raw protobuf bytes; deadlines and metadata are not in
it, nor is anything that an operator may change in between (a fleet's defaults). A fingerprint is a version byte and a
digest for each field of that version, so that a mismatch can name the fields that differ.

A token outlives an upgrade: a stored fingerprint is compared by the fields of its own version, and a field that is
newer must have its default in the new request. So a version only ever adds fields, at the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from blockyard_server.domain.requests import Acquire

VERSION: Final = 1
"""Of the fingerprints that are written."""
_DIGEST_BYTES: Final = 8
_REMEMBERED_LENGTH: Final = 1024
"""The longest text whose digest is remembered: the texts that are kept stay below a megabyte in all."""


@dataclass(frozen=True, slots=True)
class Field:
    """One digest of a fingerprint.

    `value` is made of tuples, strings, integers, booleans and None alone. `is_default` is asked of a field that is
    newer than version 1: whether the request is one that could also have been made before there was the field.
    """

    name: str
    """As the API spells it."""
    since: int
    value: Callable[[Acquire], Any]
    is_default: Callable[[Acquire], bool] = lambda _request: False


def _demands(request: Acquire) -> tuple[Any, ...]:
    return tuple(
        (
            demand.instances,
            demand.blocks,
            demand.requirements,
            demand.exclusive,
            tuple((term.key, term.operator, term.values) for term in demand.selector),
            demand.instance_names,
        )
        for demand in request.demands
    )


FIELDS: Final = (
    Field("holder", 1, lambda request: request.holder),
    Field("demands", 1, _demands),
    Field("placement_strategy", 1, lambda request: None if request.strategy is None else request.strategy.value),
    Field("ttl", 1, lambda request: request.ttl_us),
    Field("annotations", 1, lambda request: tuple(sorted(request.annotations.items()))),
)
"""In the order of their digests: by version. A new field, of a request or of a demand, is a further one."""


def fingerprint(request: Acquire, version: int = VERSION, fields: Sequence[Field] = FIELDS) -> bytes:
    """The fingerprint of a request.

    `ascii` of tuples, strings and integers is exact and stable; `repr` is not, since what is printable depends on the
    version of Unicode.
    """
    digests = [_digest(ascii(field.value(request))) for field in fields if field.since <= version]
    return bytes([version]) + b"".join(digests)


def differing_fields(stored: bytes, request: Acquire, fields: Sequence[Field] = FIELDS) -> tuple[str, ...]:
    """The names of the fields in which a request differs from the one of a stored fingerprint.

    All of them, if it has none (a token that Repair recorded again) or one of a version that is not known here.
    """
    version = stored[0] if stored else 0
    own = [field for field in fields if field.since <= version]
    if len(stored) != 1 + len(own) * _DIGEST_BYTES:
        return tuple(dict.fromkeys(field.name for field in fields))
    present = fingerprint(request, version, fields)
    places = [slice(1 + i * _DIGEST_BYTES, 1 + (i + 1) * _DIGEST_BYTES) for i in range(len(own))]
    differing = [field.name for field, place in zip(own, places, strict=True) if stored[place] != present[place]]
    differing += [field.name for field in fields if field.since > version and not field.is_default(request)]
    return tuple(dict.fromkeys(differing))


def _digest(text: str) -> bytes:
    # Digests are remembered by their texts, and a request of a mebibyte has texts of that size.
    return _remembered(text) if len(text) <= _REMEMBERED_LENGTH else _computed(text)


def _computed(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


_remembered: Final = lru_cache(maxsize=1024)(_computed)
"""Remembered, because most of a scheduler's requests differ in the holder alone."""
