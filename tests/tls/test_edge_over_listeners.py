"""One edge with several listeners: what they share, how they drain, and how long connections last."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from blockyard import AsyncClient
from blockyard_server.domain.requests import Acquire, Request
from blockyard_server.engine.asker import ANYBODY, Asker
from blockyard_server.engine.service import Service
from blockyard_server.rpc.admin_socket import AdminSocket, RootOnly
from blockyard_server.rpc.listen import PortListener
from blockyard_server.rpc.server import Edge, EdgeSettings, build_server
from tests.harness.patience import eventually
from tests.harness.proxy import Proxy
from tests.rpc.fake_service import FakeService
from tests.rpc.test_pings import PREFACE, SETTINGS, answer_to_ping
from tests.rpc.wire import Blockyard, acquire_request, refusal_of

PORT: Final = "127.0.0.1:0"
CONNECTIONS: Final = 8
"""One after the other: this many times the SDK has to begin anew."""
OWN: Final = (("grpc.use_local_subchannel_pool", 1),)


class StuckService(FakeService):
    """Answers the change of a token once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: asyncio.Queue[None] = asyncio.Queue()
        self.go_on: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def submit(self, request: Request, asker: Asker = ANYBODY) -> Any:
        assert isinstance(request, Acquire)
        self.asked.put_nowait(None)
        await self.go_on[request.token].wait()
        return await super().submit(request, asker)


def health_of(channel: grpc.aio.Channel) -> Any:
    """The health service; its published types are not those of a channel of asyncio."""
    return health_pb2_grpc.HealthStub(channel)


@asynccontextmanager
async def started(service: Service, path: Path, settings: EdgeSettings) -> AsyncIterator[tuple[Edge, list[str]]]:
    """An edge with two ports and the admin socket. Who uses it stops it."""
    edge = build_server(service, settings)
    addresses = edge.listen([PortListener(PORT), PortListener(PORT, RootOnly()), AdminSocket(path)])
    await edge.start()
    try:
        yield edge, addresses
    finally:
        await edge.stop(grace_s=0)


async def test_the_drain_goes_over_all_listeners_and_answers_what_is_under_way(tmp_path: Path) -> None:
    service, path = StuckService(), tmp_path / "a.sock"
    async with started(service, path, EdgeSettings()) as (edge, addresses), AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(a, options=OWN)) for a in addresses]
        watches = [health_of(each).Watch(health_pb2.HealthCheckRequest()) for each in channels]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        calls = [
            asyncio.ensure_future(Blockyard(each).allocator.Acquire(acquire_request(f"call-{number}")))
            for number, each in enumerate(channels)
        ]
        for _ in calls:
            await service.asked.get()
        stopping = asyncio.create_task(edge.stop(grace_s=20))
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await watch.code() is grpc.StatusCode.UNAVAILABLE
        late = [await refusal_of(Blockyard(each).allocator.Acquire(acquire_request("late"))) for each in channels]
        answered = []
        for number, call in enumerate(calls):
            assert not (await asyncio.wait({stopping}, timeout=0.3))[0], "it waits for the calls of all listeners"
            service.go_on[f"call-{number}"].set()
            answered.append(await refusal_of(call))
        await stopping
        # An edge that is gone gives its ports back by itself, so this looks while it is there.
        for address in addresses[:2]:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(*address.split(":"))

    assert [refusal.reason for refusal in late] == ["SHUTTING_DOWN"] * 3
    assert [refusal.reason for refusal in answered] == ["FLEET_NOT_FOUND"] * 3, "each had its answer"
    assert not path.exists()


