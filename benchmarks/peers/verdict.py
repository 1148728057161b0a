"""What was to be reached beside the peers, and what was."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.peers.ours import NAME_ON_POSTGRES, NAME_ON_SQLITE

Row = dict[str, Any]
LOADED: Final = 64
"""Calls in flight of every goal but the p50 alone."""


@dataclass(frozen=True, slots=True)
class _Goal:
    """At least so many times the other's share of the echo; None is the echo itself."""

    ours: str
    times: float
    other: str | None


GOALS: Final = (
    _Goal(NAME_ON_SQLITE, 0.80, None),
    _Goal(NAME_ON_POSTGRES, 0.60, None),
    _Goal(NAME_ON_SQLITE, 50, "Placement, SQLite: claim"),
    _Goal(NAME_ON_SQLITE, 50, "Placement, SQLite: find, claim"),
    _Goal(NAME_ON_POSTGRES, 50, "Placement, PostgreSQL: claim"),
    _Goal(NAME_ON_POSTGRES, 50, "Placement, PostgreSQL: find, claim"),
    _Goal(NAME_ON_POSTGRES, 5, "plain FOR UPDATE"),
    _Goal(NAME_ON_POSTGRES, 5, "plain SKIP LOCKED"),
    _Goal(NAME_ON_SQLITE, 1, "etcd: claim"),
    _Goal(NAME_ON_POSTGRES, 1, "etcd: claim"),
    _Goal(NAME_ON_SQLITE, 1, "etcd: find, claim"),
    _Goal(NAME_ON_POSTGRES, 1, "etcd: find, claim"),
)
P50_ALONE: Final = 2.0
"""On SQLite, at most so many times the echo's."""


def verdict(rows: Sequence[Row]) -> list[Row]:
    """A row for each goal whose two sides were measured.

    Ratios are of shares of the echo that each was measured in turns with, so that a slower minute counts for neither.
    """
    measured = {(row["what"], row["in flight"]): row for row in rows if "what" in row}
    goals = [row for goal in GOALS if (row := _reached(goal, measured)) is not None]
    alone = measured.get((NAME_ON_SQLITE, 1))
    if alone is not None:
        ratio = alone["p50/echo's"]
        goals.append(_goal_row(f"{NAME_ON_SQLITE}: p50 alone over the echo's", "at most", P50_ALONE, ratio))
    return goals


def _reached(goal: _Goal, measured: dict[tuple[str, int], Row]) -> Row | None:
    ours = measured.get((goal.ours, LOADED))
    other = {"of echo": 1.0} if goal.other is None else measured.get((goal.other, LOADED))
    if ours is None or other is None:
        return None
    return _goal_row(
        f"{goal.ours}: calls/s over those of {goal.other or 'the echo'}",
        "at least",
        goal.times,
        ours["of echo"] / other["of echo"],
    )


def _goal_row(name: str, bound: str, wanted: float, got: float) -> Row:
    reached = got >= wanted if bound == "at least" else got <= wanted
    return {"goal": name, "wanted": f"{bound} {wanted:g}", "got": round(got, 2), "reached": "yes" if reached else "no"}
