"""Reads values out of a table of a TOML file: checked, with a sentence for each problem, and no key left unread.

A value that is wrong is replaced by its default, and reading goes on, so that one run tells all problems. If there
is a problem, the caller must refuse the file.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeVar

from blockyard_server.rpc.auth.tokens import PREFIX
from blockyard_server.rpc.fields import quoted

MAX_PROBLEMS: Final = 100
"""More are counted, and not told."""
MAX_TEXT_LENGTH: Final = 2048

Rule = Callable[[str], str | None]
"""What is wrong with a text, as the end of a sentence ("must be …"); None: nothing."""

K = TypeVar("K")


class Problems:
    """Sentences about a file, each with its place."""

    def __init__(self) -> None:
        self._told: list[str] = []
        self._number = 0

    def add(self, place: str, problem: str) -> None:
        """One more."""
        self._number += 1
        if self._number <= MAX_PROBLEMS:
            self._told.append(f"{place}: {problem}")

    @property
    def told(self) -> tuple[str, ...]:
        """All, or the first of them and a line about the rest."""
        more = self._number - len(self._told)
        return (*self._told, f"and {more} more") if more else tuple(self._told)

    def add_repeats(self, what: str, places: Mapping[K, Sequence[str]], *, show: bool = True) -> None:
        """A problem for each key that stands in several places. `show`: the key may be shown."""
        for key, where in places.items():
            if len(where) > 1:
                named = f"{what} {quoted(str(key))}" if show else what
                self.add(where[1], f"{named} is also that of {where[0]}")


class Table:
    """A table of the file, and its place in words, such as `principal 2 (sched-b)`."""

    def __init__(self, values: Mapping[str, object], place: str, problems: Problems) -> None:
        self._values = values
        self._problems = problems
        self._asked: set[str] = set()
        self._place = place

    def renamed(self, place: str, key: str, rule: Rule) -> "Table":
        """The same at another place, with the name that it has under that key, if this is a right one."""
        name = self._values.get(key)
        known = isinstance(name, str) and rule(name) is None
        return Table(self._values, f"{place} ({name})" if known else place, self._problems)

    def refuse(self, key: str, problem: str) -> None:
        """Notes a problem of a value, or of the whole table if `key` is empty."""
        self._problems.add(f"{self._place}: {key}" if key else self._place, problem)

    def close(self) -> None:
        """Refuses the keys that nobody has asked for: one that is misspelt must not be silently without effect."""
        for key in self._values:
            if key not in self._asked:
                self.refuse("", f"unknown key {shown(key)}; known are {', '.join(sorted(self._asked))}")

    def text(self, key: str, rule: Rule, *, default: str | None = None) -> str:
        """A text; it is required unless there is a default."""
        value = self._get(key)
        if value is None:
            if default is None:
                self.refuse(key, "is required")
            return default or ""
        return self._text(key, value, rule)

    def optional_text(self, key: str, rule: Rule) -> str | None:
        """A text; None if it is absent."""
        value = self._get(key)
        return None if value is None else self._text(key, value, rule)

    def texts(
        self, key: str, rule: Rule, *, least: int, most: int, default: tuple[str, ...] | None = None
    ) -> tuple[str, ...]:
        """A list of texts, none of them twice; it is required unless there is a default."""
        values = self._list(key, least, most)
        if values is None:
            if default is None:
                self.refuse(key, "is required")
            return default or ()
        texts = [self._text(f"{key}[{index}]", value, rule) for index, value in enumerate(values)]
        for index, text in enumerate(texts):
            if text and text in texts[:index]:
                self.refuse(f"{key}[{index}]", f"{shown(text)} is given twice")
        return tuple(texts)

    def number(self, key: str, *, least: float, most: float, default: float, whole: bool) -> float:
        """A number within its limits."""
        value = self._get(key)
        if value is None:
            return default
        kinds = (int,) if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
            self.refuse(key, f"must be a {'whole ' if whole else ''}number from {least:,} to {most:,}")
            return default
        return value

    def instant(self, key: str) -> float | None:
        """A time with its offset, in seconds since the epoch; None if it is absent."""
        value = self._get(key)
        if value is None:
            return None
        if not isinstance(value, datetime) or value.tzinfo is None:
            self.refuse(key, "must be a time with its offset, without quotes, such as 2027-01-01T00:00:00Z")
            return 0.0
        return value.timestamp()

    def table(self, key: str) -> "Table | None":
        """A table inside this one; None if it is absent."""
        value = self._get(key)
        return None if value is None else self._table(key, value)

    def tables(self, key: str, *, most: int) -> "list[Table]":
        """Tables of a list inside this one; none if it is absent."""
        return [self._table(f"{key}[{index}]", value) for index, value in enumerate(self._list(key, 0, most) or ())]

    def _get(self, key: str) -> object:
        self._asked.add(key)
        return self._values.get(key)

    def _table(self, key: str, value: object) -> "Table":
        if not isinstance(value, dict):
            self.refuse(key, "must be a table, as in { key = value }")
            value = {}
        return Table(value, f"{self._place}: {key}", self._problems)

    def _list(self, key: str, least: int, most: int) -> Sequence[object] | None:
        value = self._get(key)
        if value is None:
            return None
        if not isinstance(value, list):
            self.refuse(key, "must be a list, as in [ … ]")
        elif not least <= len(value) <= most:
            self.refuse(key, f"has {len(value)} entries, and must have {least} to {most}")
        else:
            return value
        return ()

    def _text(self, key: str, value: object, rule: Rule) -> str:
        if not isinstance(value, str):
            self.refuse(key, "must be a text in quotes")
            return ""
        problem = "is too long" if len(value) > MAX_TEXT_LENGTH else rule(value)
        if problem is not None:
            self.refuse(key, problem)
            return ""
        return value


def shown(text: str) -> str:
    """A text of the file inside a problem. One that may be a token is not shown: problems go to logs."""
    return "(a token, which is not shown)" if PREFIX in text else quoted(text)
