"""One stranger who opens health watches and reflection streams: the others' watches and health checks go on."""

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Any, Final, cast

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from benchmarks.abuse.plain import FLEET, OWN, plain_server
from benchmarks.stress.scenario import Figure, Scale, Scenario
from blockyard import AsyncClient
from tests.harness.process import ServerProcess, free_port

CONNECTIONS: Final = 5
EACH: Final = 820
"""Of each connection: together more than 4,096."""
WATCHES: Final = 100


def run(scale: Scale) -> Sequence[Figure]:
    """What the stranger got, and what was left for others."""
    with plain_server(scale.folder) as server:
        return asyncio.run(_streams(server))


async def _streams(server: ServerProcess) -> list[Figure]:
    channels = [grpc.aio.insecure_channel(server.address, options=OWN) for _ in range(CONNECTIONS)]
    opened = await asyncio.gather(*(_health_watches(channel) for channel in channels))
    reflections = await _reflections(channels[0])
    one = AsyncClient(server.address, timeout_s=10)
    revision = (await one.acquire(FLEET, blocks=1, holder="job")).revision
    watches = [one.watch(FLEET, from_revision=revision) for _ in range(WATCHES)]
    followed = sum([await _first_event(watch) for watch in watches])
    began_s = monotonic()
    # The first of the two servers is down.
    async with AsyncClient(f"127.0.0.1:{free_port()},{server.address}", timeout_s=10) as several:
        served = bool((await several.acquire(FLEET, blocks=1, holder="job")).revision)
    took_s = monotonic() - began_s
    await one.close()
    for channel in channels:
        await channel.close()
    asked = CONNECTIONS * EACH
    return [
        Figure(f"{asked} health watches of a stranger: opened", sum(opened), "", at_most=500, kind="count"),
        Figure("100 streams of reflection: opened", reflections, "", at_most=32, kind="count"),
        Figure("watches of a fleet beside that", followed, "", at_least=WATCHES, kind="count"),
        Figure("a client of two servers, one down: served", served, "", at_least=1, kind="count"),
        Figure("  after", took_s, "s", at_most=1),
    ]


async def _health_watches(channel: grpc.aio.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(EACH)]
    return sum(await asyncio.gather(*(_is_open(watch.read()) for watch in watches)))


async def _reflections(channel: grpc.aio.Channel) -> int:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(cast("Any", channel))
    streams = [stub.ServerReflectionInfo() for _ in range(100)]
    return sum(await asyncio.gather(*(_is_answered(stream) for stream in streams)))


async def _is_answered(stream: Any) -> bool:
    try:
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False  # it was refused before the question was sent
    return await _is_open(stream.read())


async def _is_open(first: Any) -> bool:
    try:
        return await first is not grpc.aio.EOF
    except grpc.aio.AioRpcError:
        return False


async def _first_event(watch: Any) -> bool:
    async with watch:
        async for _ in watch:
            return True
    return False


SCENARIO: Final = Scenario("streams", "health watches and reflection take nobody's watch", run)
