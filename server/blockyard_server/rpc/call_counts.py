"""Counts calls: how many were answered with which status, how many are under way, and how long they took."""

import asyncio
import time
from collections import Counter
from typing import Any, Final

import grpc

from blockyard_server.engine.counts import Durations
from blockyard_server.rpc.interceptors import Context, Handler, Method

CALL_BOUNDS_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the ranges in which the durations of calls are counted."""
_NAMES: Final = {code.value[0]: code.name for code in grpc.StatusCode}
CANCELLED: Final = grpc.StatusCode.CANCELLED.name
NO_REQUEST: Final = "request"
NOT_TAKEN: Final = "answer"


class CallCounts:
    """Plain numbers, by method: the registered ones alone, so that what is shown has a bound."""

    def __init__(self) -> None:
        self.answered: Counter[tuple[str, str]] = Counter()
        """By path and status. CANCELLED: the client, or its deadline, did not wait for the answer."""
        self.under_way: Counter[str] = Counter()
        self.durations: dict[str, Durations] = {}
        """Of calls with one answer."""
        self.given_up: Counter[str] = Counter({NO_REQUEST: 0, NOT_TAKEN: 0})
        """Calls that were ended because their client did not send its request, or did not take the answer."""

    def intercept(self, method: Method, proceed: Handler) -> Handler:
        """As `Interceptor` says."""
        path, answered, under_way = method.path, self.answered, self.under_way
        under_way[path] = 0
        durations = Durations(CALL_BOUNDS_S)
        if not method.streams:
            self.durations[path] = durations

        async def counted(incoming: Any, context: Context) -> Any:
            under_way[path] += 1
            began_s = time.monotonic()
            status = CANCELLED
            try:
                answer = await proceed(incoming, context)
            except asyncio.CancelledError:
                raise
            except BaseException:
                status = _NAMES.get(_number(context.code()), "UNKNOWN")
                raise
            else:
                status = "OK"
                return answer
            finally:
                under_way[path] -= 1
                answered[path, status] += 1
                durations.add(time.monotonic() - began_s)

        return counted


def _number(code: Any) -> int:
    """grpc.aio answers a number, and its types say a StatusCode."""
    return code.value[0] if isinstance(code, grpc.StatusCode) else int(code or 0)
