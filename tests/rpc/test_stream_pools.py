"""Streams of one service take no places of another's: health watches and reflection take none of a watch."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from blockyard import AsyncClient
from blockyard.v1 import allocator_pb2 as pb
from blockyard_server.domain.policy import Role
from blockyard_server.rpc.reflection import ReflectionLimits
from blockyard_server.rpc.server import EdgeSettings, build_server
from tests.harness.process import free_port
from tests.rpc.fake_service import FakeService
from tests.rpc.principals import knowing, principal
from tests.rpc.reflection import VERSIONS, reflection_stream
from tests.rpc.wire import Blockyard, acquire_request, refusal_of

OWN = (("grpc.use_local_subchannel_pool", 1),)
SERVING = health_pb2.HealthCheckResponse.SERVING
DOWN = f"127.0.0.1:{free_port()}"
"""Nobody listens there."""


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[str]:
    edge = build_server(FakeService(), EdgeSettings(**settings))
    address = f"127.0.0.1:{edge.bind('127.0.0.1:0')}"
    await edge.start()
    try:
        yield address
    finally:
        await edge.stop(grace_s=0)


async def open_health_watches(channel: grpc.aio.Channel, most: int) -> list[Any]:
    """Opens them until one is refused."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watches = []
    for _ in range(most):
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        try:
            await watch.read()
        except grpc.aio.AioRpcError:
            break
        watches.append(watch)
    return watches


async def test_one_connection_cannot_take_all_health_watches_and_no_watch_of_a_fleet() -> None:
    async with (
        serving(max_health_watches_per_connection=3, max_concurrent_calls=8) as address,
        grpc.aio.insecure_channel(address, options=OWN) as one,
        grpc.aio.insecure_channel(address, options=OWN) as other,
    ):
        taken = await open_health_watches(one, 5)
        stub: Any = health_pb2_grpc.HealthStub(one)
        refusal = await refusal_of(stub.Watch(health_pb2.HealthCheckRequest()).read())
        others = await open_health_watches(other, 3)
        blockyard = Blockyard(one)
        await blockyard.make_fleet("gpu", "node-1")
        watch = blockyard.allocator.Watch(pb.WatchRequest(fleet="fleets/gpu"))

        assert len(taken) == len(others) == 3
        assert refusal.code is grpc.StatusCode.UNIMPLEMENTED
        assert (await watch.read()).revision == 2
        # A watch that ends makes room.
        taken.pop().cancel()
        assert await open_health_watches_again(one)


async def open_health_watches_again(channel: grpc.aio.Channel) -> bool:
    """Whether there is room for one more, at last: the server hears of the end of a stream a moment later."""
    for _ in range(100):
        if await open_health_watches(channel, 1):
            return True
    return False


@pytest.mark.parametrize("target", ["{0},{1}", "{1},{0}"], ids=["down last", "down first"])
async def test_clients_of_several_servers_do_without_a_health_watch_that_is_refused(target: str) -> None:
    limits = {"max_connections": 16, "max_health_watches_per_connection": 16}
    async with (
        serving(**limits) as address,
        grpc.aio.insecure_channel(address, options=OWN) as hog,
        AsyncClient(target.format(address, DOWN), timeout_s=10) as client,
    ):
        assert len(await open_health_watches(hog, 20)) == 16

        await client.create_fleet("gpu")
        await client.create_instance("gpu", "node-1", total_blocks=1)

        assert (await client.acquire("gpu", blocks=1, holder="job")).revision == 3


async def test_reflection_has_few_streams_of_its_own_for_both_versions() -> None:
    async with (
        serving(max_reflection_streams=2, max_concurrent_calls=4) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        blockyard = Blockyard(channel)
        streams = [reflection_stream(blockyard, version) for version in VERSIONS]
        for stream in streams:
            await ask(stream)

        refusal = await refusal_of(ask(reflection_stream(blockyard, VERSIONS[0])))

        assert (refusal.reason, refusal.metadata) == ("OVERLOADED", {"maximum": "2"})
        assert await open_health_watches(channel, 1)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_stream_of_reflection_on_which_nothing_is_asked_ends_well(version: str) -> None:
    limits = ReflectionLimits(idle_s=0.05)
    async with serving(reflection_limits=limits) as address, grpc.aio.insecure_channel(address) as channel:
        stream = reflection_stream(Blockyard(channel), version)

        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_stream_of_reflection_answers_so_many_questions(version: str) -> None:
    limits = ReflectionLimits(max_questions=3)
    async with serving(reflection_limits=limits) as address, grpc.aio.insecure_channel(address) as channel:
        stream = reflection_stream(Blockyard(channel), version)
        for _ in range(3):
            await ask(stream)

        refusal = await refusal_of(stream.read())

        assert (refusal.reason, refusal.metadata) == ("OVERLOADED", {"maximum": "3"})


async def test_reflection_can_be_off() -> None:
    async with serving(reflection=False) as address, grpc.aio.insecure_channel(address) as channel:
        blockyard = Blockyard(channel)
        for version in VERSIONS:
            refusal = await refusal_of(ask(reflection_stream(blockyard, version)))
            assert refusal.code is grpc.StatusCode.UNIMPLEMENTED

        assert (await refusal_of(blockyard.allocator.Acquire(acquire_request()))).reason == "FLEET_NOT_FOUND"


async def ask(stream: Any) -> Any:
    await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    return await stream.read()


async def test_one_principal_does_not_take_all_streams_of_reflection() -> None:
    """However many connections it has."""
    principals = {name: principal(Role.VIEWER, tenant=name) for name in ("greedy", "other")}
    async with knowing(FakeService(), principals, EdgeSettings(max_reflection_streams=8)) as server:
        opened: list[object] = []
        for _ in range(3):
            stream = reflection_stream(await server.client("greedy"), "v1")
            try:
                await stream.write(reflection_pb2.ServerReflectionRequest(list_services="*"))
                opened.append(bool((await stream.read()).list_services_response.service))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # Where the refusal came before the question, the write fails in ways of its own.
                opened.append(await stream.code())
        other = reflection_stream(await server.client("other"), "v1")
        await other.write(reflection_pb2.ServerReflectionRequest(list_services="*"))

        assert opened == [True, True, grpc.StatusCode.UNAVAILABLE]
        assert (await other.read()).list_services_response.service
