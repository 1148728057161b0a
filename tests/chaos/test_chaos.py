"""Everything that can happen, once each, on either database: what clients were told stays true.

`make chaos` does the same for ten minutes, in an order that follows from a seed.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

import pytest

from tests.chaos.databases import DATABASES
from tests.chaos.disks import DISKS
from tests.chaos.disturbances import Disturbance, chosen
from tests.chaos.files import FILES
from tests.chaos.forks import FORKS
from tests.chaos.outsiders import OUTSIDERS
from tests.chaos.restarts import RESTARTS
from tests.chaos.round import Setup, run_round
from tests.chaos.run import DISTURBANCES
from tests.chaos.second_servers import SECOND_SERVERS
from tests.harness.postgres import Postgres

SEED: Final = "short"
PAUSE_S: Final = (0.0, 0.2)


def say(line: str) -> None:
    """Pytest shows it with a failure."""
    sys.stdout.write(f"{line}\n")


def shuffled(*disturbances: Disturbance) -> list[Disturbance]:
    steps = list(disturbances)
    Random(SEED).shuffle(steps)
    return steps


OVER_RESTARTS: Final = chosen(OUTSIDERS, ["restart under a shell", "restart under a checkpointer"])
RESTARTS_AND_OUTSIDERS: Final = shuffled(*(each for each in (*OUTSIDERS, *RESTARTS) if each not in OVER_RESTARTS))
ON_SQLITE: Final = (OVER_RESTARTS, RESTARTS_AND_OUTSIDERS, SECOND_SERVERS, (*FILES, *DISKS), FORKS)
ON_POSTGRES: Final = (shuffled(*DATABASES, *RESTARTS), FORKS)


@pytest.fixture(scope="module")
def postgres_of_our_own() -> Iterator[Postgres]:
    """It is killed."""
    with Postgres() as running:
        yield running


def nothing_is_violated(folder: Path, steps: Sequence[Disturbance], postgres: Postgres | None = None) -> None:
    setup = Setup(SEED, postgres, 1 if postgres is None else 2, pause_s=PAUSE_S)
    outcome = asyncio.run(run_round(folder / "round", 0, steps, setup, say))

    assert outcome.violations == []
    assert set(outcome.happened) | set(outcome.skipped) == {step.name for step in steps}
    assert outcome.acknowledged > 0
    assert outcome.leases > 0
    for name, reason in outcome.skipped.items():
        say(f"SKIPPED: {name}: {reason}")


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(OVER_RESTARTS, id="over restarts", marks=pytest.mark.slow),
        pytest.param(RESTARTS_AND_OUTSIDERS, id="outside and restarts", marks=pytest.mark.slow),
        pytest.param(SECOND_SERVERS, id="second servers", marks=pytest.mark.slow),
        pytest.param((*FILES, *DISKS), id="files", marks=pytest.mark.slow),
        pytest.param(FORKS, id="forks", marks=pytest.mark.slow),
    ],
)
def test_what_clients_were_told_stays_true_on_sqlite(tmp_path: Path, steps: Sequence[Disturbance]) -> None:
    nothing_is_violated(tmp_path, steps)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("steps", ON_POSTGRES, ids=["servers and database", "forks"])
def test_what_clients_were_told_stays_true_on_postgresql(
    tmp_path: Path, postgres_of_our_own: Postgres, steps: Sequence[Disturbance]
) -> None:
    nothing_is_violated(tmp_path, steps, postgres_of_our_own)


def test_the_short_form_has_every_disturbance_of_the_long_one() -> None:
    for database, parts in {"sqlite": ON_SQLITE, "postgres": ON_POSTGRES}.items():
        assert {step.name for part in parts for step in part} == {each.name for each in DISTURBANCES[database]}
