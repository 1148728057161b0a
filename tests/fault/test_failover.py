"""The primary of a PostgreSQL with a synchronous standby is killed under load, and the standby takes its place.

Two servers of ours are on the database, and go on by themselves. Set BLOCKYARD_SEED to repeat a run's choices.
"""

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Final

import pytest

from blockyard import AsyncClient
from tests.fault.intents import Told
from tests.fault.load import BLOCKS, FLEET, NODES, Scheduler, persist, settle
from tests.fault.test_crash import QUICK, Report, chosen_seed, say
from tests.harness.cluster import Cluster
from tests.harness.in_process import PATIENCE_S
from tests.harness.journal import Journal, check_fleet
from tests.harness.one_shot import OneShotClient
from tests.harness.patience import eventually
from tests.harness.process import ServerProcess
from tests.harness.sessions import servers_on, url_for

SERVERS: Final = 2
SCHEDULERS: Final = 12
PERSISTENT: Final = 2
MOST_ANSWERS: Final = 200
"""A primary is killed after so many answers at most."""


class FailoverRun:
    """A cluster, the servers on it, their clients, and what these were told."""

    def __init__(self, folder: Path, cluster: Cluster, seed: str) -> None:
        self.cluster = cluster
        self.dice = Random(seed)
        database = cluster.primary.fresh_database().rpartition("/")[2]
        self._database = database
        self.servers = [
            ServerProcess(folder / str(number), database=url_for(cluster.url(database), number), restart_grace_s=0.3)
            for number in range(SERVERS)
        ]
        self.address = ",".join(server.address for server in self.servers)
        self.told = Told()
        self.journal = Journal(FLEET)
        self.schedulers = [Scheduler(number, self.told, database_may_go=True) for number in range(SCHEDULERS)]
        self.persisted = 0
        self.away_s: list[float] = []
        """For each fail-over, from the kill to the first grant."""

    async def begin(self) -> None:
        """Starts the servers and makes the fleet."""
        for server in self.servers:
            await asyncio.to_thread(server.start)
        async with self._client() as client:
            await client.create_fleet(FLEET)
            for node in NODES:
                await client.create_instance(FLEET, node, total_blocks=BLOCKS)

    def _client(self) -> AsyncClient:
        return AsyncClient(self.address, retry=QUICK, timeout_s=PATIENCE_S)

    async def fail_over(self) -> None:
        """Load, the primary's death, the standby's promotion, the comparison, and the settling of what is in doubt."""
        async with AsyncExitStack() as stack:
            several = [await stack.enter_async_context(OneShotClient(server.address)) for server in self.servers]
            patient = await stack.enter_async_context(self._client())
            gone = asyncio.Event()
            load = [
                asyncio.create_task(scheduler.work(several[number % SERVERS], Random(self.dice.random()), gone.is_set))
                for number, scheduler in enumerate(self.schedulers)
            ]
            persisting = [asyncio.create_task(persist(f"patient-{n}", patient, gone.is_set)) for n in range(PERSISTENT)]
            await self._enough_answers(load)
            await asyncio.to_thread(self.cluster.kill_primary)
            killed = time.monotonic()
            await asyncio.to_thread(self.cluster.promote_standby)
            assert await asyncio.to_thread(self.cluster.promotions) == len(self.away_s) + 1
            await self._first_grant(patient)
            self.away_s.append(time.monotonic() - killed)
            gone.set()
            await asyncio.gather(*load)
            self.persisted += sum(await asyncio.gather(*persisting))
        async with self._client() as client:
            await self._compare(client)
            await self._settle(client)
        await eventually(self._all_are_connected, "every server has found the new primary")
        await asyncio.to_thread(self.cluster.attach_standby)

    async def _all_are_connected(self) -> bool:
        return await asyncio.to_thread(servers_on, self.cluster.primary.url(self._database)) == SERVERS

    async def _enough_answers(self, load: list["asyncio.Task[None]"]) -> None:
        wanted = self.told.answers + self.dice.randrange(MOST_ANSWERS)

        async def enough() -> bool:
            for task in load:
                if task.done():
                    task.result()
                    raise AssertionError("a server has lost its database before the primary was killed")
            return self.told.answers >= wanted

        await eventually(enough, f"{wanted} answers came")
        await asyncio.sleep(self.dice.uniform(0, 0.02))

    async def _first_grant(self, client: AsyncClient) -> None:
        """Somebody's grant on a fleet of its own, with which nobody competes."""
        name = f"after-{len(self.away_s)}"
        await client.create_fleet(name)
        await client.create_instance(name, "node", total_blocks=1)
        await client.acquire(name, blocks=1, holder="first")

    async def _compare(self, client: AsyncClient) -> None:
        await check_fleet(client, FLEET, self.journal)
        self.told.check(self.journal)
        there = {instance.name.rpartition("/")[2] async for instance in client.list_instances(FLEET)}
        for name, expected in self.told.instances.items():
            assert expected is None or (name in there) is expected, f"{name} is not as its administrator was told"
            self.told.instances[name] = name in there

    async def _settle(self, client: AsyncClient) -> None:
        for node in NODES:
            await client.uncordon_instance(FLEET, node)
        doubtful = [intent for intent in self.told.intents.values() if intent.in_doubt]
        self.dice.shuffle(doubtful)
        for intent in doubtful:
            await settle(intent, client, self.dice, known=intent.token in self.journal.granted)
        self.told.forget_what_is_over()


async def _fail_over(folder: Path, seed: str, times: int, report: Report) -> None:
    with Cluster() as cluster:
        run = FailoverRun(folder, cluster, seed)
        async with AsyncExitStack() as stack:
            for server in run.servers:
                stack.enter_context(server)
            await run.begin()
            for turn in range(times):
                await run.fail_over()
                report(
                    f"{turn + 1} of {times} fail-overs: {len(run.journal.granted)} grants, {run.told.answers} answers,"
                    f" all of them true; {run.away_s[-1]:.1f} s without service"
                )
            assert run.persisted > 0, "the persistent schedulers got nothing"
    away = sorted(run.away_s)
    report(f"without service: {away[0]:.1f} to {away[-1]:.1f} s, median {away[len(away) // 2]:.1f} s")


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_no_acknowledged_grant_is_lost_or_doubled_by_a_fail_over(tmp_path: Path) -> None:
    seed = chosen_seed()
    say(f"BLOCKYARD_SEED={seed}")
    await _fail_over(tmp_path, seed, 2, say)


@pytest.mark.soak
async def test_no_acknowledged_grant_is_lost_or_doubled_by_twenty_fail_overs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def report(line: str) -> None:
        # To stderr: the stdout of parallel test processes is nobody's.
        with capfd.disabled():
            sys.stderr.write(f"fail-over: {line}\n")

    seed = chosen_seed()
    report(f"BLOCKYARD_SEED={seed}")
    await _fail_over(tmp_path, seed, 20, report)
