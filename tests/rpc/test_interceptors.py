"""The seam of the edge: one list around unary and stream alike, counts by method, and methods that nobody wrote."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from blockyard.v1 import allocator_pb2, allocator_pb2_grpc
from blockyard_server.rpc.auth.identity import ListenerMethods
from blockyard_server.rpc.call_counts import CallCounts
from blockyard_server.rpc.error_answers import ErrorAnswers
from blockyard_server.rpc.interceptors import Context, Handler, Method
from blockyard_server.rpc.methods import Methods
from tests.rpc.wire import acquire_request

ALLOCATOR: Any = allocator_pb2.DESCRIPTOR.services_by_name["Allocator"]
HEALTH: Any = health_pb2.DESCRIPTOR.services_by_name["Health"]


class Noting:
    """Notes what passes it."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name = name
        self.seen = seen

    def intercept(self, method: Method, proceed: Handler) -> Handler:
        async def noting(incoming: Any, context: Context) -> Any:
            self.seen.append(f"{self.name} before {method.path} {method.changes} {method.streams}")
            try:
                return await proceed(incoming, context)
            finally:
                self.seen.append(f"{self.name} after")

        return noting


class Servicer:
    """Answers health and nothing else."""

    async def Check(self, _request: object, _context: object) -> health_pb2.HealthCheckResponse:  # noqa: N802 - the RPC's
        return health_pb2.HealthCheckResponse()

    async def Watch(self, _request: object, _context: object) -> AsyncIterator[health_pb2.HealthCheckResponse]:  # noqa: N802 - the same
        yield health_pb2.HealthCheckResponse()


class Served:
    """Methods on a real port."""

    def __init__(self, *interceptors: Any) -> None:
        self.methods = Methods(interceptors, write_patience_s=1)
        self.server = grpc.aio.server()

    async def __aenter__(self) -> grpc.aio.Channel:
        self.server.add_generic_rpc_handlers((ListenerMethods(self.methods.find, None),))
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        return self.channel

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()
        await self.server.stop(0)


async def test_every_call_passes_all_interceptors_in_their_order() -> None:
    seen: list[str] = []
    served = Served(Noting("outer", seen), Noting("inner", seen))
    served.methods.add(HEALTH, Servicer(), changes={"Check"})
    async with served as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        await stub.Check(health_pb2.HealthCheckRequest())
        assert [answer async for answer in stub.Watch(health_pb2.HealthCheckRequest())]

    check, watch = "/grpc.health.v1.Health/Check True False", "/grpc.health.v1.Health/Watch False True"
    after = ["inner after", "outer after"]
    assert seen == [
        f"outer before {check}",
        f"inner before {check}",
        *after,
        f"outer before {watch}",
        f"inner before {watch}",
        *after,
    ]


async def test_calls_are_counted_by_method_and_status() -> None:
    counts = CallCounts()

    class Failing(Servicer):
        async def Check(self, _request: object, _context: object) -> health_pb2.HealthCheckResponse:  # noqa: N802 - the RPC's
            raise ValueError("a fault")

    served = Served(counts, ErrorAnswers())
    served.methods.add(HEALTH, Failing())
    async with served as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError):
                await stub.Check(health_pb2.HealthCheckRequest())
        assert [answer async for answer in stub.Watch(health_pb2.HealthCheckRequest())]

    check, watch = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
    assert counts.answered == {(check, "INTERNAL"): 2, (watch, "OK"): 1}
    assert {check, watch} < counts.under_way.keys()
    assert set(counts.under_way.values()) == {0}
    assert {path: taken for path, each in counts.durations.items() if (taken := each.up_to[-1])} == {check: 2}


async def test_a_call_that_its_client_gives_up_is_counted_as_cancelled() -> None:
    counts = CallCounts()
    arrived = asyncio.Event()

    class Slow(Servicer):
        async def Check(self, _request: object, _context: object) -> health_pb2.HealthCheckResponse:  # noqa: N802 - the RPC's
            arrived.set()
            await asyncio.sleep(60)
            raise AssertionError

    served = Served(counts, ErrorAnswers())
    served.methods.add(HEALTH, Slow())
    async with served as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Check(health_pb2.HealthCheckRequest())
        await arrived.wait()
        assert counts.under_way["/grpc.health.v1.Health/Check"] == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await served.server.wait_for_termination(10)

    assert counts.answered == {("/grpc.health.v1.Health/Check", "CANCELLED"): 1}


unwritten: Any = type("Unwritten", (allocator_pb2_grpc.AllocatorServicer,), {})
"""A servicer of today for the protos of tomorrow: it has none of the methods. (Mypy takes it for abstract.)"""


@pytest.mark.parametrize("servicer", [unwritten(), object()], ids=["a generated base class", "nothing"])
async def test_a_method_that_no_servicer_has_answers_unimplemented(servicer: object) -> None:
    served = Served(ErrorAnswers())
    served.methods.add(ALLOCATOR, servicer)
    async with served as channel:
        stub: Any = allocator_pb2_grpc.AllocatorStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await stub.Acquire(acquire_request())
        with pytest.raises(grpc.aio.AioRpcError) as stream:
            await stub.Watch(allocator_pb2.WatchRequest(fleet="fleets/gpu")).read()

    for refused, name in ((unary, "Acquire"), (stream, "Watch")):
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert f"blockyard.v1.Allocator.{name}" in str(refused.value.details())


async def test_a_method_that_the_protos_do_not_have_answers_unimplemented() -> None:
    async with Served(ErrorAnswers()) as channel:
        teleport: Any = channel.unary_unary("/blockyard.v1.Allocator/Teleport")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await teleport(b"")

    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
