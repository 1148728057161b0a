"""Where a history is recorded: servers as processes of their own, proxies before them and before their database,
faults, and the clients."""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

from blockyard import AsyncClient
from tests.harness.postgres import Postgres
from tests.harness.process import ServerProcess, StartFailed
from tests.harness.proxy import Fault, Mischief, Proxy
from tests.harness.sessions import servers_on, url_for
from tests.history.clients import Client, Course, Line, Place
from tests.history.files import HistoryWriter
from tests.history.wire import instance_id, read_journal

LINES: Final = 4
"""Connections of the clients to each server, each with a proxy of its own, so that a fault is not everybody's."""
STARTS: Final = 30
"""How often a server is started before the run is given up."""
SAY_EVERY_S: Final = 5.0
CALM_TIMEOUT_S: Final = 30.0
"""A call's deadline while nothing is wrong."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is recorded, and under what circumstances."""

    operations: int
    clients: int = 64
    fleets: int = 2
    instances: int = 16
    blocks: int = 8
    servers: int = 1
    database: str = "sqlite"
    """Or `postgres`."""
    faults: bool = True
    seed: str = "0"
    timeout_s: float = 1.5
    """A call's deadline while faults go on."""
    calm_s: tuple[float, float] = (0.3, 2.0)
    """Between two faults of the network before the servers."""
    database_calm_s: tuple[float, float] = (2.0, 10.0)
    """Between two faults of the network before the database: each stops a whole server."""
    kill_every_s: tuple[float, float] = (8.0, 25.0)
    """Between two kills of a server."""
    program: tuple[str, ...] = ()
    """What stands for `blockyard`: another program, such as one with a fault or of another release."""
    meanwhile: "Callable[[Sequence[ServerProcess]], Awaitable[None]] | None" = None
    """What is done to the servers while the clients call, instead of faults. The clients go on until it is over."""


@dataclass(slots=True)
class Recorded:
    """What came of it. The histories are in `folders`."""

    folders: list[Path] = field(default_factory=list)
    operations: int = 0
    unknown: int = 0
    why_unknown: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    """Connections that each fault of the network has really hit."""
    servers: int = 0
    """As many as used the database in the end."""

    def lacks(self, setup: Setup) -> list[str]:
        """What was asked for and has not taken place."""
        servers = [] if self.servers == setup.servers else [f"{setup.servers} servers ({self.servers} were there)"]
        return servers + lacking_faults(setup, self.kills, self.faults)


def lacking_faults(setup: Setup, kills: int, faults: Counter[str]) -> list[str]:
    """Which kinds of faults were asked for and have not taken place yet."""
    if not setup.faults:
        return []
    places = ("client", "database") if setup.database == "postgres" else ("client",)
    hit = {fault.partition(":")[0] for fault, count in faults.items() if count}
    return ([] if kills else ["a kill"]) + [f"a fault of a {place}'s network" for place in places if place not in hit]


async def record(folder: Path, setup: Setup, say: Say) -> Recorded:
    """Records one history for each fleet into folders of their own."""
    async with AsyncExitStack() as stack:
        stage = await stack.enter_async_context(_standing(folder, setup))
        lines = [await stack.enter_async_context(Line(proxy.address)) for proxy in stage.before_servers]
        recorded = Recorded()
        meanwhile = asyncio.Event()
        course = Course(
            setup.operations,
            lambda: meanwhile.is_set() and not lacking_faults(setup, recorded.kills, stage.faults),
            lines,
            setup.timeout_s if setup.faults else CALM_TIMEOUT_S,
        )
        places = [await stage.fleet(f"fleet-{number}", folder / f"fleet-{number}") for number in range(setup.fleets)]
        dice = Random(setup.seed)
        clients = [
            Client(number, places[number % setup.fleets], course, Random(dice.random()))
            for number in range(setup.clients)
        ]
        recorded.folders = [folder / place.fleet for place in places]
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, course.end_early)
        saying = asyncio.create_task(_say(course, recorded, stage, say))
        try:
            async with _trouble(stage, recorded, dice):
                await asyncio.gather(_do_meanwhile(stage, meanwhile), *(client.work() for client in clients))
            course.timeout_s = CALM_TIMEOUT_S
            await asyncio.gather(*(client.settle() for client in clients))
        finally:
            saying.cancel()
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().remove_signal_handler(number)
        await stage.write_journals(places)
        recorded.servers = await asyncio.to_thread(stage.count_servers)
        recorded.operations, recorded.faults = course.made, stage.faults
        recorded.unknown, recorded.why_unknown = course.unknown, course.why_unknown
    return recorded


async def _do_meanwhile(stage: "_Stage", over: asyncio.Event) -> None:
    try:
        if stage.setup.meanwhile is not None:
            await stage.setup.meanwhile(stage.servers)
    finally:
        over.set()


