"""A second server is started on the data of one that runs, by every way that leads to the file. It must be refused.

One that gets in is asked for blocks: each that it grants may be held already.
"""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import Final

from blockyard import AsyncClient, BlockyardError
from tests.chaos.disturbances import Disturbance, Skipped, Violation
from tests.chaos.stage import SETTINGS, Stage
from tests.harness.process import ServerProcess, StartFailed

TRIES: Final = 20
TIMEOUT_S: Final = 3.0


async def must_be_refused(stage: Stage, data: Path, way: str) -> None:
    """Raises Violation if a second server serves."""
    with ServerProcess(stage.fresh_path("second"), data=data, **SETTINGS) as second:
        second.program = stage.servers[0].program
        try:
            await asyncio.to_thread(second.start)
        except StartFailed:
            return
        granted = await _ask_for_blocks(stage, second.address)
    raise Violation(f"a second server got in {way}, and granted {granted} of {TRIES} acquires")


async def _ask_for_blocks(stage: Stage, address: str) -> int:
    """How many acquires the second server grants, while the first one serves."""
    granted = 0
    async with AsyncClient(address, timeout_s=TIMEOUT_S) as client:
        for number in range(TRIES):
            try:
                place = stage.load.places[number % len(stage.load.places)]
                await client.acquire(place.fleet, blocks=1, holder="of the second server")
            except BlockyardError:
                continue  # such as for want of room: one grant is enough
            else:
                granted += 1
    return granted


async def same_path(stage: Stage, _: Random) -> None:
    """By the same name."""
    await must_be_refused(stage, stage.file, "by the same path")


async def symbolic_link(stage: Stage, _: Random) -> None:
    """By a symbolic link."""
    link = stage.fresh_path("symbolic.db")
    link.symlink_to(stage.file)
    await must_be_refused(stage, link, "by a symbolic link")


async def hard_link(stage: Stage, _: Random) -> None:
    """By a hard link that is made while the first server runs."""
    link = stage.file.with_name("link.db")
    os.link(stage.file, link)
    try:
        await must_be_refused(stage, link, "by a hard link")
    finally:
        for left in stage.file.parent.glob("link.db*"):
            left.unlink()


async def bind_mount(stage: Stage, _: Random) -> None:
    """By a bind mount of the single file, as `docker run -v FILE:FILE` makes one."""
    if os.name != "posix" or os.geteuid() != 0 or not shutil.which("mount"):
        raise Skipped("only root can make a bind mount")
    place = stage.fresh_path("mounted") / "blockyard.db"
    _mount(stage.file, place)
    try:
        await must_be_refused(stage, place, "by a bind mount of the file")
    finally:
        await asyncio.to_thread(subprocess.run, ["umount", "--lazy", str(place)], check=True)


def _mount(file: Path, place: Path) -> None:
    place.parent.mkdir()
    place.touch()
    mounted = subprocess.run(["mount", "--bind", str(file), str(place)], capture_output=True, check=False)
    if mounted.returncode:
        raise Skipped(f"there is no bind mount here: {mounted.stderr.decode().strip()}")


async def lock_file_removed(stage: Stage, _: Random) -> None:
    """After the lock files beside the data were removed, as somebody does who thinks them stale."""
    for lock in stage.file.parent.glob("*.lock"):
        lock.unlink()
    await must_be_refused(stage, stage.file, "after the lock file was removed")


SECOND_SERVERS: Final = (
    Disturbance("second server, same path", "second servers", 1, same_path),
    Disturbance("second server, symbolic link", "second servers", 1, symbolic_link),
    Disturbance("second server, hard link", "second servers", 1, hard_link),
    Disturbance("second server, bind mount", "second servers", 1, bind_mount),
    Disturbance("second server, lock file removed", "second servers", 1, lock_file_removed),
)
