"""Three thousand worlds, each from its seed: nothing is broken, whatever goes wrong; and what is broken is seen."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.simulation.injected import INJECTIONS
from tests.simulation.kernel import Clock, Kernel
from tests.simulation.weather import Fault
from tests.simulation.world import FAULT, simulate

SEEDS: Final = 3000
"""`make simulate` has a hundred thousand."""
SLICES: Final = 6
"""So that all test processes share the work. `make test` has the first one."""
MOST_SEEDS: Final = 3000
"""So many seeds are enough to see each injected fault; nearly all need a hundred."""
BOUND_S: Final = 60


@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, SLICES))])
def test_nothing_is_broken_in_three_thousand_worlds(part: int) -> None:
    tally: Counter[str] = Counter()
    for seed in range(part, SEEDS, SLICES):
        outcome = simulate(seed)
        tally += outcome.tally
        assert outcome.violation is None, f'make simulate ARGS="--seed {seed}" replays it: {outcome.violation}'

    happened = " ".join(tally)
    assert [fault for fault in Fault if fault not in happened] == [], "a slice that is quiet shows nothing"
    assert tally["client works"] > SEEDS // SLICES


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", INJECTIONS)
def test_an_injected_fault_is_seen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    INJECTIONS[name](monkeypatch)

    violation = next((found for seed in range(MOST_SEEDS) if (found := simulate(seed).violation)), None)

    assert violation is not None, f"{name}: {MOST_SEEDS} seeds see nothing of it"
    assert not violation.startswith(FAULT), violation


def test_a_seed_is_the_same_world_in_every_process() -> None:
    traces = [_replayed(seed=4711, hash_seed=hash_seed) for hash_seed in ("1", "2")]

    assert len(traces[0].splitlines()) > 100
    assert traces[0] == traces[1]


def _replayed(*, seed: int, hash_seed: str) -> str:
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed)]
    result = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=True,
    )
    return result.stdout


def test_different_seeds_are_different_worlds() -> None:
    assert len({simulate(seed, tracing=True).trace for seed in range(20)}) == 20


@pytest.mark.parametrize("fast_ppm", [-400, 0, 137])
def test_the_true_time_of_a_reading_is_exact(fast_ppm: int) -> None:
    kernel = Kernel(0)
    clock = Clock(kernel, ahead_us=77, fast_ppm=fast_ppm)
    start_us = kernel.now_us
    for wanted_us in (clock.now_us() + 1, clock.now_us() + 999_999, clock.now_us() + 3_600_000_001):
        kernel.now_us = true_us = clock_time_us = start_us
        true_us = clock.when_it_shows(wanted_us)
        kernel.now_us = true_us - 1
        assert clock.now_us() < wanted_us
        kernel.now_us = true_us
        clock_time_us = clock.now_us()
        assert wanted_us <= clock_time_us <= wanted_us + 1
