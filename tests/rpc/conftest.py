"""A real gRPC server over the fake service, and a client of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from blockyard_server.rpc.server import Edge, EdgeSettings, build_server
from tests.rpc.fake_service import FakeService
from tests.rpc.servers import fake_server, real_server
from tests.rpc.wire import Blockyard


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def edge_settings() -> EdgeSettings:
    return EdgeSettings()


@pytest.fixture
async def edge(service: FakeService, edge_settings: EdgeSettings) -> AsyncIterator[Edge]:
    edge = build_server(service, edge_settings)
    yield edge
    await edge.stop(grace_s=0)


@pytest.fixture
async def address(edge: Edge) -> str:
    port = edge.bind("127.0.0.1:0")
    await edge.start()
    return f"127.0.0.1:{port}"


@pytest.fixture
async def blockyard(address: str) -> AsyncIterator[Blockyard]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield Blockyard(channel)


# What the edge alone refuses, the whole server refuses, too: `make test-slow` asks the edge by itself.
@pytest.fixture(
    params=[pytest.param(fake_server, id="fake", marks=pytest.mark.slow), pytest.param(real_server, id="real")]
)
async def server_address(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    async with request.param(tmp_path) as address:
        yield address


@pytest.fixture
async def any_blockyard(server_address: str) -> AsyncIterator[Blockyard]:
    async with grpc.aio.insecure_channel(server_address) as channel:
        yield Blockyard(channel)
