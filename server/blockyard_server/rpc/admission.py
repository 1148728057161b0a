"""Which calls are begun: none of a draining server, none too many, and none that cannot be answered in time.

Outside of `error_answers`, because a stream keeps its place until its end has reached the client.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import grpc

from blockyard_server.engine.failures import Overloaded, ShuttingDown
from blockyard_server.rpc.auth.principal import principal_so_far
from blockyard_server.rpc.errors import encode_abort
from blockyard_server.rpc.interceptors import Context, Handler, Method
from blockyard_server.rpc.load_shedding import MIN_UNDER_WAY, RecentLatency


class StreamPool:
    """The places of streams of one kind."""

    def __init__(
        self,
        most: int,
        *,
        per_connection: int | None = None,
        per_principal: int | None = None,
        dispensable: bool = False,
    ) -> None:
        """`most` may be open at once, and of these `per_connection` on one connection; None: as many as on all.

        `per_principal`: as many may be open of one known principal, on all its connections.

        `dispensable`: one more is answered UNIMPLEMENTED, by which a client of the health service knows to go on
        without a watch; with any other answer it would take the server for one that does not serve.
        """
        self._most = self._free = most
        self._per_connection = most if per_connection is None else per_connection
        self._per_principal = most if per_principal is None else per_principal
        self._dispensable = dispensable
        self._by_connection: Counter[str] = Counter()
        self._by_principal: Counter[str] = Counter()

    def connections(self) -> list[str]:
        """Those that have a stream here. From any thread."""
        return list(self._by_connection)

    def take(self, connection: str, principal: str | None = None) -> bool:
        """Whether there was a place; `give_back` it. `principal` is None without an auth file."""
        if (
            self._free <= 0
            or self._by_connection[connection] >= self._per_connection
            or (principal is not None and self._by_principal[principal] >= self._per_principal)
        ):
            return False
        self._free -= 1
        self._by_connection[connection] += 1
        if principal is not None:
            self._by_principal[principal] += 1
        return True

    def give_back(self, connection: str, principal: str | None = None) -> None:
        """The stream has ended."""
        self._free += 1
        _less(self._by_connection, connection)
        if principal is not None:
            _less(self._by_principal, principal)

    async def refuse(self, context: Context) -> None:
        """Ends a stream for which there is no place."""
        if self._dispensable:
            message = "as many of these streams are open as this server accepts; go on without one"
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, message)
        each = f", {self._per_principal} of one principal" if self._per_principal < self._most else ""
        message = (
            f"as many streams of this kind are open as this server accepts, {self._most} in all{each}; nothing was "
            "done, try again when one has ended"
        )
        await _refuse(context, Overloaded(message, maximum=self._most))


def _principal_of(context: Context) -> str | None:
    """What tells one principal from another; None without an auth file."""
    principal = principal_so_far()
    if principal is None:
        # By its certificate, which is looked at later.
        return repr(cast("Any", context.auth_context()).get("x509_pem_cert"))
    return principal.name if principal.is_known else None


class Admission:
    """At most so many calls, and as many streams, are under way at once. For one event loop.

    Streams have places of their own, since a stream may stay open for as long as its client lives. Those of one service
    take none of another's: a client that opens health watches must not keep others from following a fleet.
    """

    def __init__(self, max_concurrent: int, pools: Mapping[str, StreamPool] | None = None) -> None:
        """`pools` has those of services, by full name; the streams of all others share `max_concurrent` places."""
        self._max_concurrent = self._free = max_concurrent
        self._pools = dict(pools or {})
        self._other_streams = StreamPool(max_concurrent)
        self._refuses_streams = False
        self._refuses_calls = False
        self._arrived = 0
        """Calls that gRPC has handed over so far."""

    @property
    def connections(self) -> int:
        """How many connections have an open stream. From any thread."""
        pools = {*self._pools.values(), self._other_streams}
        return len({connection for pool in pools for connection in pool.connections()})

    def note_arrival(self) -> None:
        """GRPC has handed over one more call."""
        self._arrived += 1

    def refuse_streams(self) -> None:
        """New streams are refused with SHUTTING_DOWN from now on."""
        self._refuses_streams = True

    async def refuse_until_quiet(self, quiet_s: float, most_s: float, until_s: float) -> None:
        """Refuses new calls with SHUTTING_DOWN from now on; returns once none came for `quiet_s`, or after `most_s`.

        What still waits in grpc's own queue when it stops is cancelled without a word, and its client could not tell
        that from a call that was carried out. A busy event loop has not looked at what waits there: such a time counts
        for neither, but at `until_s` of the event loop's time it is over.
        """
        self._refuses_calls = True
        loop = asyncio.get_running_loop()
        waited_s = 0.0
        while waited_s < most_s and loop.time() < until_s:
            before, began_s = self._arrived, loop.time()
            await asyncio.sleep(quiet_s)
            if loop.time() - began_s > 2 * quiet_s:
                continue
            if self._arrived == before:
                return
            waited_s += quiet_s

    def intercept(self, method: Method, proceed: Handler) -> Handler:
        """As `Interceptor` says."""
        if not method.streams:
            return self._call(method, proceed)
        return self._stream(self._pools.get(method.service, self._other_streams), proceed)

    def _call(self, method: Method, proceed: Handler) -> Handler:
        latency = RecentLatency()
        serve_while_draining = method.serve_while_draining

        async def admitted(incoming: Any, context: Context) -> Any:
            if self._refuses_calls and not serve_while_draining:
                await _refuse(context, _stopping())
            if self._free <= 0:
                await _refuse(context, _too_many(self._max_concurrent))
            others = self._max_concurrent - self._free
            if not serve_while_draining and latency.is_too_late(context.time_remaining(), others):
                await _refuse(context, _too_late(others))
            self._free -= 1
            began_s = time.monotonic()
            try:
                answer = await proceed(incoming, context)
            finally:
                self._free += 1
            latency.note(time.monotonic() - began_s)
            return answer

        return admitted

    def _stream(self, pool: StreamPool, proceed: Handler) -> Handler:
        async def admitted(incoming: Any, context: Context) -> None:
            if self._refuses_streams:
                await _refuse(context, _stopping())
            connection, principal = context.peer(), _principal_of(context)
            if not pool.take(connection, principal):
                await pool.refuse(context)
            try:
                await proceed(incoming, context)
            finally:
                pool.give_back(connection, principal)

        return admitted


def _less(counts: Counter[str], key: str) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


async def _refuse(context: Context, failure: Overloaded | ShuttingDown) -> None:
    await context.abort(*encode_abort(failure))


def _stopping() -> ShuttingDown:
    return ShuttingDown("the server is stopping; try again")


def _too_many(most: int) -> Overloaded:
    message = f"{most} calls are under way, the most that this server accepts; nothing was done, try again"
    return Overloaded(message, maximum=most)


def _too_late(others: int) -> Overloaded:
    message = (
        f"{others} calls are under way, and this one could not be answered before its deadline; nothing was done, try "
        "again later, or with more time"
    )
    return Overloaded(message, maximum=MIN_UNDER_WAY)
