"""Runs the scenarios and prints goal, figure and verdict of each. Ends with 1 if a goal was missed.

The short form, for CI, fails only on figures that do not depend on the machine's speed.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.stress import (
    backup,
    bursts,
    descriptors,
    drains,
    expiry,
    large_grants,
    overload,
    pooler,
    selectors,
    starts,
    watches,
)
from benchmarks.stress.scenario import Figure, Scale, Scenario

SCENARIOS: Final[tuple[Scenario, ...]] = (
    bursts.SCENARIO,
    *large_grants.SCENARIOS,
    *selectors.SCENARIOS,
    expiry.SCENARIO,
    watches.SCENARIO,
    overload.SCENARIO,
    descriptors.SCENARIO,
    drains.SCENARIO,
    starts.SCENARIO,
    backup.SCENARIO,
    pooler.SCENARIO,
)


def run(scenarios: list[Scenario], console: Console, *, short: bool) -> list[tuple[Scenario, Figure]]:
    """All figures of the scenarios, one scenario after the other."""
    found = []
    for number, scenario in enumerate(scenarios, start=1):
        began_s = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="blockyard-stress-") as folder:
            figures = scenario.run(Scale(short, Path(folder)))
        took_s = time.monotonic() - began_s
        missed = sum(not figure.met for figure in figures)
        verdict = f"{missed} missed" if missed else "met"
        console.print(f"{number} of {len(scenarios)}: {scenario.name}: {verdict} ({took_s:.0f} s)")
        found += [(scenario, figure) for figure in figures]
    return found


def table(found: list[tuple[Scenario, Figure]]) -> Table:
    """The figures as people read them."""
    made = Table("scenario", "figure", "goal", "measured", "verdict")
    before = None
    for scenario, figure in found:
        name = "" if scenario is before else f"{scenario.name}: {scenario.title}"
        before = scenario
        made.add_row(name, figure.what, figure.goal, f"{figure.value:,.4g} {figure.unit}".rstrip(), figure.verdict)
    return made


def main() -> int:
    """The command `python -m benchmarks.stress`."""
    names = [scenario.name for scenario in SCENARIOS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stress", description=__doc__)
    parser.add_argument("--short", action="store_true", help="the form for CI, about a minute")
    parser.add_argument("--only", action="append", choices=names, help="this scenario; may be repeated")
    arguments = parser.parse_args()
    wanted = [s for s in SCENARIOS if arguments.only is None or s.name in arguments.only]
    console = Console(width=150)
    found = run(wanted, console, short=arguments.short)
    console.print(table(found))
    missed = [figure for _, figure in found if not figure.met and (figure.kind == "count" or not arguments.short)]
    console.print(f"{len(missed)} of {len(found)} figures missed" if missed else "no goal was missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
