"""A run: rounds as long as there is time, what they have seen, and the verdict."""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import uvloop

from tests.chaos.databases import DATABASES
from tests.chaos.disks import DISKS
from tests.chaos.disturbances import STEPS_OF_A_ROUND, Disturbance, steps_of
from tests.chaos.files import FILES
from tests.chaos.forks import FORKS
from tests.chaos.outsiders import OUTSIDERS
from tests.chaos.restarts import RESTARTS
from tests.chaos.round import Outcome, Setup, run_round
from tests.chaos.second_servers import SECOND_SERVERS
from tests.history.verdict import report, say

DISTURBANCES: Final = {
    "sqlite": (*OUTSIDERS, *RESTARTS, *FILES, *SECOND_SERVERS, *DISKS, *FORKS),
    "postgres": (*DATABASES, *RESTARTS, *FORKS),
}


@dataclass(slots=True)
class Run:
    """What all rounds have seen."""

    deck: Sequence[Disturbance]
    """Out of which the steps are dealt."""
    again: str
    """How to run one round of it again, without its number."""
    begun: float = field(default_factory=time.monotonic)
    asked: set[str] = field(init=False)
    """The names of what has to happen at least once."""
    rounds: int = 0
    total: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        """All of the deck, unless somebody asks for less."""
        self.asked = {each.name for each in self.deck}

    @property
    def took_s(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.begun

    def add(self, number: int, outcome: Outcome) -> None:
        """One round is over."""
        self.rounds += 1
        total = self.total
        total.happened += outcome.happened
        total.skipped |= outcome.skipped
        total.calls += outcome.calls
        total.unknown += outcome.unknown
        total.acknowledged += outcome.acknowledged
        total.leases += outcome.leases
        if not outcome.violations or outcome.found_at is None:
            return
        after_s = outcome.found_at - self.begun
        total.violations += [f"round {number}, after {after_s:.0f} s: {each[:1500]}" for each in outcome.violations]
        for violation in outcome.violations:
            report(f"VIOLATION after {after_s:.0f} s, in round {number}: {violation[:1500]}")
        report(f"  again: {self.again} --round {number}")

    @property
    def missing(self) -> list[str]:
        """What was asked for, did not happen, and was not skipped aloud."""
        return sorted(
            self.asked - {name for name, count in self.total.happened.items() if count} - set(self.total.skipped)
        )

    def tell(self) -> bool:
        """The table and the verdict. Whether all is well."""
        total = self.total
        width = max(len(each.name) for each in self.deck)
        for each in self.deck:
            skipped = total.skipped.get(each.name)
            note = f"  skipped: {skipped}" if skipped else ""
            report(f"{each.name:<{width}}  {each.kind:<14}  {total.happened[each.name]:>4}{note}")
        report(
            f"{self.rounds} rounds in {self.took_s:.0f} s: {total.calls} calls, {total.acknowledged} changes"
            f" acknowledged, {total.unknown} calls without an answer, {total.leases} leases of the SDK;"
            f" {len(total.violations)} violations"
        )
        if self.missing:
            report(f"not valid: never happened: {', '.join(self.missing)}")
        well = not total.violations and not self.missing
        for violation in total.violations:
            report(f"  {violation}")
        report("verdict: " + ("nothing was violated" if well else "VIOLATED" if total.violations else "not valid"))
        return well


def carry_out(run: Run, setup: Setup, only: int | None, minutes: float) -> None:
    """One round to its end, or as many as there is time for."""
    ends_at = run.begun + minutes * 60 if only is None else None
    number = only or 0
    while True:
        steps = steps_of(run.deck, setup.seed, number, STEPS_OF_A_ROUND)
        if only is not None:
            run.asked = {step.name for step in steps}
        say(f"round {number}: {', '.join(step.name for step in steps)}")
        with tempfile.TemporaryDirectory(prefix="blockyard-chaos-") as folder:
            outcome = uvloop.run(run_round(Path(folder) / "round", number, steps, setup, say, ends_at=ends_at))
        run.add(number, outcome)
        say(
            f"round {number} is over: {run.total.acknowledged} acknowledged, {len(run.total.violations)} violations,"
            f" {Counter(run.total.happened).total()} disturbances so far"
        )
        number += 1
        if ends_at is None or time.monotonic() >= ends_at:
            return
