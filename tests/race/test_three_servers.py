"""Three real servers on one PostgreSQL, one killed and one drained under load: no call fails, no grant is doubled."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Final

import pytest

from blockyard import AsyncClient, Grant, NoCapacity, ReleaseOutcome, RetryPolicy
from tests.harness.in_process import PATIENCE_S
from tests.harness.journal import Block, blocks_of, check_fleet
from tests.harness.process import ServerProcess, several_servers

_LOG: Final = logging.getLogger(__name__)
FLEET: Final = "gpu"
BLOCKS: Final = 24
SCHEDULERS: Final = 24
CLIENTS: Final = 3
QUICK: Final = RetryPolicy(initial_s=0.02, max_s=0.2)
DONE: Final = {ReleaseOutcome.RELEASED, ReleaseOutcome.ALREADY_RELEASED}


class Work:
    """Schedulers that acquire and release, over and over, and what they were told."""

    def __init__(self, clients: Sequence[AsyncClient], seed: int) -> None:
        self.granted: dict[str, str] = {}
        """Token to allocation."""
        self.refused: set[str] = set()
        """Tokens that were never granted as far as was told: there was no room."""
        self.closed: set[str] = set()
        """Those of them that were released, since an attempt without an answer might still have been granted."""
        self.replayed = 0
        self._held: set[Block] = set()
        self._over = False
        self._seed = seed
        self._tasks = [asyncio.create_task(self._schedule(n, clients[n % CLIENTS])) for n in range(SCHEDULERS)]

    async def until_more(self, grants: int) -> None:
        """Returns when there were so many grants more, and no scheduler has failed."""
        until = len(self.granted) + grants
        while len(self.granted) < until:
            failed, _ = await asyncio.wait(self._tasks, timeout=0.02, return_when=asyncio.FIRST_EXCEPTION)
            assert not failed, [task.exception() for task in failed]

    async def end(self) -> None:
        """Every scheduler finishes what it does. Raises what any of them has met."""
        self._over = True
        await asyncio.gather(*self._tasks)
        assert self._held == set()

    def figures(self) -> tuple[int, int, int]:
        """How many grants, how many of them were told by a repeated call, how many refusals."""
        return len(self.granted), self.replayed, len(self.refused)

    async def _schedule(self, number: int, client: AsyncClient) -> None:
        dice = Random(f"{self._seed}/{number}")
        turns = count()
        while not self._over:
            token = f"scheduler-{number}-{next(turns)}"
            try:
                grant = await self._acquire(client, token, blocks=dice.randint(1, 3), twice=dice.random() < 0.2)
            except NoCapacity as refusal:
                self.refused.add(token)
                if refusal.lost_attempts:
                    # The error is not the whole truth: one of these attempts may still be granted.
                    await client.release_by_token(FLEET, token)
                    self.closed.add(token)
                await asyncio.sleep(0.01)
                continue
            mine = set(blocks_of(grant.allocation.placements))
            assert not mine & self._held, "a block has two holders"
            assert token not in self.granted, "a token was granted twice"
            self._held |= mine
            self.granted[token] = grant.allocation.name
            self.replayed += grant.replayed
            await asyncio.sleep(0)
            self._held -= mine
            if dice.random() < 0.5:
                result = await client.release(grant.allocation, holder=grant.allocation.holder)
            else:
                result = await client.release_by_token(FLEET, token)
            assert result.outcome in DONE

    async def _acquire(self, client: AsyncClient, token: str, *, blocks: int, twice: bool) -> Grant:
        """One intent, sometimes sent twice at once: to two servers, as calls go round."""
        sent = [client.acquire(FLEET, holder=token, token=token, blocks=blocks) for _ in range(2 if twice else 1)]
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        grants = [outcome for outcome in outcomes if isinstance(outcome, Grant)]
        # Of two refusals the one that leaves something open is to be raised.
        outcomes.sort(key=lambda outcome: getattr(outcome, "lost_attempts", 0), reverse=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and (not grants or not isinstance(outcome, NoCapacity)):
                raise outcome
        # A refusal consumes nothing: of two equal requests the first may be refused and the second one granted.
        assert len({grant.allocation for grant in grants}) == 1, "two answers to one token"
        return grants[0]


@pytest.fixture
def servers(tmp_path: Path, database: str) -> Iterator[list[ServerProcess]]:
    with several_servers(tmp_path, database, 3) as three:
        yield three


async def disturb(servers: Sequence[ServerProcess], work: Work, dice: Random) -> None:
    """One is killed, and while it is away another one drains: the third does all the work until they are back."""
    killed, drained, _ = dice.sample(servers, k=3)
    await work.until_more(50)
    killed.kill()
    await work.until_more(20)
    drained.ask_to_stop()
    await work.until_more(50)
    assert await asyncio.to_thread(drained.wait) == 0
    assert "Traceback" not in drained.errors()
    await work.until_more(20)
    await asyncio.to_thread(killed.start)
    await asyncio.to_thread(drained.start)


@asynccontextmanager
async def service(servers: Sequence[ServerProcess]) -> AsyncIterator[list[AsyncClient]]:
    """Clients of all three, with a fleet of three instances."""
    target = ",".join(server.address for server in servers)
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(target, retry=QUICK, timeout_s=PATIENCE_S))
            for _ in range(CLIENTS)
        ]
        await clients[0].create_fleet(FLEET)
        for number in range(3):
            await clients[0].create_instance(FLEET, f"node-{number}", total_blocks=BLOCKS // 3)
        yield clients


async def check(servers: Sequence[ServerProcess], work: Work) -> None:
    """What was told is what is recorded, as every server says."""
    for server in servers:
        async with AsyncClient(server.address, timeout_s=PATIENCE_S) as alone:
            journal = await check_fleet(alone, FLEET)
            told = {token: name for token, name in journal.granted.items() if token not in work.closed}
            assert told == work.granted, "what is recorded is not what was told"
            assert journal.live == set()
    _LOG.info("%s grants, %s of them told by a repeated call; %s refusals", *work.figures())


async def ride(servers: Sequence[ServerProcess], *, turns: int, seed: int) -> None:
    """The whole story, so many times over."""
    dice = Random(seed)
    async with service(servers) as clients:
        work = Work(clients, seed)
        for _ in range(turns):
            await disturb(servers, work, dice)
        await work.until_more(50)
        await work.end()
        await check(servers, work)


@pytest.mark.timeout(300)
async def test_no_call_fails_and_no_grant_is_doubled_while_servers_are_killed_and_drained(
    servers: list[ServerProcess],
) -> None:
    await ride(servers, turns=2, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_no_call_fails_while_a_server_hangs(servers: list[ServerProcess]) -> None:
    """Whatever it had begun, it holds on to: its calls, and perhaps the fleet's lock in the database."""
    async with service(servers) as clients:
        work = Work(clients, seed=2)
        for hanging in servers:
            await work.until_more(50)
            hanging.freeze()
            await work.until_more(2 * SCHEDULERS)
            hanging.thaw()
        await work.until_more(50)
        await work.end()
        await check(servers, work)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(10))
async def test_the_same_for_long(servers: list[ServerProcess], seed: int) -> None:
    await ride(servers, turns=25, seed=seed)
