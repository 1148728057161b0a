"""The edge's side of a stop: which calls are ended when, and what each is answered."""

import asyncio
from typing import Any

import grpc
import grpc.aio

from blockyard.v1 import allocator_pb2, fleet_admin_pb2, ledger_pb2
from blockyard_server.domain.requests import Request
from blockyard_server.engine.asker import ANYBODY, Asker
from blockyard_server.rpc.server import CHANGES, TIME_OF_CHANGES, TIME_OF_READS, build_server
from tests.rpc.fake_service import FakeService
from tests.rpc.wire import Blockyard, acquire_request, refusal_of

READING = ("Get", "List", "Describe", "Verify", "Watch")


class StuckService(FakeService):
    """Answers neither a change nor a read."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: asyncio.Queue[str] = asyncio.Queue()

    async def submit(self, request: Request, asker: Asker = ANYBODY) -> Any:  # noqa: ARG002 - it never looks at it
        self.asked.put_nowait("change")
        await asyncio.Event().wait()

    async def list_fleets(self, *, after: str, limit: int) -> Any:  # noqa: ARG002 - the same
        self.asked.put_nowait("read")
        await asyncio.Event().wait()


def test_each_method_changes_or_reads() -> None:
    methods = {
        method.name
        for module in (allocator_pb2, fleet_admin_pb2, ledger_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }

    assert methods >= CHANGES
    assert {name for name in methods if not name.startswith(READING)} == CHANGES


def test_reads_leave_time_for_changes_and_changes_for_their_answers() -> None:
    assert 0 < TIME_OF_READS < TIME_OF_CHANGES < 1


async def test_what_never_ends_is_answered_before_the_grace_is_over_and_says_what_is_known_of_it() -> None:
    service = StuckService()
    edge = build_server(service)
    address = f"127.0.0.1:{edge.bind('127.0.0.1:0')}"
    await edge.start()
    async with grpc.aio.insecure_channel(address) as channel:
        blockyard = Blockyard(channel)
        change = asyncio.ensure_future(blockyard.allocator.Acquire(acquire_request()))
        read = asyncio.ensure_future(blockyard.admin.ListFleets(fleet_admin_pb2.ListFleetsRequest()))
        gone = blockyard.admin.ListFleets(fleet_admin_pb2.ListFleetsRequest())
        assert sorted([await service.asked.get() for _ in range(3)]) == ["change", "read", "read"]
        gone.cancel()

        await edge.stop(grace_s=1)

        refusals = [await refusal_of(read), await refusal_of(change)]
    assert [refusal.reason for refusal in refusals] == ["SHUTTING_DOWN", "STORE_UNAVAILABLE"]
    assert [refusal.code for refusal in refusals] == [grpc.StatusCode.UNAVAILABLE] * 2
