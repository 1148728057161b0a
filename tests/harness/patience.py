"""Waiting for something that happens by itself, bounded."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

TRIES: Final = 3000
PAUSE_S: Final = 0.01


async def eventually(check: Callable[[], Awaitable[bool]], what: str) -> None:
    """Returns once `check` says so; fails with `what` after half a minute of asking."""
    for _ in range(TRIES):
        if await check():
            return
        await asyncio.sleep(PAUSE_S)
    raise AssertionError(f"it never happened that {what}")


def until(check: Callable[[], bool], what: str) -> None:
    """As `eventually`, for who has no event loop."""
    for _ in range(TRIES):
        if check():
            return
        time.sleep(PAUSE_S)
    raise AssertionError(f"it never happened that {what}")
