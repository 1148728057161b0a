"""The real service, as the model check drives it: a server in a thread of its own, on a real file, over real gRPC.

Only its clock is ours: time passes when the test says so.
"""

import asyncio
import shutil
import tempfile
import threading
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message

from blockyard.v1 import allocator_pb2, fleet_admin_pb2, ledger_pb2
from blockyard_server.app import RunningServer, _new_event_loop, running_server
from blockyard_server.engine.clock import ManualClock
from blockyard_server.settings import Settings
from tests.property.plain import Plain, plain, plain_error

GRACE_S: Final = 5.0
"""After a restart no lease ends sooner than this."""
RETENTION_S: Final = 600.0
"""What ended longer ago is forgotten, when the sweeper is told to work."""
JOURNAL_RETENTION_S: Final = 900.0
"""And what happened longer ago, from the journal."""
CALL_TIMEOUT_S: Final = 30.0
"""A call that takes longer has hung."""

T = TypeVar("T")

_PACKAGE: Final = "blockyard.v1"
_SERVICES: Final = [
    service
    for module in (allocator_pb2, fleet_admin_pb2, ledger_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
_METHODS: Final = {
    method.name: (f"/{service.full_name}/{method.name}", message_factory.GetMessageClass(method.output_type))
    for service in _SERVICES
    for method in service.methods
}
"""Every RPC by its name: its path and its answer."""


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = _new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="model-check-server", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine there and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_TIMEOUT_S)

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CALL_TIMEOUT_S)
        self._loop.close()


class Template:
    """An event loop, and an empty data file to begin with: making one takes longer than fifty steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.loop = Loop()
        world = World(self, new_file=True)
        world.close()
        self._file = world.data

    def copy_to(self, data: Path) -> None:
        """Makes an empty data file."""
        shutil.copy(self._file, data)

    def close(self) -> None:
        """Ends the event loop."""
        self.loop.close()


class World:
    """One life of one data file, through any number of servers."""

    def __init__(self, template: Template, *, new_file: bool = False) -> None:
        self.clock = ManualClock()
        self._loop = template.loop
        self._folder = Path(tempfile.mkdtemp(dir=template.folder))
        self.data = self._folder / "blockyard.db"
        if not new_file:
            template.copy_to(self.data)
        self._start()

    def call(self, rpc: str, request: Message, caller: str | None = None) -> tuple[Plain, Plain]:
        """(answer, error): one of them is empty."""
        metadata = () if caller is None else (("blockyard-caller", caller),)
        if rpc not in self._stubs:
            path, answer = _METHODS[rpc]
            self._stubs[rpc] = self._channel.unary_unary(path, type(request).SerializeToString, answer.FromString)
        try:
            return plain(self._stubs[rpc](request, timeout=CALL_TIMEOUT_S, metadata=metadata)), {}
        except grpc.RpcError as error:
            return {}, plain_error(error)

    def restart(self) -> None:
        """Stops the server as SIGTERM would, and starts another one on the same file."""
        self._stop()
        self._start()

    def sweep_round(self) -> None:
        """What the sweeper would do by itself, were the clock not ours. What one round ends, the next may forget."""
        for _ in range(2):
            self._loop.run(self._running.engine._sweeper.round())

    def close(self) -> None:
        """Stops the server."""
        self._stop()

    def remove(self) -> None:
        """Stops the server and removes its file."""
        self._stop()
        shutil.rmtree(self._folder)

    def _start(self) -> None:
        settings = Settings(
            listen="127.0.0.1:0",
            data=self.data,
            readers=1,
            max_linger_s=0,
            sweep_interval_s=3600,
            restart_grace_s=GRACE_S,
            retention_s=RETENTION_S,
            journal_retention_s=JOURNAL_RETENTION_S,
        )
        self._serving: AbstractAsyncContextManager[RunningServer] = running_server(settings, clock=self.clock)
        self._running = self._loop.run(_enter(self._serving))
        self._channel = grpc.insecure_channel(self._running.address)
        self._stubs: dict[str, Any] = {}

    def _stop(self) -> None:
        self._channel.close()
        self._loop.run(_leave(self._serving))


async def _enter(serving: AbstractAsyncContextManager[RunningServer]) -> RunningServer:
    return await serving.__aenter__()


async def _leave(serving: AbstractAsyncContextManager[RunningServer]) -> None:
    await serving.__aexit__(None, None, None)
