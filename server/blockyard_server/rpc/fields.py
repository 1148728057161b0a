"""Validators of single fields: each appends what is wrong to `bad`, as (field path, problem), and goes on.

Collecting instead of raising lets one answer name everything that is wrong with a request. What a validator
returns for a wrong value is never used: `raise_if_any` comes before.
"""

import re
from collections.abc import Mapping
from typing import Final

from google.protobuf.duration_pb2 import Duration

from blockyard_server.domain import limits
from blockyard_server.domain.errors import InvalidRequest

Violations = list[tuple[str, str]]
"""(field path, problem), in the order of discovery."""

MAX_VIOLATIONS: Final = 32
"""How many violations one answer names: more would not help, and would not fit."""

MAX_ETAG_LENGTH: Final = 64
MAX_INT64: Final = 2**63 - 1

# The patterns are used through `fullmatch`: `$` would let a final newline pass.
is_token: Final = re.compile(rf"[\x20-\x7e]{{1,{limits.MAX_TOKEN_LENGTH}}}").fullmatch
is_holder: Final = re.compile(rf"[^\x00-\x1f\x7f-\x9f]{{1,{limits.MAX_HOLDER_LENGTH}}}").fullmatch
misleads: Final = re.compile(
    "[\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
).search
"""Finds characters that turn the direction of others, begin a line, or are not seen at all: with them two names can
look the same. The joiners U+200C and U+200D are part of how some scripts are written, and are not among them."""
is_etag: Final = re.compile(rf"[\x20-\x7e]{{1,{MAX_ETAG_LENGTH}}}").fullmatch
is_label_key: Final = re.compile(
    rf"[A-Za-z0-9](?:[A-Za-z0-9._/-]{{0,{limits.MAX_LABEL_KEY_LENGTH - 2}}}[A-Za-z0-9])?"
).fullmatch
is_label_value: Final = re.compile(rf"[\x20-\x7e]{{0,{limits.MAX_LABEL_VALUE_LENGTH}}}").fullmatch
is_resource_key: Final = re.compile(r"[a-z][a-z0-9_]{0,62}").fullmatch
is_annotation_value: Final = re.compile(
    rf"[^\x00-\x08\x0b-\x1f\x7f-\x9f]{{0,{limits.MAX_ANNOTATION_VALUE_LENGTH}}}"
).fullmatch

TOKEN_RULE: Final = f"must be 1..{limits.MAX_TOKEN_LENGTH} printable ASCII characters"
HOLDER_RULE: Final = f"must be 1..{limits.MAX_HOLDER_LENGTH} characters without control characters"
NEW_HOLDER_RULE: Final = f"{HOLDER_RULE}, nor invisible ones or such that change the direction of text (U+202E)"
LABEL_KEY_RULE: Final = (
    f"must be 1..{limits.MAX_LABEL_KEY_LENGTH} characters of [A-Za-z0-9._/-], "
    "beginning and ending with a letter or digit"
)
LABEL_VALUE_RULE: Final = f"must be at most {limits.MAX_LABEL_VALUE_LENGTH} printable ASCII characters"
_ETAG_RULE: Final = f"must be 1..{MAX_ETAG_LENGTH} printable ASCII characters, as an answer gave it, or be absent"
_RESOURCE_KEY_RULE: Final = "must be [a-z][a-z0-9_]{0,62}"
_ANNOTATION_VALUE_RULE: Final = (
    f"must be at most {limits.MAX_ANNOTATION_VALUE_LENGTH} characters without control characters "
    "other than tab and newline"
)

_QUOTED_LENGTH: Final = 48
_MAX_DURATION_S: Final = 315_576_000_000
_MAX_NANOS: Final = 999_999_999


def raise_if_any(bad: Violations) -> None:
    """Refuses the request if anything was found. Raises InvalidRequest."""
    if bad:
        raise InvalidRequest(*bad[:MAX_VIOLATIONS])


def quoted(value: str) -> str:
    """A client's own text inside a message: ASCII, escaped, not too long."""
    shown = ascii(value[:_QUOTED_LENGTH])
    return shown if len(value) <= _QUOTED_LENGTH else f"{shown}…"


def is_new_holder(value: str) -> bool:
    """Whether an allocation may be made for this holder. Guards and filters take also what was allowed before."""
    return is_holder(value) is not None and (value.isascii() or misleads(value) is None)


def decode_guard_holder(value: str | None, bad: Violations) -> str | None:
    """The field `holder` as a guard or a filter; None where it is absent. An empty one is refused: it is nobody's."""
    if value is not None and not is_holder(value):
        bad.append(("holder", f"{HOLDER_RULE}, or be absent"))
    return value


