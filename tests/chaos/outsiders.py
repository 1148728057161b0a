"""Other programs that have a server's data file open: shells, a checkpointer such as Litestream, backups, a lock."""

import asyncio
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import IO, Final

from tests.chaos.disturbances import Disturbance, Violation
from tests.chaos.stage import POLL_S, Backup, Outsider, Stage

STAY_STEPS: Final = (3, 7)
"""For how many disturbances an outside connection stays open, over restarts."""
CHECKPOINT_EVERY_S: Final = 0.5
"""Litestream does it each second; twice as often finds as much in half of the time."""
CHECKPOINTS: Final = ("PRAGMA wal_checkpoint(PASSIVE);", "PRAGMA wal_checkpoint(TRUNCATE);")
READ: Final = "SELECT count(*) FROM sqlite_master;"
CHANGES: Final = 200
"""So many are acknowledged before and after a restart under an outside connection."""
COPY_BOUND_S: Final = 60.0
"""A copy of so small a file is made within this."""
BOUND_S: Final = 30.0
MARK: Final = "@"


class Shell:
    """The `sqlite3` program on a data file; where there is none, `sqlite_shell.py`, which knows what is needed."""

    def __init__(self, data: Path) -> None:
        program = [shutil.which("sqlite3") or ""]
        if not program[0]:
            program = [sys.executable, str(Path(__file__).with_name("sqlite_shell.py"))]
        self._process = subprocess.Popen(
            [*program, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, statement: str) -> list[str]:
        """The lines that it prints."""
        stdin, stdout = self._pipes()
        stdin.write(f"{statement}\n.print {MARK}\n")
        stdin.flush()
        lines = []
        while (line := stdout.readline()) and line.strip() != MARK:
            lines.append(line.strip())
        return lines

    def quit(self) -> None:
        """It closes the file, as the last one with a checkpoint, and ends."""
        stdin, _ = self._pipes()
        with suppress(BrokenPipeError):
            stdin.write(".quit\n")
            stdin.close()
        self._process.wait(BOUND_S)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(BOUND_S)
        for pipe in self._pipes():
            with suppress(BrokenPipeError):
                pipe.close()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


class OpenShell(Outsider):
    """A shell that stays open, whatever happens to the server."""

    def __init__(self, name: str, steps: int, shell: Shell) -> None:
        super().__init__(name, steps)
        self._shell = shell

    async def leave(self) -> None:
        """`.quit`."""
        await asyncio.to_thread(self._shell.quit)
        self._shell.kill()

    async def kill(self) -> None:
        """SIGKILL."""
        await asyncio.to_thread(self._shell.kill)


class Checkpointer(Outsider):
    """It checkpoints again and again, over all restarts."""

    def __init__(self, steps: int, shell: Shell, statement: str) -> None:
        super().__init__(f"an outside connection with {statement}", steps)
        self._shell = shell
        self._statement = statement
        self._checkpoints = 0
        self._leaving = asyncio.Event()
        self._task = asyncio.create_task(self._checkpoint())

    async def _checkpoint(self) -> None:
        while not self._leaving.is_set():
            await asyncio.to_thread(self._shell.run, self._statement)
            self._checkpoints += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), CHECKPOINT_EVERY_S)

    async def do_its_work(self) -> None:
        """One checkpoint that was begun from now on."""
        enough = self._checkpoints + 2
        for _ in range(int(BOUND_S / POLL_S)):
            if self._checkpoints >= enough or self._task.done():
                return
            await asyncio.sleep(POLL_S)

    async def leave(self) -> None:
        """It stops, and closes the file."""
        self._leaving.set()
        await self._task
        await asyncio.to_thread(self._shell.quit)
        self._shell.kill()

    async def kill(self) -> None:
        """SIGKILL."""
        self._leaving.set()
        self._shell.kill()
        with suppress(BrokenPipeError, ValueError):
            await self._task


async def idle_shell(stage: Stage, dice: Random) -> None:
    """A shell has read once, and stays open."""
    shell = await _opened(stage, READ)
    stage.outsiders.append(OpenShell("a shell that has read once", dice.randint(*STAY_STEPS), shell))


async def long_read(stage: Stage, dice: Random) -> None:
    """A shell stays in a read transaction: nothing that it can see may be checkpointed away."""
    shell = await _opened(stage, f"BEGIN; {READ}")
    stage.outsiders.append(OpenShell("a shell in a read transaction", dice.randint(*STAY_STEPS), shell))


async def checkpointer(stage: Stage, dice: Random) -> None:
    """Another program checkpoints, as Litestream does each second."""
    statement = dice.choice(CHECKPOINTS)
    shell = await _opened(stage, statement)
    stage.outsiders.append(Checkpointer(dice.randint(*STAY_STEPS), shell, statement))


