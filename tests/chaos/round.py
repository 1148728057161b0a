"""One round: fresh data, clients at work, some disturbances one after the other, and the judgement."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from blockyard import AsyncClient
from tests.chaos.databases import prepare
from tests.chaos.disturbances import Disturbance, Skipped, Violation
from tests.chaos.judge import judge
from tests.chaos.load import SDK_TIMEOUT_S, Load
from tests.chaos.outsiders import check_file
from tests.chaos.stage import SETTINGS, Say, SmallDisk, Stage
from tests.harness.postgres import Postgres
from tests.harness.process import ServerProcess
from tests.history.clients import Line

PAUSE_S: Final = (0.2, 1.2)
"""Between two disturbances."""
LAST_WORDS: Final = 2000
"""Characters of a server's log that are shown with a violation."""
LINES: Final = 3
"""Connections of the clients to each server."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What all rounds of a run have in common."""

    seed: str
    postgres: Postgres | None = None
    """None: SQLite."""
    servers: int = 1
    program: tuple[str, ...] = ()
    """What stands for `blockyard`: another program with a fault, to see it caught."""
    pause_s: tuple[float, float] = PAUSE_S


@dataclass(slots=True)
class Outcome:
    """What a round has seen."""

    happened: Counter[str] = field(default_factory=Counter)
    """By the disturbance's name."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Why, by the disturbance's name."""
    calls: int = 0
    unknown: int = 0
    acknowledged: int = 0
    leases: int = 0
    violations: list[str] = field(default_factory=list)
    found_at: float | None = None
    """When the first violation was seen, by the monotonic clock."""

    def blame(self, violations: Sequence[str]) -> None:
        """Some more, if any."""
        if violations and self.found_at is None:
            self.found_at = time.monotonic()
        self.violations += violations


async def run_round(
    folder: Path, number: int, steps: Sequence[Disturbance], setup: Setup, say: Say, *, ends_at: float | None = None
) -> Outcome:
    """Carries out the steps, as far as there is time (`ends_at`, monotonic), or until the first violation."""
    dice = Random(f"{setup.seed}/{number}")
    outcome = Outcome()
    await asyncio.to_thread(folder.mkdir, parents=True)
    async with _standing(folder, dice, setup, say) as stage:
        try:
            async with _working(stage):
                await _disturb(stage, steps, outcome, dice, setup.pause_s, ends_at)
                say("    judging")
                outcome.blame(await judge(stage, folder))
        except Violation as violation:
            stage.say(f"    VIOLATION: {violation}")
            outcome.blame([str(violation)])
            for server in stage.servers:
                stage.say(f"    the server's last words: {server.errors()[-LAST_WORDS:]}")
            await stage.load.end()
            outcome.blame(await _look_at_the_file(stage))
        finally:
            await stage.load.end()
        course = stage.load.course
        outcome.calls, outcome.unknown = course.made, course.unknown
        outcome.acknowledged, outcome.leases = stage.load.acknowledged, stage.load.leases
    return outcome


async def _disturb(
    stage: Stage,
    steps: Sequence[Disturbance],
    outcome: Outcome,
    dice: Random,
    pause_s: tuple[float, float],
    ends_at: float | None,
) -> None:
    await stage.until_answered()
    for step in steps:
        its_dice = Random(dice.random())
        if ends_at is not None and time.monotonic() > ends_at:
            return
        await asyncio.sleep(its_dice.uniform(*pause_s))
        stage.say(step.name)
        try:
            await step.happen(stage, its_dice)
        except Skipped as reason:
            stage.say(f"    SKIPPED: {reason}")
            outcome.skipped[step.name] = str(reason)
        except Violation as violation:
            outcome.happened[step.name] += 1
            raise Violation(f"{step.name}: {violation}") from None
        else:
            outcome.happened[step.name] += 1
        await stage.recover()
        await stage.age_outsiders()
        stage.load.raise_what_was_seen()


async def _look_at_the_file(stage: Stage) -> list[str]:
    """After a violation: whether the data file is still a database."""
    if stage.data is None:
        return []
    await stage.remove()
    try:
        await asyncio.to_thread(check_file, stage.data, "the data file")
    except Violation as violation:
        return [f"after that: {violation}"]
    return []


@asynccontextmanager
async def _working(stage: Stage) -> AsyncIterator[None]:
    """The load is on."""
    async with AsyncExitStack() as stack:
        await stage.load.make_fleets()
        addresses = [server.address for server in stage.servers]
        lines = [await stack.enter_async_context(Line(address)) for _ in range(LINES) for address in addresses]
        client = await stack.enter_async_context(AsyncClient(",".join(addresses), timeout_s=SDK_TIMEOUT_S))
        stage.load.begin(lines, client)
        try:
            yield
        finally:
            await stage.load.end()


@asynccontextmanager
async def _standing(folder: Path, dice: Random, setup: Setup, say: Say) -> AsyncIterator[Stage]:
    """The servers run."""
    async with AsyncExitStack() as stack:
        place: dict[str, Any]
        data: Path | None = None
        database: str | None = None
        small_disk = False
        if setup.postgres is None:
            assert setup.servers == 1, "one file has one server"
            small_disk = stack.enter_context(SmallDisk(folder / "disk"))
            data = folder / "disk" / "blockyard.db"
            place = {"data": data}
        else:
            database = await asyncio.to_thread(setup.postgres.fresh_database)
            stack.callback(setup.postgres.drop, database)
            await asyncio.to_thread(prepare, database)
            place = {"database": database}
        servers = []
        for server_number in range(setup.servers):
            server = ServerProcess(folder / f"server-{server_number}", **SETTINGS, **place)
            server.program = list(setup.program) or server.program
            servers.append(server)
        load = Load(folder, [server.address for server in servers], dice)
        stage = Stage(
            folder, say, load, servers, data=data, database=database, postgres=setup.postgres, small_disk=small_disk
        )
        stack.push_async_callback(stage.remove)
        for server in servers:
            await stage.start(server)
        yield stage
