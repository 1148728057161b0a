"""Waiting for something that happens by itself, bounded."""

import asyncio
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
