"""kill -9, over and over, under load: after each restart everything that clients were told is true.

Set BLOCKYARD_SEED to repeat a run's choices; the timing of the processes is not repeated.
"""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final

import pytest

from blockyard import AsyncClient, RetryPolicy
from tests.fault.intents import Told
from tests.fault.load import BLOCKS, FLEET, NODES, Scheduler, persist, settle
from tests.harness.in_process import PATIENCE_S
from tests.harness.journal import Journal, check_fleet
from tests.harness.one_shot import OneShotClient
from tests.harness.patience import eventually
from tests.harness.process import ServerProcess
from tests.harness.sessions import servers_on, url_for

SCHEDULERS: Final = 8
PERSISTENT: Final = 2
"""Further schedulers, on the SDK's retries, whose calls span the restarts."""
MOST_ANSWERS: Final = 120
"""A kill comes after so many answers at most."""
KILLS_OF_A_LIFE: Final = 25
"""Then the run goes on with a new data file, so that the journal to be replayed stays short."""
QUICK: Final = RetryPolicy(initial_s=0.02, max_s=0.2)

Report = Callable[[str], None]


class CrashRun:
    """One data file, or one `database` on PostgreSQL, its server, its clients, and what these were told."""

    def __init__(self, folder: Path, seed: str, database: str | None = None) -> None:
        self._database = database
        place: dict[str, Any] = {} if database is None else {"database": url_for(database, 0)}
        # A short grace: leases end during the run, and not only at its end.
        self.server = ServerProcess(folder, restart_grace_s=0.3, sweep_interval_s=0.05, **place)
        self.dice = Random(seed)
        self.told = Told()
        self.journal = Journal(FLEET)
        self.schedulers = [Scheduler(number, self.told) for number in range(SCHEDULERS)]
        self.kills = 0
        self.persisted = 0
        """Allocations that the persistent schedulers had."""

    async def begin(self) -> None:
        """Starts the server and makes the fleet."""
        await asyncio.to_thread(self.server.start)
        assert self._database is None or await asyncio.to_thread(servers_on, self._database) == 1
        async with AsyncClient(self.server.address) as client:
            await client.create_fleet(FLEET)
            for node in NODES:
                await client.create_instance(FLEET, node, total_blocks=BLOCKS)

    async def round(self) -> None:
        """Load, kill, restart, comparison, and the settling of all that is in doubt."""
        async with AsyncExitStack() as stack:
            several = [await stack.enter_async_context(OneShotClient(self.server.address)) for _ in range(2)]
            patient = AsyncClient(self.server.address, retry=QUICK, timeout_s=PATIENCE_S)
            await stack.enter_async_context(patient)
            load = [
                asyncio.create_task(scheduler.work(several[number % 2], Random(self.dice.random())))
                for number, scheduler in enumerate(self.schedulers)
            ]
            gone = asyncio.Event()
            persisting = [asyncio.create_task(persist(f"patient-{n}", patient, gone.is_set)) for n in range(PERSISTENT)]
            await self._kill_in_the_middle(load, gone)
            await asyncio.gather(*load)
            if self.dice.random() < 0.2:
                await self._kill_while_it_starts()
            await asyncio.to_thread(self.server.start)
            self.persisted += sum(await asyncio.gather(*persisting))
        async with AsyncClient(self.server.address, timeout_s=PATIENCE_S) as client:
            await self._compare(client)
            await self._settle(client)

    async def _kill_in_the_middle(self, load: list["asyncio.Task[None]"], gone: asyncio.Event) -> None:
        wanted = self.told.answers + self.dice.randrange(MOST_ANSWERS)

        async def enough_answers() -> bool:
            for task in load:
                if task.done():
                    task.result()
                    raise AssertionError("the server has gone before it was killed: " + self.server.errors())
            return self.told.answers >= wanted

        await eventually(enough_answers, f"{wanted} answers came")
        await asyncio.sleep(self.dice.uniform(0, 0.02))
        gone.set()
        self.server.kill()
        self.kills += 1

    async def _kill_while_it_starts(self) -> None:
        self.server.launch()
        await asyncio.sleep(self.dice.uniform(0, 1.5))
        self.server.kill()
        self.kills += 1

    async def _compare(self, client: AsyncClient) -> None:
        await check_fleet(client, FLEET, self.journal)
        self.told.check(self.journal)
        there = {instance.name.rpartition("/")[2] async for instance in client.list_instances(FLEET)}
        for name, expected in self.told.instances.items():
            assert expected is None or (name in there) is expected, (
                f"instance {name} is not as its administrator was told"
            )
            self.told.instances[name] = name in there
        turn = int((await client.get_fleet(FLEET)).labels.get("turn", "0"))
        assert self.told.label <= turn <= self.told.label_asked, "an acknowledged update of the fleet is lost"
        self.told.label = self.told.label_asked = turn

    async def _settle(self, client: AsyncClient) -> None:
        for node in NODES:
            await client.uncordon_instance(FLEET, node)
        doubtful = [intent for intent in self.told.intents.values() if intent.in_doubt]
        self.dice.shuffle(doubtful)
        for intent in doubtful:
            await settle(intent, client, self.dice, known=intent.token in self.journal.granted)
        self.told.forget_what_is_over()

    async def end(self) -> None:
        """A last comparison, and an orderly stop."""
        async with AsyncClient(self.server.address, timeout_s=PATIENCE_S) as client:
            await self._compare(client)
        assert await asyncio.to_thread(self.server.terminate) == 0


