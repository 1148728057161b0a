"""Long work of a call, in slices: other calls have their turn in between, and one call of each tenant is at it.

A batch of a thousand operations takes several milliseconds to decode, and ten if all are refused. Twelve of them at
once would have twelve slices for each step of somebody else's call, and such a call has about ten steps.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, TypeVar
from weakref import WeakValueDictionary

OPERATIONS_AT_ONCE: Final = 32
"""A slice; what has no more than that is done at once."""

T = TypeVar("T")


class Slices:
    """For one event loop."""

    def __init__(self) -> None:
        self._at_it: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By tenant; it goes with the last call that has it."""

    async def run(self, work: Iterable[T], length: int, tenant: str) -> list[T]:
        """All that `work` gives, about so many."""
        if length <= OPERATIONS_AT_ONCE:
            return list(work)
        lock = self._at_it.get(tenant)
        if lock is None:
            lock = self._at_it[tenant] = asyncio.Lock()
        done = []
        async with lock:
            for number, one in enumerate(work, start=1):
                done.append(one)
                if number % OPERATIONS_AT_ONCE == 0:
                    await asyncio.sleep(0)
        return done
