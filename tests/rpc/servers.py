"""The servers that requests are sent to: the edge over the fake service, and the real one on SQLite."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from blockyard_server.app import running_server
from blockyard_server.rpc.server import build_server
from blockyard_server.settings import Settings
from tests.rpc.fake_service import FakeService


@asynccontextmanager
async def fake_server(_folder: Path) -> AsyncIterator[str]:
    edge = build_server(FakeService())
    port = edge.bind("127.0.0.1:0")
    await edge.start()
    yield f"127.0.0.1:{port}"
    await edge.stop(grace_s=0)


@asynccontextmanager
async def real_server(folder: Path) -> AsyncIterator[str]:
    settings = Settings(listen="127.0.0.1:0", data=folder / "blockyard.db", drain_grace_s=0)
    async with running_server(settings) as server:
        yield server.address
