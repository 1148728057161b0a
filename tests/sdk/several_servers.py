"""Three servers with one state, what may happen to each, and schedulers at work on them meanwhile."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import Final, Self

from blockyard import AsyncClient, Client, ReleaseOutcome, operations
from tests.harness.proxy import Fault, Proxy
from tests.sdk.conftest import QUICK
from tests.sdk.fake_server import FakeServer, carried_out, serving

SCHEDULERS: Final = 8
BOUND_S: Final = 60.0


class Three:
    """Three fake servers that share what is held, each behind a connection that can be cut. A context manager."""

    def __init__(self) -> None:
        first = FakeServer()
        self.servers = [first, *(FakeServer(held=first.held, cancelled=first.cancelled) for _ in range(2))]
        self.target = ""
        self._proxies: list[Proxy] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for server in self.servers:
            self._stack.enter_context(serving(server))
            proxy = carried_out(Proxy(server.target).__aenter__())
            self._stack.callback(_close, proxy)
            self._proxies.append(proxy)
        self.target = ",".join(proxy.address for proxy in self._proxies)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill(self, number: int) -> None:
        """As when the process is killed: its connections are reset, whatever is under way, and no new one is had."""

        async def cut(proxy: Proxy) -> None:
            proxy.inject(Fault.REFUSE)
            proxy.sever()

        carried_out(cut(self._proxies[number]))

    def bring_back(self, number: int) -> None:
        """It can be connected to again."""

        async def heal(proxy: Proxy) -> None:
            proxy.heal()

        carried_out(heal(self._proxies[number]))

    def calls(self) -> list[int]:
        """How many requests each server has seen."""
        return [len(server.seen) for server in self.servers]


def _close(proxy: Proxy) -> None:
    carried_out(proxy.__aexit__())


class Load:
    """Eight schedulers on one client: each acquires and releases, over and over. A context manager: leaving it stops.

    `kind` is "blocking" or "asyncio"; a call may take so long that no test gets there.
    """

    def __init__(self, kind: str, target: str) -> None:
        self.failures: list[BaseException] = []
        self._target = target
        self._tokens = count()
        self._done = 0
        self._more = threading.Condition()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._block if kind == "blocking" else self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def wait_for_more(self, rounds: int) -> None:
        """Returns when the schedulers have acquired and released so many times more."""
        with self._more:
            until = self._done + rounds
            assert self._more.wait_for(lambda: self._done >= until or self.failures, timeout=BOUND_S)
        assert not self.failures, self.failures

    def _note(self) -> None:
        with self._more:
            self._done += 1
            self._more.notify_all()

    def _note_failure(self, failure: Exception) -> None:
        with self._more:
            self.failures.append(failure)
            self._more.notify_all()

    def _block(self) -> None:
        with (
            Client(self._target, retry=QUICK, timeout_s=BOUND_S) as client,
            ThreadPoolExecutor(SCHEDULERS) as threads,
        ):
            for _ in range(SCHEDULERS):
                threads.submit(self._schedule, client)

    def _schedule(self, client: Client) -> None:
        try:
            while not self._over.is_set():
                token = f"t-{next(self._tokens)}"
                client.call(operations.acquire("gpu", holder="job", blocks=1, token=token))
                self._check(client.call(operations.release_by_token("gpu", token)).outcome)
                self._note()
        except Exception as failure:  # noqa: BLE001 - the test's own thread wants to know whatever it is
            self._note_failure(failure)

    def _run(self) -> None:
        asyncio.run(self._await())

    async def _await(self) -> None:
        async with AsyncClient(self._target, retry=QUICK, timeout_s=BOUND_S) as client:
            await asyncio.gather(*(self._schedule_async(client) for _ in range(SCHEDULERS)))

    async def _schedule_async(self, client: AsyncClient) -> None:
        try:
            while not self._over.is_set():
                token = f"t-{next(self._tokens)}"
                await client.call(operations.acquire("gpu", holder="job", blocks=1, token=token))
                self._check((await client.call(operations.release_by_token("gpu", token))).outcome)
                self._note()
        except Exception as failure:  # noqa: BLE001 - the test's own thread wants to know whatever it is
            self._note_failure(failure)

    @staticmethod
    def _check(outcome: ReleaseOutcome) -> None:
        # A release whose answer was lost finds its own effect, which the fake servers tell as a cancellation.
        assert outcome in {ReleaseOutcome.RELEASED, ReleaseOutcome.CANCELLED_BEFORE_GRANT}


def until_each_is_asked(three: Three, step: Callable[[], object], *, most: int = 5000) -> None:
    """Repeats `step` until each server has seen a request: it is connected to all of them."""
    for _ in range(most):
        if all(three.calls()):
            return
        step()
    raise AssertionError(f"a server was never asked: {three.calls()}")


def until_settled(step: Callable[[], object], seen: Callable[[], int], *, quiet: int = 30, most: int = 5000) -> None:
    """Repeats `step` until what `seen` counts has not grown for `quiet` steps."""
    last, still = seen(), 0
    for _ in range(most):
        step()
        still = still + 1 if seen() == last else 0
        last = seen()
        if still == quiet:
            return
    raise AssertionError("it never settled")
