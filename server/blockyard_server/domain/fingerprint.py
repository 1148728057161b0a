"""Tells whether two Acquires with one token are the same request.

The comparison is over the decoded, defaulted fields, never over raw protobuf bytes; deadlines and metadata are not in
it, nor is anything that an operator may change in between (a fleet's defaults). A fingerprint is a version byte and
a digest for each field, so that a mismatch can name the fields that differ.
"""

from functools import lru_cache
from hashlib import blake2b
from typing import Final

from blockyard_server.domain.requests import Acquire

_VERSION: Final = b"\x01"
_DIGEST_BYTES: Final = 8
_REMEMBERED_LENGTH: Final = 1024
"""The longest text whose digest is remembered: the texts that are kept stay below a megabyte in all."""
_FIELDS: Final = ("holder", "demands", "placement_strategy", "ttl", "annotations")


def fingerprint(request: Acquire) -> bytes:
    """The fingerprint of a request.

    `ascii` of tuples, strings and integers is exact and stable; `repr` is not, since what is printable depends on the
    version of Unicode.
    """
    demands = tuple(
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
    strategy = None if request.strategy is None else request.strategy.value
    fields = (request.holder, demands, strategy, request.ttl_us, request.annotations)
    return _VERSION + b"".join([_digest(ascii(field)) for field in fields])


def _digest(text: str) -> bytes:
    # Digests are remembered by their texts, and a request of 4 MiB has texts of megabytes.
    return _remembered(text) if len(text) <= _REMEMBERED_LENGTH else _computed(text)


def _computed(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


_remembered: Final = lru_cache(maxsize=1024)(_computed)
"""Remembered, because most of a scheduler's requests differ in the holder alone."""


def differing_fields(one: bytes, other: bytes) -> tuple[str, ...]:
    """The names of the fields in which two fingerprints differ; all of them, if they are of different versions."""
    if one[:1] != other[:1]:
        return _FIELDS
    start = len(_VERSION)
    places = [slice(start + i * _DIGEST_BYTES, start + (i + 1) * _DIGEST_BYTES) for i in range(len(_FIELDS))]
    return tuple(name for name, place in zip(_FIELDS, places, strict=True) if one[place] != other[place])
