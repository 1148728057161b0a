"""The data file is removed, renamed away or replaced while its server runs; then it is put back.

What is promised: the server notices within a second, acknowledges nothing more, and its health is NOT_SERVING (or its
process ends). Nothing that works on the file makes another one in its place. Once the file is back in its place and the
server is started again, everything that was acknowledged is there.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from tests.chaos.disturbances import Disturbance, Violation
from tests.chaos.outsiders import copy_data
from tests.chaos.stage import POLL_S, Stage, health

NOTICED_S: Final = 10.0
"""Ten times what is promised, for a machine that is busy."""
QUIET_S: Final = 1.0
"""No acknowledgement for so long, together with what health says, is one that has noticed."""


class MovedFiles:
    """The files of a database, out of their places. They stay the same files, so that nothing is lost with them."""

    def __init__(self, stage: Stage, suffixes: Sequence[str]) -> None:
        self.aside = stage.file.with_name(f"aside-{time.monotonic_ns()}")
        self.aside.mkdir()
        self._places = [stage.file.with_name(stage.file.name + suffix) for suffix in suffixes]
        self._away = [place for place in self._places if place.exists()]

    def rename_away(self) -> None:
        """As `mv` does."""
        for place in self._away:
            place.rename(self.aside / place.name)

    def remove(self) -> None:
        """As `rm` does; a second name that was made just before keeps what it removes."""
        for place in self._away:
            os.link(place, self.aside / place.name)
            place.unlink()

    def exist_again(self) -> list[str]:
        """What is in their places now."""
        return [place.name for place in self._away if place.exists()]

    def put_back(self) -> None:
        """Everything is as it was; what was made in their places goes."""
        for place in self._away:
            (self.aside / place.name).replace(place)
        self.aside.rmdir()


def suffixes(dice: Random) -> tuple[str, ...]:
    """The database alone, or all of its files."""
    return dice.choice((("",), ("", "-wal", "-shm")))


async def removed(stage: Stage, dice: Random) -> None:
    """`rm`."""
    files = MovedFiles(stage, suffixes(dice))
    await watch_it_notice(stage, dice, files, files.remove, "removed")


async def renamed(stage: Stage, dice: Random) -> None:
    """`mv` to another folder."""
    files = MovedFiles(stage, suffixes(dice))
    await watch_it_notice(stage, dice, files, files.rename_away, "renamed away")


async def replaced_by_a_copy(stage: Stage, dice: Random) -> None:
    """An older copy is put in the file's place, as a restore does that nobody has stopped the server for."""
    copy = await copy_data(stage, "VACUUM INTO")
    await asyncio.sleep(dice.uniform(0.2, 0.6))
    await _replaced(stage, dice, copy.path.read_bytes(), "replaced by an older copy")


async def replaced_by_something(stage: Stage, dice: Random) -> None:
    """A file that is no database is put in the file's place."""
    await _replaced(stage, dice, b"This is something else.\n" * 4000, "replaced by another file")


async def _replaced(stage: Stage, dice: Random, content: bytes, what: str) -> None:
    files = MovedFiles(stage, suffixes(dice))
    other = stage.file.with_name("other")
    other.write_bytes(content)

    def replace() -> None:
        files.rename_away()
        other.rename(stage.file)

    await watch_it_notice(stage, dice, files, replace, what, stays_empty=False)


async def watch_it_notice(
    stage: Stage,
    dice: Random,
    files: MovedFiles,
    change: Callable[[], None],
    what: str,
    *,
    stays_empty: bool = True,
    bound_s: float = NOTICED_S,
) -> None:
    """Changes the files, and puts them back once the server has noticed. Raises Violation if it does not."""
    [server] = stage.servers
    await stage.until_answered()
    change()
    try:
        await _until_noticed(stage, what, bound_s)
        if stays_empty and files.exist_again():
            raise Violation(f"something has made {files.exist_again()} after the data file was {what}")
        await stage.stop(server, kill=dice.random() < 0.5)
        if stays_empty and files.exist_again():
            raise Violation(f"a stop has made {files.exist_again()} after the data file was {what}")
    finally:
        await stage.stop(server, kill=True)
        files.put_back()
    await stage.start(server)


async def _until_noticed(stage: Stage, what: str, bound_s: float) -> None:
    """Returns once nothing is acknowledged any more, and health says so or the process has ended."""
    [server] = stage.servers
    begun = quiet_since = time.monotonic()
    before = last = stage.load.acknowledged
    while True:
        state = await health(server.address) if server.runs else "ended"
        now = time.monotonic()
        if stage.load.acknowledged > last:
            last, quiet_since = stage.load.acknowledged, now
        if state != "SERVING" and now - quiet_since >= QUIET_S:
            return
        if now - begun > bound_s:
            raise Violation(
                f"{now - begun:.0f} s after the data file was {what}, health says {state}, and"
                f" {last - before} changes have been acknowledged since"
            )
        await asyncio.sleep(POLL_S)


FILES: Final = (
    Disturbance("data file removed", "files", 1, removed),
    Disturbance("data file renamed away", "files", 1, renamed),
    Disturbance("data file replaced by an older copy", "files", 1, replaced_by_a_copy),
    Disturbance("data file replaced by another file", "files", 1, replaced_by_something),
)
