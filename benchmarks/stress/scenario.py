"""What a scenario of `make stress` is, and the figures that it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Kind = Literal["count", "time"]

MARK: Final = {True: "met", False: "MISSED"}


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a scenario is run."""

    short: bool
    """The form for CI: the same load with fewer calls, instances and seconds."""
    folder: Path
    """An empty folder of the scenario's own."""

    def of(self, full: int, short: int) -> int:
        """The number for this scale."""
        return short if self.short else full


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure beside its goal."""

    what: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    kind: Kind = "time"
    """`count`: the same on every machine, a miss fails every run. `time`: depends on the machine, a miss fails the full
    form only, which is run on a machine that does nothing else."""

    @property
    def goal(self) -> str:
        """The goal in words; a figure without one only explains the others."""
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return "" if self.at_least is None else f"≥ {self.at_least:g}"

    @property
    def met(self) -> bool:
        """Whether the goal was reached."""
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def verdict(self) -> str:
        """Met or missed; empty without a goal."""
        return MARK[self.met] if self.goal else ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load."""

    name: str
    """As `--only` takes it."""
    title: str
    run: Callable[[Scale], Sequence[Figure]]


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed. Raises IndexError if there is none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]
