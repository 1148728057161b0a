"""What `make stress` and `make abuse` have in common: run scenarios, print their figures, say whether all were met."""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.stress.scenario import Figure, Scale, Scenario


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


def main(scenarios: Sequence[Scenario], *, program: str, description: str | None) -> int:
    """The command. The exit code: 1 if a goal was missed."""
    names = [scenario.name for scenario in scenarios]
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument("--short", action="store_true", help="the form for CI, about a minute")
    parser.add_argument("--only", action="append", choices=names, help="this scenario; may be repeated")
    arguments = parser.parse_args()
    wanted = [s for s in scenarios if arguments.only is None or s.name in arguments.only]
    console = Console(width=150)
    found = run(wanted, console, short=arguments.short)
    console.print(table(found))
    missed = [figure for _, figure in found if not figure.met and (figure.kind == "count" or not arguments.short)]
    console.print(f"{len(missed)} of {len(found)} figures missed" if missed else "no goal was missed")
    return 1 if missed else 0
