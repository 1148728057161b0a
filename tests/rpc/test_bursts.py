"""More calls at once than the server takes: its own limit answers, with a reason and a time, and never gRPC's."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import grpc.aio
import pytest

from blockyard import AsyncClient
from blockyard_server.rpc.server import EdgeSettings
from tests.harness.process import ServerProcess
from tests.rpc.wire import Blockyard, acquire_request, refusal_of

FLEET = "gpu"
CALLS = 6000
CONNECTIONS = 8
"""Together they may have more under way than the server takes at once."""


async def outcome_of(blockyard: Blockyard, number: int) -> str:
    """How one Acquire of a burst ends: granted, or a reason; or a status, if no reason came with it."""
    try:
        await blockyard.allocator.Acquire(acquire_request(f"token-{number}", fleet=FLEET), timeout=60)
    except grpc.aio.AioRpcError as error:
        refusal = await refusal_of(_raised(error))
        timed = "RetryInfo" in refusal.details
        return refusal.reason if refusal.reason and timed else f"{refusal.code.name} without a reason or a time"
    return "granted"


async def _raised(error: grpc.aio.AioRpcError) -> None:
    raise error


@pytest.mark.timeout(120)
async def test_every_call_of_a_burst_is_granted_or_refused_with_a_reason_and_a_time(tmp_path: Path) -> None:
    with ServerProcess(tmp_path) as server:
        await asyncio.to_thread(server.start)
        async with AsyncClient(server.address) as client:
            await client.create_fleet(FLEET)
            for number in range(2):
                await client.create_instance(FLEET, f"node-{number}", total_blocks=4096)
        async with AsyncExitStack() as stack:
            own = (("grpc.use_local_subchannel_pool", 1),)
            channels = [
                await stack.enter_async_context(grpc.aio.insecure_channel(server.address, options=own))
                for _ in range(CONNECTIONS)
            ]
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
            lines = [Blockyard(channel) for channel in channels]
            outcomes = Counter(
                await asyncio.gather(*(outcome_of(lines[number % CONNECTIONS], number) for number in range(CALLS)))
            )
            async with AsyncClient(server.address) as client:
                snapshot = await client.describe(FLEET)
    assert outcomes.total() == CALLS
    assert set(outcomes) <= {"granted", "OVERLOADED"}
    assert snapshot.totals.busy_blocks == outcomes["granted"], "who was refused was not granted"


def test_grpc_may_not_refuse_before_the_servers_own_limit_does() -> None:
    EdgeSettings(max_concurrent_calls=100, max_pending_calls=200)
    with pytest.raises(ValueError, match="max_pending_calls"):
        EdgeSettings(max_concurrent_calls=100, max_pending_calls=199)


def test_as_many_calls_may_be_pending_as_eight_connections_can_send() -> None:
    settings = EdgeSettings()
    assert settings.max_pending_calls >= 8 * settings.max_streams_per_connection
