"""kill -9 at named points of a transaction's life: after each restart everything that clients were told is true.

`test_crash.py` kills at random; here each point is met, so that no gap between two steps is left to chance. Set
BLOCKYARD_SEED to repeat a run's choices.
"""

import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from tests.fault.test_crash import KILLS_OF_A_LIFE, CrashRun, Report, chosen_seed, say
from tests.harness.patience import eventually
from tests.harness.postgres import Postgres

DURING_WORK: Final = {
    "before begin": 60,
    "after begin": 60,
    "before token": 60,
    "after token": 60,
    "before apply": 60,
    "after apply": 60,
    "before rows": 40,
    "after rows": 40,
    "before commit": 40,
    "after commit": 40,
    "before memory": 40,
    "after memory": 40,
    "before carrying out": 40,
    "after carrying out": 40,
    "after answer": 40,
    "before sweep": 2,
    "after sweep": 2,
}
"""The points that a server under load passes, and the last passage at which it may be killed: chosen each time.

A sweep comes only when a lease has ended, every few seconds.
"""
DURING_START: Final = {
    "before migration": 1,
    "before migration's statement": 12,
    "after migration's statement": 12,
    "after migration": 1,
    "before extending leases": 1,
    "after extending leases": 1,
}
"""The points that a start passes; those of a migration only the first one."""
REPETITIONS: Final = 10
"""Deaths at each point in `make faults`, on each database; one in CI."""


class PointRun(CrashRun):
    """A run whose server dies at a point instead of being killed from outside."""

    def __init__(self, folder: Path, seed: str, database: str | None = None) -> None:
        super().__init__(folder, seed, database)
        self._order = folder / "order"
        self._point = ""
        self.server.program = [sys.executable, "-m", "tests.fault.dying_server", str(self._order)]

    def order(self, point: str, passages: int) -> None:
        """The next process that looks dies at the point, in one of its next passages."""
        self._order.write_text(f"{self.dice.randint(1, passages)} {point}")

    def expect_order_carried_out(self) -> None:
        """The process has taken the order and killed itself; it has not ended for another reason."""
        assert not self._order.exists(), "nobody has read the order"
        self.server.expect_killed()

    async def die_at(self, point: str) -> None:
        """Load, a death at this point of the work, and the comparison."""
        self._point = point
        await self.round()

    async def _kill_in_the_middle(self, load: list["asyncio.Task[None]"], gone: asyncio.Event) -> None:
        async def dead() -> bool:
            for task in load:
                if task.done():
                    task.result()
            return not self.server.runs

        self.order(self._point, DURING_WORK[self._point])
        self.server.send(signal.SIGUSR1)
        await eventually(dead, f"the server came to the point {self._point!r}")
        gone.set()
        self.expect_order_carried_out()
        self.kills += 1


Database = Callable[[], str | None]
"""An empty database for a run; None: a data file."""


async def _points_of_work(folder: Path, seed: str, database: Database, repetitions: int, report: Report) -> int:
    deaths = 0
    points = list(DURING_WORK) * repetitions
    for life in range(0, len(points), KILLS_OF_A_LIFE):
        run = PointRun(folder / str(life), f"{seed}/{life}", database())
        with run.server:
            await run.begin()
            for point in points[life : life + KILLS_OF_A_LIFE]:
                await run.die_at(point)
            await run.end()
        deaths += run.kills
        report(f"{deaths} of {len(points)} deaths, {run.told.answers} answers in this life, all of them true")
    return deaths


def _points_of_a_start(folder: Path, seed: str, database: Database, repetitions: int, report: Report) -> int:
    deaths = 0
    for point, passages in DURING_START.items():
        for turn in range(repetitions):
            run = PointRun(folder / f"{point} {turn}".replace(" ", "-"), f"{seed}/{point}/{turn}", database())
            with run.server:
                asyncio.run(_die_while_starting(run, point, passages))
            deaths += run.kills
        report(f"{point}: {repetitions} deaths, each made good by the next start")
    return deaths


async def _die_while_starting(run: PointRun, point: str, passages: int) -> None:
    if "extending leases" in point:
        await run.begin()
        await asyncio.to_thread(run.server.terminate)
    run.order(point, passages)
    run.server.launch()

    async def dead() -> bool:
        return not run.server.runs

    await eventually(dead, "the server came to the point")
    run.expect_order_carried_out()
    run.kills += 1
    if "extending leases" in point:
        await asyncio.to_thread(run.server.start)
    else:
        await run.begin()
    await run.end()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest) -> Database:
    if request.param == "sqlite":
        return lambda: None
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.fresh_database


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_server_that_dies_at_any_point_of_its_work_has_kept_every_word(
    tmp_path: Path, database: Database
) -> None:
    seed = chosen_seed()
    say(f"BLOCKYARD_SEED={seed}")
    assert await _points_of_work(tmp_path, seed, database, 1, say) >= len(DURING_WORK)


@pytest.mark.timeout(300)
def test_a_server_that_dies_at_any_point_of_its_start_is_made_good_by_the_next(
    tmp_path: Path, database: Database
) -> None:
    seed = chosen_seed()
    say(f"BLOCKYARD_SEED={seed}")
    assert _points_of_a_start(tmp_path, seed, database, 1, say) == len(DURING_START)


def _aloud(capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def report(line: str) -> None:
        # To stderr: the stdout of parallel test processes is nobody's.
        with capfd.disabled():
            sys.stderr.write(f"kill points: {line}\n")

    return report


@pytest.mark.soak
async def test_a_server_that_dies_often_at_each_point_of_its_work_has_kept_every_word(
    tmp_path: Path, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    report, seed = _aloud(capfd), chosen_seed()
    report(f"BLOCKYARD_SEED={seed}")
    deaths = await _points_of_work(tmp_path, seed, database, REPETITIONS, report)
    assert deaths >= REPETITIONS * len(DURING_WORK)


@pytest.mark.soak
def test_a_server_that_dies_often_at_each_point_of_its_start_is_made_good_by_the_next(
    tmp_path: Path, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    report, seed = _aloud(capfd), chosen_seed()
    report(f"BLOCKYARD_SEED={seed}")
    deaths = _points_of_a_start(tmp_path, seed, database, REPETITIONS, report)
    assert deaths == REPETITIONS * len(DURING_START)
