"""Runs as many seeds as asked for, or replays one with its trace. Exits with 1 if a promise was broken.

`make simulate` is this. What happens in a world follows from its seed alone, so each failure can be looked at again.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.world import Outcome, simulate

SEEDS = 100_000
SLICE = 250
"""Seeds that a process runs before it reports."""


def main() -> int:
    """Simulates."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one, and print what happens")
    parser.add_argument("--first", type=int, default=0, help="the first seed (%(default)s)")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (%(default)s)")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _replay(arguments.seed)
    return _explore(range(arguments.first, arguments.first + arguments.seeds), arguments.workers)


def _replay(seed: int) -> int:
    outcome = simulate(seed, tracing=True)
    sys.stdout.writelines(f"{line}\n" for line in outcome.trace)
    sys.stdout.write(f"seed {seed}: {outcome.violation or 'nothing was broken'}\n")
    return 1 if outcome.violation else 0


def _explore(seeds: range, workers: int) -> int:
    began_s = time.monotonic()
    tally: Counter[str] = Counter()
    steps = done = 0
    red: list[Outcome] = []
    for outcomes in _slices(seeds, workers):
        for outcome in outcomes:
            done += 1
            steps += outcome.steps
            tally += outcome.tally
            if outcome.violation:
                red.append(outcome)
                sys.stderr.write(f"seed {outcome.seed}: {outcome.violation}\n")
        sys.stderr.write(f"{done} of {len(seeds)} seeds, {len(red)} red, {time.monotonic() - began_s:.0f} s\n")
    sys.stdout.write(
        f"simulation: {done} seeds, {steps} steps, {len(red)} violations, {time.monotonic() - began_s:.0f} s\n"
    )
    sys.stdout.writelines(f"{count:12} {what}\n" for what, count in sorted(tally.items()))
    sys.stdout.writelines(f'make simulate ARGS="--seed {outcome.seed}": {outcome.violation}\n' for outcome in red)
    return 1 if red else 0


def _slices(seeds: range, workers: int) -> Iterator[list[Outcome]]:
    """The outcomes, slice by slice in the order of their seeds."""
    slices = [seeds[start : start + SLICE] for start in range(0, len(seeds), SLICE)]
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_run, slices)


def _run(seeds: range) -> list[Outcome]:
    return [simulate(seed) for seed in seeds]


if __name__ == "__main__":
    sys.exit(main())
