"""A disk that is full for a while."""

import asyncio
import errno
from io import FileIO
from random import Random
from typing import Final

from tests.chaos.disturbances import Disturbance, Skipped
from tests.chaos.stage import Stage

PIECE: Final = b"\0" * 65_536


async def full_disk(stage: Stage, dice: Random) -> None:
    """Something else takes the last byte; the server may be killed meanwhile. Then there is room again."""
    if not stage.small_disk:
        raise Skipped("only root can make a small file system that can be filled")
    junk = stage.file.with_name("junk")
    try:
        await asyncio.to_thread(_fill, junk.open("wb", buffering=0))
        await asyncio.sleep(dice.uniform(0.5, 2.0))
        if dice.random() < 0.5:
            await stage.stop(stage.servers[0], kill=True)
    finally:
        junk.unlink()
    await stage.recover()


def _fill(file: FileIO) -> None:
    """Until nothing more has room, to the last byte."""
    with file:
        for size in (len(PIECE), 4096, 1):
            try:
                while True:
                    file.write(PIECE[:size])
            except OSError as full:
                if full.errno != errno.ENOSPC:
                    raise


DISKS: Final = (Disturbance("full disk", "disks", 1, full_disk),)
