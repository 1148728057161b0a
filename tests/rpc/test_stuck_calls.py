"""Calls that wait for their client are ended: no request comes, or the answer is not taken. All others go on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc.aio
import pytest

from blockyard.v1 import allocator_pb2 as pb
from blockyard.v1 import fleet_admin_pb2, resources_pb2
from blockyard_server.rpc.call_counts import NO_REQUEST, NOT_TAKEN
from blockyard_server.rpc.server import Edge, EdgeSettings, build_server
from blockyard_server.rpc.stuck_calls import LARGE_ANSWER_BYTES, StuckCalls
from tests.harness.http2 import RawConnection, message
from tests.harness.patience import TRIES, eventually
from tests.rpc.fake_service import FakeService
from tests.rpc.test_watch import LABELS
from tests.rpc.wire import Blockyard, acquire_request

ALLOCATOR: Final = "/blockyard.v1.Allocator"
LIST_FLEETS: Final = "/blockyard.v1.FleetAdmin/ListFleets"
LIST_INSTANCES: Final = "/blockyard.v1.FleetAdmin/ListInstances"
CALLS: Final = 20
PATIENCE: Final = 2 * TRIES
"""Ticks: more than go by while a test waits for something else."""
FOR_EVER_S: Final = 1e9


@dataclass(frozen=True)
class Served:
    """An edge and a well-behaved client of it. It looks at its calls only when a test has it tick."""

    edge: Edge
    address: str
    blockyard: Blockyard

    @asynccontextmanager
    async def connected(self, window: int = 65_535) -> AsyncIterator[RawConnection]:
        """Another client, that does what it likes."""
        async with await RawConnection.open(self.address, window=window) as connection:
            yield connection


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Served]:
    edge = build_server(FakeService(), EdgeSettings(**settings))
    address = f"127.0.0.1:{edge.bind('127.0.0.1:0')}"
    await edge.start()
    edge.stuck.stop()
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            blockyard = Blockyard(channel)
            await blockyard.make_fleet("gpu")  # also because something in gRPC refers to the first call for ever
            yield Served(edge, address, blockyard)
    finally:
        await edge.stop(grace_s=0)


async def until_waiting(served: Served, calls: int) -> None:
    """Ticks until so many calls are seen to wait for their client."""

    async def seen() -> bool:
        served.edge.stuck.tick()
        return served.edge.stuck.waiting >= calls

    await eventually(seen, f"{calls} calls wait")


def tick(stuck: StuckCalls, times: int) -> None:
    for _ in range(times):
        stuck.tick()


async def tick_patience_away(served: Served) -> None:
    """Ends what has waited; then one more call, since gRPC's own loop refers to the last one that came."""
    tick(served.edge.stuck, PATIENCE)
    await served.blockyard.admin.ListFleets(fleet_admin_pb2.ListFleetsRequest())


async def test_answers_that_are_not_taken_are_given_up() -> None:
    async with serving(client_patience_s=PATIENCE) as served, served.connected(window=0) as connection:
        for _ in range(CALLS):
            connection.call(LIST_FLEETS)
        await until_waiting(served, CALLS)
        assert connection.ended == {}

        await tick_patience_away(served)
        await connection.until_ended(CALLS)

        assert (len(connection.ended), connection.closed) == (CALLS, False)
        assert served.edge.calls.given_up == {NOT_TAKEN: CALLS, NO_REQUEST: 0}


@pytest.mark.parametrize("sent", [b"", message(b"x" * 100)[:50]], ids=["nothing", "half of it"])
@pytest.mark.parametrize("method", ["Acquire", "Watch"])
async def test_calls_whose_request_does_not_come_are_given_up(method: str, sent: bytes) -> None:
    async with serving(client_patience_s=PATIENCE) as served, served.connected() as connection:
        for _ in range(CALLS):
            stream = connection.begin(f"{ALLOCATOR}/{method}")
            if sent:
                connection.send(stream, sent, last=False)
        await until_waiting(served, CALLS)

        await tick_patience_away(served)
        await connection.until_ended(CALLS)

        assert (len(connection.ended), connection.closed) == (CALLS, False)
        assert served.edge.calls.given_up == {NOT_TAKEN: 0, NO_REQUEST: CALLS}


async def test_a_stream_that_is_not_read_is_reset_in_the_end() -> None:
    async with serving(client_patience_s=PATIENCE, write_patience_s=0.1) as served:
        await make_instances(served.blockyard, 16)
        async with served.connected(window=0) as connection:
            request = pb.WatchRequest(fleet="fleets/gpu", from_revision=1)
            connection.call(f"{ALLOCATOR}/Watch", request.SerializeToString())
            await until_waiting(served, 1)
            assert connection.ended == {}

            await tick_patience_away(served)
            await connection.until_ended(1)

            assert (len(connection.ended), connection.closed) == (1, False)
            assert served.edge.calls.given_up[NOT_TAKEN] == 1