async def restart_under_a_shell(stage: Stage, dice: Random) -> None:
    """A shell has read before a restart, and quits, as the last one that closes the file, after the next stop."""
    shell = await _opened(stage, READ)
    try:
        await _with_a_long_log(stage, shell)
        [server] = stage.servers
        await stage.stop(server, kill=dice.random() < 0.5)
        await stage.start(server)
        await stage.until_answered(CHANGES)
        await stage.stop(server, kill=dice.random() < 0.5)
        await asyncio.to_thread(shell.quit)
        await stage.start(server)
    finally:
        shell.kill()


async def restart_under_a_checkpointer(stage: Stage, dice: Random) -> None:
    """Another program has checkpointed before a restart, and goes on with that after it."""
    shell = await _opened(stage, READ)
    try:
        await _with_a_long_log(stage, shell)
        [server] = stage.servers
        await stage.stop(server, kill=dice.random() < 0.5)
        await stage.start(server)
        for _ in range(3):
            await stage.until_answered(CHANGES // 2)
            await asyncio.to_thread(shell.run, "PRAGMA wal_checkpoint(PASSIVE);")
        await stage.until_answered(CHANGES)
        await asyncio.to_thread(shell.quit)
    finally:
        shell.kill()


async def _with_a_long_log(stage: Stage, shell: Shell) -> None:
    """The log is as it usually is: begun again from its start, and longer than what has been written since."""
    await stage.until_answered(CHANGES)
    await asyncio.to_thread(shell.run, ".timeout 20000")
    await asyncio.to_thread(shell.run, "PRAGMA wal_checkpoint(RESTART);")
    await stage.until_answered(CHANGES // 10)


async def lock_for_a_while(stage: Stage, dice: Random) -> None:
    """Another program holds the lock for writing: the server has to wait, and to go on afterwards."""
    shell = await _opened(stage, ".timeout 20000")
    try:
        said = await asyncio.to_thread(shell.run, "BEGIN IMMEDIATE;")
        assert not said, said
        await asyncio.sleep(dice.uniform(0.5, 4.0))
        await asyncio.to_thread(shell.run, "ROLLBACK;")
        await asyncio.to_thread(shell.quit)
    finally:
        shell.kill()


async def _opened(stage: Stage, statement: str) -> Shell:
    shell = Shell(stage.file)
    said = await asyncio.to_thread(shell.run, statement)
    if any("error" in line.lower() for line in said):
        await asyncio.to_thread(shell.kill)
        raise Violation(f"another program opens the data file and is told: {said[0]}")
    return shell


async def backup(stage: Stage, _: Random) -> None:
    """`.backup` while clients work."""
    await copy_data(stage, ".backup")


async def vacuum_into(stage: Stage, _: Random) -> None:
    """`VACUUM INTO` while clients work."""
    await copy_data(stage, "VACUUM INTO")


async def copy_data(stage: Stage, how: str) -> Backup:
    """Makes a copy that is whole, and has all that was acknowledged before. The judge reads its journal later."""
    copy = Backup(
        stage.fresh_path("copy.db"),
        how,
        {place.fleet: writer.revision for place, writer in zip(stage.load.places, stage.load.writers, strict=True)},
    )
    shell = await _opened(stage, ".timeout 20000")
    statement = f".backup '{copy.path}'" if how == ".backup" else f"VACUUM INTO '{copy.path}';"
    try:
        async with asyncio.timeout(COPY_BOUND_S):
            said = await asyncio.to_thread(shell.run, statement)
    except TimeoutError:
        raise Violation(f"{how} does not end within {COPY_BOUND_S:.0f} s") from None
    finally:
        await asyncio.to_thread(shell.kill)
    if said:
        raise Violation(f"{how} of the data file under load says {said[0]}")
    check_file(copy.path, f"the copy by {how}")
    stage.backups.append(copy)
    return copy


def check_file(path: Path, what: str) -> None:
    """`PRAGMA integrity_check`. Raises Violation."""
    shell = Shell(path)
    try:
        said = shell.run("PRAGMA integrity_check;")
    finally:
        shell.kill()
    if said != ["ok"]:
        raise Violation(f"integrity_check of {what} says {said[:3]}")


OUTSIDERS: Final = (
    Disturbance("idle outside shell", "outside", 2, idle_shell),
    Disturbance("outside checkpointer", "outside", 2, checkpointer),
    Disturbance("outside read transaction", "outside", 1, long_read),
    Disturbance("restart under a shell", "outside", 1, restart_under_a_shell),
    Disturbance("restart under a checkpointer", "outside", 1, restart_under_a_checkpointer),
    Disturbance("outside lock", "outside", 1, lock_for_a_while),
    Disturbance(".backup", "outside", 1, backup),
    Disturbance("VACUUM INTO", "outside", 1, vacuum_into),
)
