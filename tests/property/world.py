"""The real service, as the model check drives it: servers in a thread of their own, on a real store, over real gRPC.

Only their clock is ours: time passes when the test says so.
"""

import asyncio
import json
import shutil
import tempfile
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message

from blockyard.v1 import allocator_pb2, fleet_admin_pb2, ledger_pb2
from blockyard_server.app import RunningServer, _new_event_loop, running_server
from blockyard_server.engine.clock import ManualClock
from blockyard_server.settings import Settings
from tests.harness.postgres import Postgres
from tests.harness.sessions import servers_on, url_for
from tests.property.plain import Plain, plain, plain_error

GRACE_S: Final = 5.0
"""After a restart of the one server no lease ends sooner than this.

Several servers have no grace: each would extend the leases when it first meets a fleet, and which one a call meets is
the channel's choice.
"""
RETENTION_S: Final = 600.0
"""What ended longer ago is forgotten, when the sweeper is told to work."""
JOURNAL_RETENTION_S: Final = 900.0
"""And what happened longer ago, from the journal."""
CALL_TIMEOUT_S: Final = 30.0
"""A call that takes longer has hung."""

ROUND_ROBIN: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})

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
    """An event loop, and an empty store to begin with: making one takes longer than fifty steps.

    A data file; with `postgres` a database there, with so many `servers` on it.
    """

    def __init__(self, folder: Path, postgres: Postgres | None = None, *, servers: int = 1) -> None:
        self.folder = folder
        self.loop = Loop()
        self.servers = servers
        self.grace_s = GRACE_S if servers == 1 else 0.0
        self._postgres = postgres
        self._url = ""
        if postgres is not None:
            self._url = postgres.fresh_database()
        self._file: Path | None = None
        world = World(self)
        world.close()
        self._file = world.folder / "blockyard.db"

    def empty_store(self, folder: Path) -> dict[str, Any]:
        """Makes an empty store; the settings that say where."""
        if self._postgres is not None:
            made = self._url if self._file is None else self._postgres.fresh_database(like=self._url)
            return {"database": made}
        data = folder / "blockyard.db"
        if self._file is not None:
            shutil.copy(self._file, data)
        return {"data": data}

    def remove(self, place: dict[str, Any]) -> None:
        """Removes what `empty_store` made, but for the folder."""
        if self._postgres is not None:
            self._postgres.drop(place["database"])

    def close(self) -> None:
        """Ends the event loop."""
        self.loop.close()
        if self._postgres is not None:
            self._postgres.drop(self._url)


class World:
    """One life of one store, through any number of servers."""

    def __init__(self, template: Template) -> None:
        self.clock = ManualClock()
        self._template = template
        self._loop = template.loop
        self.folder = Path(tempfile.mkdtemp(dir=template.folder))
        self._place = template.empty_store(self.folder)
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
        """Stops the servers as SIGTERM would, and starts others on the same store."""
        self.close()
        self._start()

    def sweep_round(self) -> None:
        """What a sweeper would do by itself, were the clock not ours. What one round ends, the next may forget."""
        for _ in range(2):
            self._loop.run(self._running[0].engine._sweeper.round())

    def close(self) -> None:
        """Stops the servers."""
        self._channel.close()
        self._loop.run(self._serving.aclose())

    def remove(self) -> None:
        """Stops the servers and removes their store."""
        self.close()
        self._template.remove(self._place)
        shutil.rmtree(self.folder)

    def _start(self) -> None:
        settings = Settings(
            listen="127.0.0.1:0",
            readers=1,
            max_linger_s=0,
            sweep_interval_s=3600,
            restart_grace_s=self._template.grace_s,
            retention_s=RETENTION_S,
            journal_retention_s=JOURNAL_RETENTION_S,
            **self._place,
        )
        self._serving = AsyncExitStack()
        self._running = self._loop.run(self._start_servers(settings))
        addresses = ",".join(server.address for server in self._running)
        self._channel = grpc.insecure_channel(f"ipv4:{addresses}", [("grpc.service_config", ROUND_ROBIN)])
        self._stubs: dict[str, Any] = {}

    async def _start_servers(self, settings: Settings) -> list[RunningServer]:
        url, count = settings.database, self._template.servers
        each = [
            settings if url is None else replace(settings, database=url_for(url, number)) for number in range(count)
        ]
        servers = [await self._serving.enter_async_context(running_server(chosen, clock=self.clock)) for chosen in each]
        assert url is None or servers_on(url) == count, "not every server uses this database"
        return servers
