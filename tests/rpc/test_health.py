"""The standard health service: a watch says each state, also one that comes while the last one is being sent."""

import grpc
import pytest
from grpc_health.v1 import health_pb2 as pb

from blockyard_server.engine.failures import ShuttingDown
from blockyard_server.rpc.health import Health


async def test_a_drain_while_the_first_state_is_sent_is_said_before_the_watch_ends() -> None:
    health = Health(["blockyard.v1.Allocator"])
    states: list[int] = []

    async def watch() -> None:
        async for answer in health.Watch(pb.HealthCheckRequest(), _no_context()):
            states.append(answer.status)
            health.drain()

    with pytest.raises(ShuttingDown):
        await watch()
    assert states == [pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING]


async def test_a_database_that_goes_away_and_comes_back_is_said() -> None:
    health = Health([])
    states: list[int] = []
    async for answer in health.Watch(pb.HealthCheckRequest(), _no_context()):
        states.append(answer.status)
        if len(states) == 3:
            break
        health.set_available(len(states) == 2)
    assert states == [
        pb.HealthCheckResponse.SERVING,
        pb.HealthCheckResponse.NOT_SERVING,
        pb.HealthCheckResponse.SERVING,
    ]


def _no_context() -> "grpc.aio.ServicerContext":  # type: ignore[type-arg]  # generic in its types, not in its code
    return None  # type: ignore[return-value]  # a watch asks it nothing