async def test_an_address_that_cannot_be_had_gives_the_others_back(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    async with started(FakeService(), path, EdgeSettings()) as (_, addresses):
        other = tmp_path / "b.sock"
        with pytest.raises(OSError, match=f"^cannot listen on {addresses[0]}: Address already in use; choose another"):
            build_server(FakeService()).listen([AdminSocket(other), PortListener(addresses[0])])
        assert not other.exists()
        build_server(FakeService()).listen([AdminSocket(other)])


async def test_the_limit_of_calls_under_way_is_of_all_listeners_together(tmp_path: Path) -> None:
    service = StuckService()
    async with (
        started(service, tmp_path / "a.sock", EdgeSettings(max_concurrent_calls=1)) as (_, addresses),
        AsyncExitStack() as stack,
    ):
        first, second, third = [
            Blockyard(await stack.enter_async_context(grpc.aio.insecure_channel(a, options=OWN))) for a in addresses
        ]
        under_way = asyncio.ensure_future(first.allocator.Acquire(acquire_request()))
        await service.asked.get()
        refused = [await refusal_of(each.allocator.Acquire(acquire_request("b"))) for each in (second, third)]
        service.go_on["token-1"].set()
        answered = await refusal_of(under_way)

    assert [refusal.reason for refusal in refused] == ["OVERLOADED", "OVERLOADED"]
    assert answered.reason == "FLEET_NOT_FOUND"


async def test_connections_are_shared_out_over_the_ports(tmp_path: Path) -> None:
    settings = EdgeSettings(max_connections=4)
    async with started(FakeService(), tmp_path / "a.sock", settings) as (_, addresses):
        for address in addresses[:2]:
            host, port = address.split(":")
            held = [await asyncio.open_connection(host, int(port)) for _ in range(3)]
            greeted = [await is_greeted(*each) for each in held]
            assert greeted.count(True) == 2, "half of all, each port"
            for _, writer in held:
                writer.close()


async def is_greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether a connection is answered, and not closed."""
    try:
        writer.write(PREFACE + SETTINGS)
        await reader.readexactly(9)
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    return True


@pytest.mark.parametrize(("size", "calls", "code"), [(31_000, 40, "OK"), (34_000, 4, "RESOURCE_EXHAUSTED")])
async def test_metadata_up_to_the_limit_is_never_refused_and_more_always(
    size: int, calls: int, code: str, tmp_path: Path
) -> None:
    async with started(FakeService(), tmp_path / "a.sock", EdgeSettings()) as (_, addresses):
        found = set()
        async with grpc.aio.insecure_channel(addresses[0]) as channel:
            check = health_of(channel).Check
            for _ in range(calls):
                try:
                    await check(health_pb2.HealthCheckRequest(), metadata=(("authorization", "x" * size),))
                    found.add("OK")
                except grpc.aio.AioRpcError as error:
                    found.add(error.code().name)
    assert found == {code}


async def test_idle_connections_end_where_callers_are_asked_who_they_are_and_nowhere_else(tmp_path: Path) -> None:
    settings = EdgeSettings(idle_connection_s=0.2)
    async with started(FakeService(), tmp_path / "a.sock", settings) as (_, addresses):
        open_ = [await asyncio.open_connection("127.0.0.1", int(a.rpartition(":")[2])) for a in addresses[:2]]
        open_.append(await asyncio.open_unix_connection(str(tmp_path / "a.sock")))
        for _, writer in open_:
            writer.write(PREFACE + SETTINGS)
        _, (guarded, _), _ = open_

        async with asyncio.timeout(30):
            while (await frame(guarded))[0] != GOAWAY:
                pass

        for reader, writer in (open_[0], open_[2]):
            writer.write(bytes([0, 0, 8, 6, 0, 0, 0, 0, 0]) + b"blocks!!")
            assert await answer_to_ping(reader) == "acknowledged"
        for _, writer in open_:
            writer.close()


GOAWAY: Final = 7


async def frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """The kind and the payload of the next frame."""
    head = await reader.readexactly(9)
    return head[3], await reader.readexactly(int.from_bytes(head[:3], "big"))


@pytest.mark.slow
async def test_a_lease_a_watch_and_calls_of_the_sdk_outlive_their_connections(tmp_path: Path) -> None:
    settings = EdgeSettings(connection_age_s=0.3, connection_age_grace_s=0.2)
    async with started(FakeService(), tmp_path / "a.sock", settings) as (_, addresses), AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(addresses[1]))
        client = await stack.enter_async_context(AsyncClient(proxy.address))
        await client.create_fleet("gpu")
        await client.create_instance("gpu", "node-1", total_blocks=8)
        seen: list[int] = []

        async def follow() -> None:
            async for event in client.watch("gpu", from_revision=1):
                seen.append(event.revision)  # noqa: PERF401 - it has no end

        watching = asyncio.create_task(follow())
        calls = 0
        async with client.lease("gpu", blocks=1, ttl=3.0, holder="job") as lease:
            while proxy.accepted < CONNECTIONS:
                grant = await client.acquire("gpu", blocks=1, holder=f"call-{calls}")
                await client.release(grant.allocation.name)
                calls += 1
            assert not lease.lost.is_set()
        revision = (await client.describe("gpu")).revision

        async def all_seen() -> bool:
            return len(seen) >= revision

        await eventually(all_seen, "the watch has seen every event")
        watching.cancel()
    assert calls > CONNECTIONS
    assert seen == list(range(1, revision + 1)), "each once, and in order"