async def crash(folder: Path, seed: str, kills: int, report: Report) -> None:
    """As many kills, each in the middle of the work."""
    done = life = 0
    while done < kills:
        run = CrashRun(folder / str(life), f"{seed}/{life}")
        with run.server:
            await run.begin()
            while run.kills < min(KILLS_OF_A_LIFE, kills - done):
                await run.round()
            await run.end()
        assert run.persisted > 0, "the persistent schedulers got nothing"
        done += run.kills
        life += 1
        granted, answers = len(run.journal.granted), run.told.answers
        report(f"{done} of {kills} kills: life {life} had {granted} grants, {answers} answers, all of them true")


def chosen_seed() -> str:
    return os.environ.get("BLOCKYARD_SEED") or str(SystemRandom().randrange(2**32))


def say(line: str) -> None:
    """Pytest shows it with a failure."""
    sys.stdout.write(f"{line}\n")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", ["a", pytest.param("b", marks=pytest.mark.slow)])
async def test_whatever_clients_were_told_is_true_after_every_kill(tmp_path: Path, part: str) -> None:
    """Two parts of 15 kills, so that they run side by side."""
    seed = chosen_seed()
    say(f"BLOCKYARD_SEED={seed}")
    await crash(tmp_path / "crash", f"{seed}/{part}", 15, say)


@pytest.mark.soak
@pytest.mark.parametrize("part", ["a", "b"])
async def test_whatever_clients_were_told_is_true_after_each_of_a_thousand_kills(
    tmp_path: Path, part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def report(line: str) -> None:
        # To stderr: the stdout of parallel test processes is nobody's.
        with capfd.disabled():
            sys.stderr.write(f"crash {part}: {line}\n")

    seed = chosen_seed()
    report(f"BLOCKYARD_SEED={seed}")
    await crash(tmp_path / "crash", f"{seed}/{part}", 500, report)


async def test_a_grant_answered_the_instant_before_the_kill_is_there(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        await asyncio.to_thread(server.start)
        async with AsyncClient(server.address, retry=QUICK) as client:
            await client.create_fleet(FLEET)
            await client.create_instance(FLEET, "node-1", total_blocks=8)
            for turn in range(2):
                token = f"intent-{turn}"
                grant = await client.acquire(FLEET, blocks=1, holder="job", token=token)
                server.kill()
                await asyncio.to_thread(server.start)
                assert await client.get_allocation(grant.allocation.name) == grant.allocation
                again = await client.acquire(FLEET, blocks=1, holder="job", token=token)
                assert (again.replayed, again.allocation) == (True, grant.allocation)
                journal = await check_fleet(client, FLEET)
                assert len(journal.granted) == turn + 1


@pytest.mark.parametrize("seed", range(2))
def test_a_first_start_that_is_killed_at_any_moment_is_made_good_by_the_next(tmp_path: Path, seed: int) -> None:
    """The file may be empty, without tables, or whole: nobody has to look."""
    dice = Random(seed)
    with ServerProcess(tmp_path) as server:
        for _ in range(3):
            server.launch()
            time.sleep(dice.uniform(0.2, 1.2))
            server.kill()
        server.start()
        assert server.terminate() == 0


async def test_a_drain_that_is_killed_is_a_crash_like_any_other(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, drain_grace_s=3600) as server:
        await asyncio.to_thread(server.start)
        async with AsyncClient(server.address, retry=QUICK) as client:
            await client.create_fleet(FLEET)
            await client.create_instance(FLEET, "node-1", total_blocks=8)
            grant = await client.acquire(FLEET, blocks=8, holder="job", token="intent")
            server.ask_to_stop()
            server.kill()
            await asyncio.to_thread(server.start)
            again = await client.acquire(FLEET, blocks=8, holder="job", token="intent")
            assert (again.replayed, again.allocation) == (True, grant.allocation)
            await check_fleet(client, FLEET)
