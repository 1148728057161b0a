"""Where a round happens: servers, their data, and the programs that have the data open besides."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health_pb2

from tests.chaos.disturbances import Violation
from tests.chaos.load import Load
from tests.harness.postgres import Postgres
from tests.harness.process import ServerProcess, StartFailed

START_BOUND_S: Final = 30.0
"""A start that is refused is tried again for so long, as a supervisor would."""
ANSWER_BOUND_S: Final = 60.0
"""A server that runs, and that nothing disturbs, acknowledges changes within this."""
HEALTHY_BOUND_S: Final = 10.0
"""A server that is not healthy for so long is restarted, as a supervisor would."""
POLL_S: Final = 0.05
CLOCK_FOLDER: Final = Path(__file__).parent / "clock"
CLOCK_WORDS: Final = "chaos: the wall clock is off by"
SMALL_DISK_BYTES: Final = 512 * 1024 * 1024
"""Room for the log of a round that a reader keeps from being cut back."""
SETTINGS: Final[dict[str, Any]] = {"sweep_interval_s": 0.1, "audit_interval_s": 5}

Say = Callable[[str], None]


@dataclass(slots=True)
class Backup:
    """A copy that was made while clients worked."""

    path: Path
    how: str
    revisions: dict[str, int]
    """By fleet, the highest revision that was acknowledged before it was begun: the copy has it."""


class Outsider:
    """Another program that has the data open. `leave` ends it in order, `kill` at once."""

    def __init__(self, name: str, steps: int) -> None:
        self.name = name
        self.steps = steps
        """It stays for so many more disturbances."""

    async def do_its_work(self) -> None:
        """Returns once it has done again what it does, if it does anything by itself."""

    async def leave(self) -> None:
        """As its user would end it."""
        raise NotImplementedError

    async def kill(self) -> None:
        """SIGKILL, or whatever is nearest to it."""
        raise NotImplementedError


@dataclass
class Stage:
    """One round's. `data` is the SQLite file; with a PostgreSQL there is none."""

    folder: Path
    say: Say
    load: Load
    servers: list[ServerProcess]
    data: Path | None = None
    database: str | None = None
    postgres: Postgres | None = None
    small_disk: bool = False
    """The data is on a file system of its own that can be filled."""
    outsiders: list[Outsider] = field(default_factory=list)
    backups: list[Backup] = field(default_factory=list)
    _made: int = 0

    def fresh_path(self, name: str) -> Path:
        """A path in the round's folder that nothing has yet, on another file system than a small disk."""
        self._made += 1
        return self.folder / f"{self._made}-{name}"

    @property
    def file(self) -> Path:
        """The data file of a round on SQLite."""
        assert self.data is not None, "this round is on PostgreSQL"
        return self.data

    async def start(self, server: ServerProcess, *, clock_s: int = 0) -> None:
        """Starts a server, again and again as its supervisor would. Raises Violation if it never serves."""
        program = server.program
        server.program = _with_clock(clock_s, program)
        deadline = time.monotonic() + START_BOUND_S
        while True:
            try:
                await asyncio.to_thread(server.start)
            except StartFailed as refusal:
                if time.monotonic() > deadline:
                    raise Violation(f"a server refuses to start, calm or not: {_last_line(refusal.errors)}") from None
                await asyncio.sleep(POLL_S)
            else:
                if clock_s:
                    assert _shows(clock_s, server), "the server's clock was not shifted"
                return
            finally:
                server.program = program

    async def stop(self, server: ServerProcess, *, kill: bool) -> None:
        """SIGKILL or SIGTERM, if it runs at all."""
        if not server.runs:
            await asyncio.to_thread(server.remove)
        elif kill:
            await asyncio.to_thread(server.kill)
        else:
            await asyncio.to_thread(server.terminate)

    async def recover(self) -> None:
        """As a supervisor: starts what has ended or stays unhealthy. Changes are acknowledged then, or Violation."""
        for server in self.servers:
            if server.runs and not await _gets_healthy(server):
                self.say("    a server says that it does not serve, and is restarted")
                await self.stop(server, kill=False)
            if not server.runs:
                await self.stop(server, kill=True)
                await self.start(server)
        await self.until_answered()

    async def until_answered(self, changes: int = 1) -> None:
        """So many changes are acknowledged from now on. Raises Violation."""
        last = self.load.acknowledged
        enough = last + changes
        deadline = time.monotonic() + ANSWER_BOUND_S
        while last < enough:
            self.load.raise_what_was_seen()
            if time.monotonic() > deadline:
                states = [await health(server.address) for server in self.servers]
                raise Violation(f"nothing is acknowledged for {ANSWER_BOUND_S:.0f} s; health is {states}")
            await asyncio.sleep(POLL_S)
            if self.load.acknowledged > last:
                last = self.load.acknowledged
                deadline = time.monotonic() + ANSWER_BOUND_S

    async def age_outsiders(self) -> None:
        """One more disturbance is over: the other programs do their work with what there is now, and some end."""
        for outsider in list(self.outsiders):
            await outsider.do_its_work()
            outsider.steps -= 1
            if outsider.steps <= 0:
                await self.dismiss(outsider)

    async def dismiss(self, outsider: Outsider) -> None:
        """Another program ends in order."""
        self.outsiders.remove(outsider)
        self.say(f"    {outsider.name} leaves")
        await outsider.leave()

    async def dismiss_all(self) -> None:
        """Nobody but the servers has the data."""
        while self.outsiders:
            await self.dismiss(self.outsiders[-1])

    async def remove(self) -> None:
        """Whatever happened, nothing stays."""
        while self.outsiders:
            await self.outsiders.pop().kill()
        for server in self.servers:
            server.remove()


async def _gets_healthy(server: ServerProcess) -> bool:
    """Whether a server that runs says so within the bound."""
    deadline = time.monotonic() + HEALTHY_BOUND_S
    while server.runs and time.monotonic() < deadline:
        if await health(server.address) == "SERVING":
            return True
        await asyncio.sleep(POLL_S)
    return False


async def health(address: str) -> str | None:
    """What the server says of itself. None: it does not answer."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        check: Any = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = await check(health_pb2.HealthCheckRequest(), timeout=2.0)
        except grpc.aio.AioRpcError:
            return None
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))


def _with_clock(shift_s: int, program: list[str]) -> list[str]:
    """The program with a wall clock that is wrong by so much."""
    if not shift_s:
        return program
    return ["env", f"PYTHONPATH={CLOCK_FOLDER}", f"CHAOS_CLOCK_S={shift_s}", *program]


def _shows(shift_s: int, server: ServerProcess) -> bool:
    """Whether the server wrote, when it started, that its clock is off by this."""
    return f"{CLOCK_WORDS} {shift_s} s" in server.errors()


def _last_line(errors: str) -> str:
    lines = errors.strip().splitlines()
    return lines[-1] if lines else "without a word"


class SmallDisk:
    """A file system of a few megabytes at `folder`, where this machine allows one. A context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.mounted = False

    def __enter__(self) -> bool:
        """Whether there is one."""
        self.folder.mkdir()
        if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("mount"):
            options = f"size={SMALL_DISK_BYTES}"
            command = ["mount", "-t", "tmpfs", "-o", options, "none", str(self.folder)]
            self.mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
        return self.mounted

    def __exit__(self, *_: object) -> None:
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], capture_output=True, check=False)
