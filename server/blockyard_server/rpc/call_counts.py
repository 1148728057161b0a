"""Counts calls: how many were answered with which status and why, how many are under way, and how long they took."""

import asyncio
import time
from collections import Counter
from typing import Any, Final

import grpc

from blockyard_server.engine.counts import CALL_BOUNDS_S, Durations
from blockyard_server.rpc.call import Call, begin
from blockyard_server.rpc.interceptors import Context, Handler, Method

_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}
OK: Final = grpc.StatusCode.OK.name
CANCELLED: Final = grpc.StatusCode.CANCELLED.name
NO_REQUEST: Final = "request"
NOT_TAKEN: Final = "answer"


class _Counted:
    """The numbers of one method. Attributes, because each call changes three of them."""

    __slots__ = ("durations", "ok", "under_way")

    def __init__(self) -> None:
        self.ok = 0
        self.under_way = 0
        self.durations = Durations(CALL_BOUNDS_S)


class CallCounts:
    """Plain numbers, by method: the registered ones alone, so that what is shown has a bound."""

    def __init__(self) -> None:
        self._by_path: dict[str, _Counted] = {}
        self._failed: Counter[tuple[str, str, str]] = Counter()
        self.durations: dict[str, Durations] = {}
        """Of calls with one answer."""
        self.given_up: Counter[str] = Counter({NO_REQUEST: 0, NOT_TAKEN: 0})
        """Calls that were ended because their client did not send its request, or did not take the answer."""

    @property
    def under_way(self) -> Counter[str]:
        """By path."""
        return Counter({path: counted.under_way for path, counted in self._by_path.items()})

    @property
    def ended(self) -> Counter[tuple[str, str, str]]:
        """By path, status and the error's reason, which is empty if there is none. From any thread.

        CANCELLED: the client, or its deadline, did not wait for the answer.
        """
        well = {(path, OK, ""): counted.ok for path, counted in self._by_path.items() if counted.ok}
        return Counter({**well, **self._failed})

    @property
    def answered(self) -> Counter[tuple[str, str]]:
        """Those that have ended, by path and status."""
        answered: Counter[tuple[str, str]] = Counter()
        for (path, status, _), number in self.ended.items():
            answered[path, status] += number
        return answered

    def intercept(self, method: Method, proceed: Handler) -> Handler:
        """As `Interceptor` says. It begins the call's `Call`."""
        path, failed, monotonic_s = method.path, self._failed, time.monotonic
        counted = self._by_path[path] = _Counted()
        note_duration = counted.durations.add
        if not method.streams:
            self.durations[path] = counted.durations

        async def carried_out(incoming: Any, context: Context) -> Any:
            counted.under_way += 1
            call = Call()
            begin(call)
            began_s = monotonic_s()
            try:
                answer = await proceed(incoming, context)
            except asyncio.CancelledError:
                failed[path, CANCELLED, ""] += 1
                raise
            except BaseException:
                failed[path, _NAMES.get(_number(context.code()), "UNKNOWN"), call.reason] += 1
                raise
            else:
                counted.ok += 1
                return answer
            finally:
                counted.under_way -= 1
                note_duration(monotonic_s() - began_s)

        return carried_out


def _number(code: Any) -> int:
    """grpc.aio answers a number, and its types say a StatusCode."""
    return code.value[0] if isinstance(code, grpc.StatusCode) else int(code or 0)
