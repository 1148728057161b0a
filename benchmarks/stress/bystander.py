"""Somebody with little to do on a fleet of their own: what other fleets' load must not disturb."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, Final, Self

from benchmarks.stress.scenario import Figure, percentile
from blockyard import AsyncClient, BlockyardError, Client, OutcomeUnknown, Unavailable

FLEET: Final = "bystander"
PAUSE_S: Final = 0.02
LEASE_TTL_S: Final = 15


class Bystander:
    """Acquires and releases a block of its own fleet, again and again, and holds a lease there. A context manager."""

    def __init__(self, address: str) -> None:
        self._client = Client(address, timeout_s=10)
        self._client.create_fleet(FLEET)
        self._client.create_instance(FLEET, "node", total_blocks=64)
        self._thread = threading.Thread(target=self._work)
        self._ending = threading.Event()
        self.calls_s: list[float] = []
        """How long each call took."""
        self.failures: Counter[str] = Counter()
        self.leases_lost = 0

    def __enter__(self) -> Self:
        self._lease = self._client.lease(FLEET, blocks=1, holder="long job", ttl=LEASE_TTL_S)
        self._lease.on_lost(self._note_loss)
        self._lease.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        try:
            self._lease.__exit__(None, None, None)
        except Exception as failure:  # noqa: BLE001 - a lost lease is a figure here, and no failure of the program
            self.failures[type(failure).__name__] += 1
        self._client.close()

    def forget(self) -> None:
        """What was measured so far is not of interest."""
        self.calls_s.clear()

    def figures(self, at_most_ms: float) -> list[Figure]:
        """What the bystander saw: its calls are to take no longer than this, in 99 of 100 cases."""
        return [
            Figure("another fleet's call, p50", 1000 * percentile(self.calls_s, 0.5), "ms"),
            Figure("another fleet's call, p99", 1000 * percentile(self.calls_s, 0.99), "ms", at_most=at_most_ms),
            Figure("another fleet's calls", len(self.calls_s), "calls", at_least=1, kind="count"),
            Figure("another fleet's failures", self.failures.total(), "", at_most=0, kind="count"),
            Figure("another fleet's leases lost", self.leases_lost, "", at_most=0, kind="count"),
        ]

    def _note_loss(self, _reason: object) -> None:
        self.leases_lost += 1

    def _work(self) -> None:
        while not self._ending.is_set():
            try:
                granted = self._timed(self._client.acquire, FLEET, blocks=1, holder="short job", ttl=60)
                self._timed(self._client.release, granted.allocation)
            except BlockyardError as failure:
                self.failures[type(failure).__name__] += 1
            self._ending.wait(PAUSE_S)

    def _timed(self, call: Callable[..., Any], *arguments: object, **named: object) -> Any:
        began_s = time.monotonic()
        try:
            return call(*arguments, **named)
        finally:
            self.calls_s.append(time.monotonic() - began_s)


@contextmanager
def another_process() -> Iterator[ProcessPoolExecutor]:
    """A process for the load, so that it does not take the bystander's interpreter."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def acquire_together(address: str, fleet: str, calls: int, blocks: int, instances: int, patience_s: float) -> int:
    """So many Acquires at once, each asked for again with its token until it is granted or `patience_s` are over.

    Answers how many were granted.
    """

    async def one(client: AsyncClient, number: int, until_s: float) -> bool:
        while time.monotonic() < until_s:
            try:
                holder = f"job-{number}"
                await client.acquire(fleet, blocks=blocks, instances=instances, holder=holder, token=f"{holder}-token")
            except (Unavailable, OutcomeUnknown):
                continue
            return True
        return False

    async def together() -> int:
        until_s = time.monotonic() + patience_s
        async with AsyncClient(address, timeout_s=10) as client:
            return sum(await asyncio.gather(*(one(client, number, until_s) for number in range(calls))))

    return asyncio.run(together())
