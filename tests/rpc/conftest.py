"""A real gRPC server over the fake service, and a client of it."""

from collections.abc import AsyncIterator

import grpc.aio
import pytest

from blockyard_server.rpc.server import Edge, EdgeSettings, build_server
from tests.rpc.fake_service import FakeService
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
