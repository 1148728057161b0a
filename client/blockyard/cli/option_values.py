"""Reads the values of options that need more than a number or a word: durations, pairs, blocks of an instance. Pure."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MAX_DURATION_S: Final = 366 * 86400.0
_MAX_RUN: Final = 4096


class MalformedValue(ValueError):
    """The value of an option cannot be read; the message is a sentence that shows the form."""


def read_duration(text: str) -> timedelta:
    """`30s`, `10m`, `1h30m`, `2d`, `500ms`, or a plain number of seconds; at most 366 days."""
    cleaned = text.strip().lower()
    try:
        seconds = float(cleaned) if re.fullmatch(r"\d+(\.\d+)?", cleaned) else _sum_of_parts(cleaned)
    except (MalformedValue, OverflowError):
        raise MalformedValue(f"{text!r} is not a duration; write 500ms, 30s, 10m, 1h30m or 2d.") from None
    if seconds > _MAX_DURATION_S:
        raise MalformedValue(f"{text!r} is longer than 366 days.")
    return timedelta(seconds=seconds)


def read_instant(text: str, now: datetime) -> datetime:
    """`2027-01-01T00:00:00Z`, or a duration from now on, such as `90d`; in UTC, in whole seconds."""
    try:
        instant = datetime.fromisoformat(text.strip())
    except ValueError:
        try:
            instant = now + read_duration(text)
        except MalformedValue:
            instant = None
    if instant is None or instant.tzinfo is None:
        raise MalformedValue(f"{text!r} is no time; write 2027-01-01T00:00:00Z, or a time from now such as 90d.")
    try:
        return instant.astimezone(UTC).replace(microsecond=0)
    except OverflowError:
        raise MalformedValue(f"{text!r} is too early or too late.") from None


def read_pairs(texts: Sequence[str], *, option: str) -> dict[str, str]:
    """The values of a repeated `key=value` option. A key that comes twice is refused: one of them was a mistake."""
    pairs: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise MalformedValue(f"{option} {text!r} is not of the form key=value.")
        if key in pairs:
            raise MalformedValue(f"{option} names {key!r} twice.")
        pairs[key] = value
    return pairs


def read_amounts(texts: Sequence[str], *, option: str) -> dict[str, int]:
    """The values of a repeated `key=whole number` option."""
    amounts: dict[str, int] = {}
    for key, value in read_pairs(texts, option=option).items():
        if not re.fullmatch(r"[0-9]{1,19}", value):
            raise MalformedValue(f"{option} {key}={value} needs a whole number, such as {key}=2.")
        amounts[key] = int(value)
    return amounts


def read_placements(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The values of a repeated `INSTANCE:0,1,4-7` option, by instance; the blocks in ascending order."""
    placements: dict[str, set[int]] = {}
    for text in texts:
        instance, colon, numbers = text.rpartition(":")
        if not instance or not colon:
            raise MalformedValue(f"--block {text!r} is not of the form INSTANCE:0,1 or INSTANCE:4-7.")
        blocks = placements.setdefault(instance, set())
        for part in numbers.split(","):
            blocks.update(_read_run(text, part.strip()))
    return {instance: tuple(sorted(blocks)) for instance, blocks in placements.items()}


def _sum_of_parts(text: str) -> float:
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise MalformedValue(text)
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def _read_run(text: str, part: str) -> range:
    found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
    if found is None:
        raise MalformedValue(f"--block {text!r}: {part!r} is not a block number or a run such as 4-7.")
    first = int(found[1])
    last = int(found[2] or first)
    if not first <= last < _MAX_RUN:
        raise MalformedValue(f"--block {text!r}: {part!r} is not a run of blocks 0..{_MAX_RUN - 1}.")
    return range(first, last + 1)
