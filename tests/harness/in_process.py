"""Real servers inside the test's own event loop, on free ports: one with its data in the test's folder, or more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from blockyard import AsyncClient
from blockyard_server.app import RunningServer, running_server
from blockyard_server.engine.clock import Clock
from blockyard_server.engine.store_protocol import Store
from blockyard_server.settings import Settings
from tests.harness.deployments import present
from tests.harness.models import copy_data_file

PATIENCE_S: Final = 60.0
"""The deadline of calls that are expected to be answered: far more than they need."""


def settings_for(folder: Path, *, server: int = 0, **changes: Any) -> Settings:
    """Settings of a server on a free port; `folder` stands for its data. A restart grants no grace unless asked to."""
    return Settings(**{"listen": "127.0.0.1:0", "restart_grace_s": 0, **present().settings(folder, server), **changes})


@asynccontextmanager
async def serving(
    folder: Path, *, clock: Clock | None = None, store: Store | None = None, **changes: Any
) -> AsyncIterator[RunningServer]:
    """Serves while the block runs, with as many servers as the deployment has; the address names them all.

    `changes` are settings; `store` must be the data file of `folder`. What the database has seen of the servers is
    noted for who claims the deployment.
    """
    deployment = present()
    settings = settings_for(folder, **changes)
    if settings.database is None and store is None and not settings.data.exists():
        copy_data_file(settings.data)
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                running_server(settings_for(folder, server=number, **changes), clock=clock, store=store)
            )
            for number in range(deployment.servers)
        ]
        first = servers[0]
        if deployment.is_claimed:
            await asyncio.to_thread(deployment.note_servers, folder)
        yield RunningServer(
            ",".join(server.address for server in servers), first.engine, first.edge, ops_address=first.ops_address
        )
    if deployment.is_claimed:
        await asyncio.to_thread(deployment.note_events, folder)


@asynccontextmanager
async def client_of(running: RunningServer) -> AsyncIterator[AsyncClient]:
    """An SDK client with a deadline that nothing in these tests reaches."""
    async with AsyncClient(running.address, timeout_s=PATIENCE_S) as client:
        yield client
