"""The seam of the edge: what is done around each call, as a list of interceptors, for unary and stream alike.

A handler takes what came in and the call's context. One with a single answer returns its bytes, one with a stream of
answers writes them to the context itself: so both have one type, and an interceptor wraps either. The list stands in
`server.py`, the outermost first; it is composed once for each method, when the method is registered (docs/adr/0023).
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Context], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Method:
    """What is known of a method when it is registered."""

    service: str
    """Its full name, such as `blockyard.v1.Allocator`."""
    name: str
    changes: bool = False
    """It changes something: when the server drains it has nearly all of the grace, a read half of it."""
    streams: bool = False
    """It answers with a stream."""
    serve_while_draining: bool = False
    """It is answered even while other new calls are refused."""

    @property
    def path(self) -> str:
        """As it stands in a request."""
        return f"/{self.service}/{self.name}"


class Interceptor(Protocol):
    """Does something before or after each call, or instead of it."""

    def intercept(self, method: Method, proceed: Handler) -> Handler:
        """The handler of a method, around the one that is next in the list. Called once for each method."""
        ...


def compose(method: Method, interceptors: Sequence[Interceptor], handler: Handler) -> Handler:
    """The handler with all interceptors around it, the first of them outermost."""
    for interceptor in reversed(interceptors):
        handler = interceptor.intercept(method, handler)
    return handler
