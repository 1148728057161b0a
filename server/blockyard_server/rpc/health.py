"""The standard health service (grpc.health.v1), whose watches end when the server drains.

grpc's own servicer keeps every Watch open for ever, and an open stream makes a stop wait out its grace.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2 as pb

from blockyard_server.engine.failures import ShuttingDown

# The published types of health_pb2 do not know List yet.
_list_response: Any = pb.DESCRIPTOR.message_types_by_name["HealthListResponse"]
_ListResponse = message_factory.GetMessageClass(_list_response)

_Context = grpc.aio.ServicerContext[Any, Any]


class Health:
    """One state for the server (service name empty) and for every service that it has."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = ("", *services)
        self._available = True
        self._draining = False
        self._changed = asyncio.Event()

    def drain(self) -> None:
        """NOT_SERVING from now on; every Watch says so and ends."""
        self._draining = True
        self._tell()

    def set_available(self, available: bool) -> None:  # noqa: FBT001 - it sets what it is named after
        """Whether there is a database to serve from: without, NOT_SERVING; every Watch says so, and goes on."""
        self._available = available
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def is_serving(self) -> bool:
        """Whether the server answers SERVING. From any thread."""
        return self._available and not self._draining

    def _status(self) -> pb.HealthCheckResponse:
        serving = pb.HealthCheckResponse.SERVING if self.is_serving else pb.HealthCheckResponse.NOT_SERVING
        return pb.HealthCheckResponse(status=serving)

    async def Check(self, request: pb.HealthCheckRequest, context: _Context) -> pb.HealthCheckResponse:
        """The state now; NOT_FOUND for an unknown service, as the health protocol says."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return self._status()

    async def List(self, _request: Message, _context: _Context) -> Message:
        """The state of every service."""
        return _ListResponse(statuses={service: self._status() for service in self._services})

    async def Watch(self, request: pb.HealthCheckRequest, _context: _Context) -> AsyncIterator[pb.HealthCheckResponse]:
        """The state now and at each change; SERVICE_UNKNOWN for an unknown service."""
        known = request.service in self._services
        said: int | None = None
        while True:
            changed = self._changed
            status = self._status() if known else pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
            if status.status != said:
                said = status.status
                yield status
                continue  # it may have changed while that was sent
            if self._draining:
                raise ShuttingDown("the server is stopping")
            await changed.wait()
