"""A real server inside the test's own event loop, on a free port, with its data in the test's folder."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from blockyard import AsyncClient
from blockyard_server.app import RunningServer, running_server
from blockyard_server.engine.clock import Clock
from blockyard_server.engine.store_protocol import Store
from blockyard_server.settings import Settings

PATIENCE_S: Final = 60.0
"""The deadline of calls that are expected to be answered: far more than they need."""


def settings_for(folder: Path, **changes: Any) -> Settings:
    """Settings of a server whose data is in `folder`, on a free port. A restart grants no grace unless asked to."""
    return Settings(**{"listen": "127.0.0.1:0", "data": folder / "blockyard.db", "restart_grace_s": 0, **changes})


@asynccontextmanager
async def serving(
    folder: Path, *, clock: Clock | None = None, store: Store | None = None, **changes: Any
) -> AsyncIterator[RunningServer]:
    """Serves while the block runs. `changes` are settings; `store` must be the data file of `folder`."""
    async with running_server(settings_for(folder, **changes), clock=clock, store=store) as running:
        yield running


@asynccontextmanager
async def client_of(running: RunningServer) -> AsyncIterator[AsyncClient]:
    """An SDK client with a deadline that nothing in these tests reaches."""
    async with AsyncClient(running.address, timeout_s=PATIENCE_S) as client:
        yield client
