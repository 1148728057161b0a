"""Servers stop, die, stand still, and start with a clock that is wrong: on either database."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Final

from tests.chaos.disturbances import Disturbance
from tests.chaos.stage import Stage
from tests.harness.process import ServerProcess

HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S
HOURS_OFF_S: Final = (HOUR_S, -HOUR_S, 9 * HOUR_S)
DAYS_BEHIND_S: Final = (-2 * DAY_S, -40 * DAY_S)
DAYS_AHEAD_S: Final = (10 * DAY_S, 40 * DAY_S)
"""Beyond what a server remembers by default: ended allocations for 7 days, the journal for 30."""


async def restart(stage: Stage, dice: Random, *, kill: bool, clock_s: int = 0) -> None:
    """One server stops and starts. In between, another program that has the data open may end."""
    server = dice.choice(stage.servers)
    await stage.stop(server, kill=kill)
    if stage.outsiders and dice.random() < 0.4:
        await stage.dismiss(dice.choice(stage.outsiders))
    await asyncio.sleep(dice.uniform(0, 0.3))
    await stage.start(server, clock_s=clock_s)


async def drain(stage: Stage, dice: Random) -> None:
    """SIGTERM, and a start."""
    await restart(stage, dice, kill=False)


async def kill(stage: Stage, dice: Random) -> None:
    """SIGKILL, and a start."""
    await restart(stage, dice, kill=True)


async def kill_during_start(stage: Stage, dice: Random) -> None:
    """SIGKILL, and a second SIGKILL at some moment of the start."""
    server = dice.choice(stage.servers)
    await stage.stop(server, kill=True)
    server.launch()
    await asyncio.sleep(dice.uniform(0.1, 1.5))
    await stage.stop(server, kill=True)
    await stage.start(server)


async def freeze(stage: Stage, dice: Random) -> None:
    """SIGSTOP for a while, and SIGCONT: longer than some leases."""
    server: ServerProcess = dice.choice(stage.servers)
    server.freeze()
    try:
        await asyncio.sleep(dice.uniform(0.3, 3.0))
    finally:
        server.thaw()


def wrong_clock(shifts_s: Sequence[int]) -> Callable[[Stage, Random], Awaitable[None]]:
    """A server starts with a wall clock that is wrong by one of these, and works so for a while.

    The next start has the right clock again.
    """

    async def happen(stage: Stage, dice: Random) -> None:
        shift_s = dice.choice(shifts_s)
        stage.say(f"    the clock is {shift_s / HOUR_S:+.0f} hours off")
        await restart(stage, dice, kill=dice.random() < 0.5, clock_s=shift_s)
        await stage.until_answered()
        await asyncio.sleep(dice.uniform(0.3, 1.0))

    return happen


RESTARTS: Final = (
    Disturbance("drain", "restarts", 2, drain),
    Disturbance("kill -9", "restarts", 2, kill),
    Disturbance("kill -9 during the start", "restarts", 1, kill_during_start),
    Disturbance("SIGSTOP and SIGCONT", "restarts", 1, freeze),
    Disturbance("clock hours off", "clocks", 1, wrong_clock(HOURS_OFF_S)),
    Disturbance("clock days behind", "clocks", 1, wrong_clock(DAYS_BEHIND_S)),
    Disturbance("clock days ahead", "clocks", 1, wrong_clock(DAYS_AHEAD_S)),
)
