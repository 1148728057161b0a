"""A crowd of clients with calls under way when the server is killed: all come back, and none hears CANCELLED."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from blockyard import AsyncClient, _channel
from tests.harness.patience import eventually
from tests.harness.process import ServerProcess

CLIENTS: Final = 60
FLEET: Final = "gpu"


@pytest.mark.timeout(120)
async def test_a_crowd_of_clients_comes_back_after_a_kill_without_a_failed_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each with a connection of its own, as if it were a process of its own.
    own = ("grpc.use_local_subchannel_pool", 1)
    monkeypatch.setattr(_channel, "OPTIONS", [*_channel.OPTIONS, own])
    over = asyncio.Event()
    turns = [0] * CLIENTS

    async def renew(number: int, client: AsyncClient) -> None:
        held = (await client.acquire(FLEET, holder=f"job-{number}", blocks=1, ttl=3600)).allocation
        while not over.is_set():
            assert (await client.renew(held)).allocation.name == held.name
            turns[number] += 1

    def each_had(least: list[int]) -> bool:
        return all(had >= wanted for had, wanted in zip(turns, least, strict=True))

    with ServerProcess(tmp_path) as server:
        await asyncio.to_thread(server.start)
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(AsyncClient(server.address, timeout_s=60)) for _ in range(CLIENTS)
            ]
            await clients[0].create_fleet(FLEET)
            await clients[0].create_instance(FLEET, "node-1", total_blocks=CLIENTS)
            load = [asyncio.create_task(renew(number, client)) for number, client in enumerate(clients)]

            async def all_are_under_way() -> bool:
                return each_had([1] * CLIENTS)

            await eventually(all_are_under_way, "each client was served")
            await asyncio.to_thread(server.kill)
            # The answer that was on its way may count for one.
            wanted = [had + 2 for had in turns]
            await asyncio.to_thread(server.start)

            async def all_came_back() -> bool:
                return each_had(wanted) or any(task.done() for task in load)

            await eventually(all_came_back, "each client was served again")
            over.set()
            await asyncio.gather(*load)