@dataclass(slots=True)
class _Stage:
    setup: Setup
    servers: list[ServerProcess]
    before_servers: list[Proxy]
    before_database: list[Proxy]
    database: str | None
    """Its URL, past the proxies. None: a data file."""

    def count_servers(self) -> int:
        """How many use the database, as it says itself; a data file has one, which is this one if it runs on it."""
        if self.database is not None:
            return servers_on(self.database)
        return sum(server.runs and server.data.exists() for server in self.servers)

    @property
    def faults(self) -> Counter[str]:
        """Those that happened, by where and what."""
        happened: Counter[str] = Counter()
        for where, proxies in (("client", self.before_servers), ("database", self.before_database)):
            for proxy in proxies:
                happened.update({f"{where}: {fault}": count for fault, count in proxy.counts.items()})
        return happened

    async def fleet(self, name: str, folder: Path) -> Place:
        """Makes a fleet and the file for its history."""
        setup = self.setup
        async with AsyncClient(self.servers[0].address) as client:
            await client.create_fleet(name)
            for number in range(setup.instances):
                await client.create_instance(name, instance_id(number), total_blocks=setup.blocks)
        return Place(name, setup.instances, setup.blocks, HistoryWriter(folder, [setup.blocks] * setup.instances))

    async def write_journals(self, places: list[Place]) -> None:
        """Once everything stands still; the service itself must find nothing wrong either."""
        async with AsyncClient(self.servers[0].address, timeout_s=CALM_TIMEOUT_S) as client:
            for place in places:
                place.writer.write_journal([event async for event in read_journal(client, place.fleet)])
                place.writer.close()
                report = await client.verify(place.fleet)
                assert report.clean, report.discrepancies


@asynccontextmanager
async def _standing(folder: Path, setup: Setup) -> AsyncIterator[_Stage]:
    async with AsyncExitStack() as stack:
        before_database: list[Proxy] = []
        url: str | None = None
        urls: list[str | None] = [None] * setup.servers
        if setup.database == "postgres":
            postgres = await asyncio.to_thread(Postgres)
            await asyncio.to_thread(stack.enter_context(postgres).ask, "SELECT 1")
            url = postgres.fresh_database()
            for number in range(setup.servers):
                proxy = await stack.enter_async_context(Proxy(f"127.0.0.1:{postgres.port}", seed=f"{setup.seed}/{url}"))
                before_database.append(proxy)
                urls[number] = url_for(url.replace(f"127.0.0.1:{postgres.port}", proxy.address), number)
        else:
            assert setup.servers == 1, "one file has one server"
        servers = []
        for number, place in enumerate(urls):
            settings: dict[str, Any] = {} if place is None else {"database": place}
            server = ServerProcess(folder / f"server-{number}", restart_grace_s=2, sweep_interval_s=0.1, **settings)
            server.program = list(setup.program) or server.program
            servers.append(stack.enter_context(server))
            await asyncio.to_thread(start, server)
        before_servers = [
            await stack.enter_async_context(Proxy(server.address, seed=f"{setup.seed}/{line}/{number}"))
            for line in range(LINES)
            for number, server in enumerate(servers)
        ]
        yield _Stage(setup, servers, before_servers, before_database, url)


@asynccontextmanager
async def _trouble(stage: _Stage, recorded: Recorded, dice: Random) -> AsyncIterator[None]:
    """Faults while the block runs; afterwards everything is healed and every server runs."""
    if not stage.setup.faults:
        yield
        return
    mischiefs = [
        Mischief(proxies, dice.random(), faults=tuple(Fault), calm_s=calm_s)
        for proxies, calm_s in (
            (stage.before_servers, stage.setup.calm_s),
            (stage.before_database, stage.setup.database_calm_s),
        )
        if proxies
    ]
    tasks = [asyncio.create_task(mischief.run()) for mischief in mischiefs]
    tasks.append(asyncio.create_task(_kill_now_and_then(stage, recorded, dice)))
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
        for server in stage.servers:
            if not server.runs:
                server.remove()
                await asyncio.to_thread(start, server)


def start(server: ServerProcess) -> None:
    """Starts a server, again and again as its supervisor would: without its database it refuses to."""
    for _ in range(STARTS):
        with suppress(StartFailed):
            server.start()
            return
    raise AssertionError(f"the server did not start {STARTS} times: {server.errors()}")


async def _kill_now_and_then(stage: _Stage, recorded: Recorded, dice: Random) -> None:
    while True:
        await asyncio.sleep(dice.uniform(*stage.setup.kill_every_s))
        server = dice.choice(stage.servers)
        server.kill()
        recorded.kills += 1
        await asyncio.sleep(dice.uniform(0, 0.5))
        # Once begun, a start is not left half done.
        starting = asyncio.create_task(asyncio.to_thread(start, server))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await starting
            raise


async def _say(course: Course, recorded: Recorded, stage: _Stage, say: Say) -> None:
    before = 0
    while True:
        await asyncio.sleep(SAY_EVERY_S)
        rate = (course.made - before) / SAY_EVERY_S
        before = course.made
        say(
            f"{course.made} of {course.operations} calls, {rate:.0f} a second, {course.unknown} unknown, "
            f"{course.refused} refused, {recorded.kills} kills, {stage.faults.total()} connections hit"
        )
