"""Nothing but an answer or an error of ours leaves the server; streams end when it drains."""

import asyncio
import logging
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from blockyard_server.domain.requests import Request
from blockyard_server.engine.asker import ANYBODY, Asker
from blockyard_server.engine.failures import Overloaded, StoreUnavailable
from blockyard_server.rpc.server import Edge, EdgeSettings, build_server
from tests.rpc.fake_service import FakeService
from tests.rpc.reflection import VERSIONS, reflection_stream
from tests.rpc.wire import Blockyard, acquire_request, refusal_of


class SlowService(FakeService):
    """Carries a submitted request out when it is let go, whether or not anybody still waits."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = asyncio.Event()
        self.let_go = asyncio.Event()
        self.work: list[asyncio.Task[Any]] = []

    async def submit(self, request: Request, asker: Asker = ANYBODY) -> Any:
        self.arrived.set()
        self.work.append(asyncio.create_task(self._carry_out(request, asker)))
        return await asyncio.shield(self.work[-1])

    async def _carry_out(self, request: Request, asker: Asker) -> Any:
        await self.let_go.wait()
        return await super().submit(request, asker)


async def test_an_unforeseen_exception_is_logged_and_its_text_stays_here(
    blockyard: Blockyard, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service.failures.append(ValueError("SELECT secret FROM table"))

    with caplog.at_level(logging.ERROR):
        refusal = await refusal_of(blockyard.allocator.Acquire(acquire_request()))

    assert refusal.code is grpc.StatusCode.INTERNAL
    assert refusal.reason == "INTERNAL_ERROR"
    assert "secret" not in str(refusal)
    assert "ValueError" not in str(refusal)
    logged = "".join(record.getMessage() for record in caplog.records)
    assert refusal.metadata["incident"] in logged
    assert "secret" in caplog.text


async def test_a_failure_of_the_store_says_when_to_try_again_and_nothing_internal(
    blockyard: Blockyard, service: FakeService
) -> None:
    service.failures.append(StoreUnavailable("disk I/O error at /var/lib/x.db"))

    refusal = await refusal_of(blockyard.allocator.Acquire(acquire_request()))

    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert 1000 <= refusal.details["RetryInfo"].retry_delay.ToMilliseconds() <= 2000
    assert "x.db" not in str(refusal)


async def test_an_open_stream_takes_no_calls_place() -> None:
    edge = build_server(FakeService(), EdgeSettings(max_concurrent_calls=1))
    address = f"127.0.0.1:{edge.bind('127.0.0.1:0')}"
    await edge.start()
    # Each on a connection of its own: one connection would hold the others back.
    channels = [grpc.aio.insecure_channel(address, options=(("grpc.use_local_subchannel_pool", 1),)) for _ in range(3)]
    stubs: list[Any] = [health_pb2_grpc.HealthStub(channel) for channel in channels]
    watch = stubs[0].Watch(health_pb2.HealthCheckRequest())
    await watch.read()

    call = await refusal_of(Blockyard(channels[1]).allocator.Acquire(acquire_request()))
    second_watch = await refusal_of(stubs[2].Watch(health_pb2.HealthCheckRequest()).read())

    assert call.reason == "FLEET_NOT_FOUND"
    assert (second_watch.reason, second_watch.metadata) == ("OVERLOADED", {"maximum": "1"})
    watch.cancel()
    for channel in channels:
        await channel.close()
    await edge.stop(grace_s=0)


@pytest.mark.parametrize("edge_settings", [EdgeSettings(max_concurrent_calls=2)])
async def test_one_call_too_many_is_refused_as_overload_and_the_others_go_on(edge_settings: EdgeSettings) -> None:
    service = SlowService()
    edge = build_server(service, edge_settings)
    port = edge.bind("127.0.0.1:0")
    await edge.start()
    # Each call on a connection of its own: one connection would hold the third back.
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=(("grpc.use_local_subchannel_pool", 1),))
        for _ in range(3)
    ]
    waiting = []
    for channel, token in zip(channels[:2], "ab", strict=True):
        waiting.append(asyncio.ensure_future(Blockyard(channel).allocator.Acquire(acquire_request(token))))
        await service.arrived.wait()
        service.arrived.clear()

    refusal = await refusal_of(Blockyard(channels[2]).allocator.Acquire(acquire_request("c")))
    service.let_go.set()
    others = [await refusal_of(call) for call in waiting]
    after = await refusal_of(Blockyard(channels[2]).allocator.Acquire(acquire_request("c")))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, Overloaded.reason)
    assert 200 <= refusal.details["RetryInfo"].retry_delay.ToMilliseconds() <= 1000
    assert [other.reason for other in [*others, after]] == ["FLEET_NOT_FOUND"] * 3
    for channel in channels:
        await channel.close()
    await edge.stop(grace_s=0)


async def test_a_deadline_that_passes_does_not_stop_the_work() -> None:
    service = SlowService()
    edge = build_server(service)
    port = edge.bind("127.0.0.1:0")
    await edge.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        blockyard = Blockyard(channel)
        service.let_go.set()
        await blockyard.make_fleet("gpu", "node-1")
        service.let_go.clear()

        refusal = await refusal_of(blockyard.allocator.Acquire(acquire_request(), timeout=0.2))
        service.let_go.set()
        again = await blockyard.allocator.Acquire(acquire_request())

    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert again.replayed
    await edge.stop(grace_s=0)


async def test_bytes_that_do_not_decode_are_a_malformed_request(blockyard: Blockyard) -> None:
    call: Any = blockyard.channel.unary_unary("/blockyard.v1.Allocator/Acquire")

    refusal = await refusal_of(call(b"\xff\xff\xff"))

    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (refusal.reason, refusal.fields) == ("INVALID_REQUEST", ["request"])


async def test_an_unknown_method_is_unimplemented(blockyard: Blockyard) -> None:
    call: Any = blockyard.channel.unary_unary("/blockyard.v1.Allocator/Nope")

    refusal = await refusal_of(call(b""))

    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED


async def test_health_knows_each_service_and_says_when_the_server_drains(edge: Edge, blockyard: Blockyard) -> None:
    health: Any = health_pb2_grpc.HealthStub(blockyard.channel)
    check = health_pb2.HealthCheckRequest
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    for service in ("", "blockyard.v1.Allocator", "blockyard.v1.FleetAdmin", "blockyard.v1.Ledger"):
        assert (await health.Check(check(service=service))).status == serving
    unknown = await refusal_of(health.Check(check(service="nope")))
    assert unknown.code is grpc.StatusCode.NOT_FOUND
    watch = health.Watch(check(service="blockyard.v1.Allocator"))
    watched = [(await watch.read()).status]

    stopping = asyncio.create_task(edge.stop(grace_s=60))
    watched.append((await watch.read()).status)

    with pytest.raises(grpc.aio.AioRpcError) as end:
        await watch.read()
    assert end.value.code() is grpc.StatusCode.UNAVAILABLE
    assert watched == [serving, not_serving]
    await stopping


async def test_a_draining_server_refuses_new_calls_politely_until_none_comes_and_tells_its_health() -> None:
    edge = build_server(FakeService(), EdgeSettings(quiet_s=0.5, drain_reject_max_s=60))
    address = f"127.0.0.1:{edge.bind('127.0.0.1:0')}"
    await edge.start()
    async with grpc.aio.insecure_channel(address) as channel:
        blockyard = Blockyard(channel)
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(edge.stop(grace_s=60))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await refusal_of(watch.read())
        # The streams have ended: from here on new calls are refused.
        for _ in range(10):
            refusal = await refusal_of(blockyard.allocator.Acquire(acquire_request()))
            assert refusal.reason == "SHUTTING_DOWN"
            assert refusal.details["RetryInfo"].retry_delay.ToMilliseconds() > 0
        state = await health.Check(health_pb2.HealthCheckRequest())
        assert state.status == health_pb2.HealthCheckResponse.NOT_SERVING
        await stopping


@pytest.mark.timeout(30)  # far less than the grace, which an open stream would make the server wait out
async def test_a_stream_that_stays_open_does_not_hold_the_server_up(edge: Edge, blockyard: Blockyard) -> None:
    streams = [reflection_stream(blockyard, version) for version in VERSIONS]
    for stream in streams:
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services="*"))
    listed = [await stream.read() for stream in streams]

    await edge.stop(grace_s=600)

    for each in listed:
        assert {service.name for service in each.list_services_response.service} == {
            "blockyard.v1.Access",
            "blockyard.v1.Allocator",
            "blockyard.v1.FleetAdmin",
            "blockyard.v1.Ledger",
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        }
    assert [await stream.code() for stream in streams] == [grpc.StatusCode.UNAVAILABLE] * len(VERSIONS)


async def test_a_second_server_cannot_take_the_same_port(
    edge: Edge, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = build_server(FakeService())

    with pytest.raises(OSError, match="Address already in use"):
        other.bind(address)
    # Two that try at the same moment both see a free address: gRPC itself has to refuse the later.
    monkeypatch.setattr("blockyard_server.rpc.listen._try_address", lambda _address: None)
    with pytest.raises(OSError, match="in use or not of this machine"):
        other.bind(address)

    assert edge is not other
    await other.stop(grace_s=0)