async def test_large_answers_that_nobody_takes_have_a_bound_together_and_the_oldest_go_first() -> None:
    async with serving(client_patience_s=FOR_EVER_S, max_untaken_bytes=10 * LARGE_ANSWER_BYTES) as served:
        await make_instances(served.blockyard, 8)
        request = fleet_admin_pb2.ListInstancesRequest(parent="fleets/gpu")
        assert (
            LARGE_ANSWER_BYTES
            < (await served.blockyard.admin.ListInstances(request)).ByteSize()
            < 3 * LARGE_ANSWER_BYTES
        )
        async with served.connected(window=0) as connection:
            streams = await calls_in_turn(connection, LIST_INSTANCES, request.SerializeToString())
            await connection.until_ended(CALLS // 2)

            ended = sorted(connection.ended)
            assert ended == streams[: len(ended)]
            assert len(ended) < CALLS

        # Whoever takes answers is not troubled by those who do not.
        assert (await served.blockyard.admin.ListInstances(request)).instances


async def test_of_too_many_calls_without_a_request_the_oldest_are_given_up_at_once() -> None:
    async with (
        serving(client_patience_s=FOR_EVER_S, max_waiting_for_clients=8) as served,
        served.connected() as connection,
    ):
        streams = [connection.begin(f"{ALLOCATOR}/Acquire") for _ in range(CALLS)]
        await connection.until_ended(CALLS - 8)

        ended = sorted(connection.ended)
        assert ended == streams[: len(ended)]
        assert len(ended) < CALLS
        # Whoever sends a request is not troubled by those who do not.
        for _ in range(CALLS):
            await served.blockyard.admin.ListFleets(fleet_admin_pb2.ListFleetsRequest())


async def test_of_too_many_answers_that_are_not_taken_the_oldest_are_given_up_early() -> None:
    async with (
        serving(client_patience_s=FOR_EVER_S, max_waiting_for_clients=5) as served,
        served.connected(window=0) as connection,
    ):
        streams = await calls_in_turn(connection, LIST_FLEETS)
        await served.blockyard.admin.ListFleets(fleet_admin_pb2.ListFleetsRequest())

        tick(served.edge.stuck, 3)
        await connection.until_ended(CALLS - 5)

        assert sorted(connection.ended) == streams[: CALLS - 5]
        assert served.edge.stuck.waiting == 5


async def test_calls_that_are_answered_and_taken_are_left_alone() -> None:
    async with serving(client_patience_s=PATIENCE, max_untaken_bytes=0) as served:
        await make_instances(served.blockyard, 8)
        watch = served.blockyard.allocator.Watch(pb.WatchRequest(fleet="fleets/gpu"))
        await watch.read()
        for _ in range(CALLS):
            page = await served.blockyard.admin.ListInstances(fleet_admin_pb2.ListInstancesRequest(parent="fleets/gpu"))
            assert len(page.instances) == 8
        await until_nothing_waits(served)
        tick(served.edge.stuck, 2 * PATIENCE)

        assert served.edge.calls.given_up == {NOT_TAKEN: 0, NO_REQUEST: 0}
        await served.blockyard.allocator.Acquire(acquire_request())
        assert (await watch.read()).events
        watch.cancel()


async def calls_in_turn(connection: RawConnection, method: str, request: bytes = b"") -> list[int]:
    """Each begins once the one before is being answered: of two at once, the later one may be answered first."""
    streams = []
    for number in range(CALLS):
        streams.append(connection.call(method, request))
        await connection.until_begun(number + 1)
    return streams


async def until_nothing_waits(served: Served) -> None:
    async def seen() -> bool:
        served.edge.stuck.tick()
        return served.edge.stuck.waiting == 0

    await eventually(seen, "every answer is taken")


async def test_a_server_ticks_by_itself() -> None:
    edge = build_server(FakeService(), EdgeSettings(client_patience_s=0.5))
    address = f"127.0.0.1:{edge.bind('127.0.0.1:0')}"
    await edge.start()
    async with await RawConnection.open(address) as connection:
        for _ in range(3):  # gRPC's own loop refers to the first and to the last one
            connection.begin(f"{ALLOCATOR}/Acquire")
        await connection.until_ended(1)
        assert connection.ended
    await edge.stop(grace_s=0)


async def make_instances(blockyard: Blockyard, count: int) -> None:
    """Each weighs 16 KiB."""
    for number in range(count):
        shape = resources_pb2.Instance(total_blocks=1, labels=LABELS)
        request = fleet_admin_pb2.CreateInstanceRequest(
            parent="fleets/gpu", instance_id=f"node-{number}", instance=shape
        )
        await blockyard.admin.CreateInstance(request)