def decode_fencing_token(value: int | None, bad: Violations) -> int | None:
    """The field `fencing_token` as a guard; None where it is absent. 0 is refused: it is no allocation's."""
    if value is not None and value < 1:
        bad.append(("fencing_token", "must be positive, or be absent"))
    return value


def decode_etag(value: str | None, path: str, bad: Violations) -> str | None:
    """An etag as a guard; None where it is absent. An empty one is refused: it is no resource's."""
    if value is not None and not is_etag(value):
        bad.append((path, _ETAG_RULE))
    return value


def decode_ttl_us(ttl: Duration, path: str, bad: Violations) -> int:
    """A lease in microseconds (finer parts are cut off), within the service's limits."""
    ttl_us = _decode_duration_us(ttl, path, bad)
    if ttl_us is not None and not limits.MIN_TTL_US <= ttl_us <= limits.MAX_TTL_US:
        bad.append((path, "must be 100 ms to 366 days"))
    return ttl_us or 0


def decode_progress_interval_us(interval: Duration, path: str, bad: Violations) -> int:
    """How long a watch may be silent, in microseconds, within the service's limits."""
    interval_us = _decode_duration_us(interval, path, bad)
    if interval_us is not None and not (
        limits.MIN_PROGRESS_INTERVAL_US <= interval_us <= limits.MAX_PROGRESS_INTERVAL_US
    ):
        bad.append((path, "must be 100 ms to 1 hour"))
    return interval_us or 0


def _decode_duration_us(duration: Duration, path: str, bad: Violations) -> int | None:
    seconds, nanos = duration.seconds, duration.nanos
    if abs(nanos) > _MAX_NANOS or abs(seconds) > _MAX_DURATION_S or seconds * nanos < 0:
        bad.append((path, "must be a valid google.protobuf.Duration: seconds and nanos in range, with the same sign"))
        return None
    return seconds * 1_000_000 + nanos // 1000


def decode_page_size(page_size: int, bad: Violations) -> int:
    """How many rows a page has at most."""
    if page_size < 0:
        bad.append(("page_size", "must not be negative"))
    return min(page_size, limits.MAX_PAGE_SIZE) or limits.DEFAULT_PAGE_SIZE


def decode_labels(labels: Mapping[str, str], path: str, bad: Violations) -> dict[str, str]:
    """Labels, sorted by key."""
    if len(labels) > limits.MAX_LABELS:
        bad.append((path, f"has {len(labels)} entries; at most {limits.MAX_LABELS} are allowed"))
        return {}
    for key, value in labels.items():
        if not is_label_key(key):
            bad.append((path, f"key {quoted(key)}: {LABEL_KEY_RULE}"))
        elif not is_label_value(value):
            bad.append((f"{path}[{key}]", LABEL_VALUE_RULE))
    return dict(sorted(labels.items()))


def decode_quantities(
    quantities: Mapping[str, int], path: str, least: int, bad: Violations
) -> tuple[tuple[str, int], ...]:
    """Resources or requirements, sorted by key; each value is `least`..2^62."""
    if len(quantities) > limits.MAX_RESOURCES:
        bad.append((path, f"has {len(quantities)} entries; at most {limits.MAX_RESOURCES} are allowed"))
        return ()
    for key, value in quantities.items():
        if not is_resource_key(key):
            bad.append((path, f"key {quoted(key)}: {_RESOURCE_KEY_RULE}"))
        elif not least <= value <= limits.MAX_QUANTITY:
            bad.append((f"{path}[{key}]", f"must be {least}..2^62"))
    return tuple(sorted(quantities.items()))


def decode_annotations(annotations: Mapping[str, str], bad: Violations) -> dict[str, str]:
    """The field `annotations`, sorted by key."""
    if len(annotations) > limits.MAX_ANNOTATIONS:
        bad.append(("annotations", f"has {len(annotations)} entries; at most {limits.MAX_ANNOTATIONS} are allowed"))
        return {}
    size = 0
    for key, value in annotations.items():
        size += len(key.encode()) + len(value.encode())
        if not is_label_key(key):
            bad.append(("annotations", f"key {quoted(key)}: {LABEL_KEY_RULE}"))
        elif not is_annotation_value(value):
            bad.append((f"annotations[{key}]", _ANNOTATION_VALUE_RULE))
    if size > limits.MAX_ANNOTATIONS_BYTES:
        bad.append(("annotations", f"has {size} bytes; at most {limits.MAX_ANNOTATIONS_BYTES} are allowed"))
    return dict(sorted(annotations.items()))
