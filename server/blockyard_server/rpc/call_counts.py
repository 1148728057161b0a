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


class CallCounts:
    """Plain numbers, by method: the registered ones alone, so that what is shown has a bound."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str, str]] = Counter()
        """By path, status and the error's reason, which is empty if there is none.

        CANCELLED: the client, or its deadline, did not wait for the answer.
        """
        self.under_way: Counter[str] = Counter()
        self.durations: dict[str, Durations] = {}
        """Of calls with one answer."""
        self.given_up: Counter[str] = Counter({NO_REQUEST: 0, NOT_TAKEN: 0})
        """Calls that were ended because their client did not send its request, or did not take the answer."""

    @property
    def answered(self) -> Counter[tuple[str, str]]:
        """Those that have ended, by path and status."""
        answered: Counter[tuple[str, str]] = Counter()
        for (path, status, _), number in self.ended.items():
            answered[path, status] += number
        return answered

    def intercept(self, method: Method, proceed: Handler) -> Handler:
        """As `Interceptor` says. It begins the call's `Call`."""
        path, ended, under_way, monotonic_s = method.path, self.ended, self.under_way, time.monotonic
        well = (path, OK, "")
        under_way[path] = 0
        durations = Durations(CALL_BOUNDS_S)
        if not method.streams:
            self.durations[path] = durations

        async def counted(incoming: Any, context: Context) -> Any:
            under_way[path] += 1
            call = Call()
            begin(call)
            began_s = monotonic_s()
            end = (path, CANCELLED, "")
            try:
                answer = await proceed(incoming, context)
            except asyncio.CancelledError:
                raise
            except BaseException:
                end = (path, _NAMES.get(_number(context.code()), "UNKNOWN"), call.reason)
                raise
            else:
                end = well
                return answer
            finally:
                under_way[path] -= 1
                ended[end] += 1
                durations.add(monotonic_s() - began_s)

        return counted


def _number(code: Any) -> int:
    """grpc.aio answers a number, and its types say a StatusCode."""
    return code.value[0] if isinstance(code, grpc.StatusCode) else int(code or 0)
