"""Large requests: few at once, tenants in turn, and never two parses without room for others in between."""

import asyncio
from itertools import pairwise
from typing import Any, cast

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

from blockyard.v1 import allocator_pb2 as pb
from blockyard_server.domain.limits import (
    MAX_BATCH_OPERATIONS,
    MAX_HOLDER_LENGTH,
    MAX_ID_LENGTH,
    MAX_LABEL_KEY_LENGTH,
    MAX_LABEL_VALUE_LENGTH,
    MAX_TOKEN_LENGTH,
)
from blockyard_server.engine.failures import Overloaded
from blockyard_server.rpc.large_requests import LARGE_REQUEST_BYTES, LargeRequests
from blockyard_server.rpc.server import EdgeSettings
from blockyard_server.settings import MAX_REQUEST_BYTES
from tests.harness.patience import eventually
from tests.rpc.test_drain_and_limits import SlowService
from tests.rpc.wire import Blockyard, acquire_request, first_of, refusal_of

ACQUIRE = "/blockyard.v1.Allocator/Acquire"


class Users:
    """Tasks that take a place each, keep it until they are let go, and note when they have it."""

    def __init__(self, large: LargeRequests) -> None:
        self.have_it: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._large = large
        self._let_go: dict[str, asyncio.Event] = {}

    async def begin(self, tenant: str, name: str) -> asyncio.Task[None]:
        self._let_go[name] = asyncio.Event()
        self.tasks.append(asyncio.create_task(self._use(tenant, name)))
        await self.settle()
        return self.tasks[-1]

    async def let_go(self, name: str) -> None:
        self._let_go[name].set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def _use(self, tenant: str, name: str) -> None:
        async with self._large.place(tenant):
            self.have_it.append(name)
            await self._let_go[name].wait()


async def test_tenants_have_their_turns_and_one_who_asks_for_much_does_not_go_first() -> None:
    users = Users(LargeRequests(max_under_way=1, max_waiting=10))
    for tenant, name in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]:
        await users.begin(tenant, name)
    for name in ("a1", "a2", "b1", "c1", "a3", "b2"):
        assert users.have_it[-1] == name
        await users.let_go(name)

    assert users.have_it == ["a1", "a2", "b1", "c1", "a3", "b2"]
    await asyncio.gather(*users.tasks)


async def test_so_many_are_under_way_so_many_wait_and_one_tenant_has_half_of_the_queue() -> None:
    users = Users(LargeRequests(max_under_way=2, max_waiting=4))
    for name in ("a1", "a2", "a3", "a4"):
        await users.begin("a", name)
    assert users.have_it == ["a1", "a2"]

    with pytest.raises(Overloaded):
        await (await users.begin("a", "a5"))
    await users.begin("b", "b1")
    await users.begin("c", "c1")
    with pytest.raises(Overloaded):
        await (await users.begin("d", "d1"))

    for name in ("a1", "a2", "a3", "a4", "b1", "c1"):
        await users.let_go(name)
    assert sorted(users.have_it) == ["a1", "a2", "a3", "a4", "b1", "c1"]


async def test_whoever_gives_up_waiting_or_working_leaves_his_place_to_the_next() -> None:
    users = Users(LargeRequests(max_under_way=1, max_waiting=10))
    working = await users.begin("a", "a1")
    waiting = await users.begin("a", "a2")
    await users.begin("b", "b1")

    waiting.cancel()
    await users.settle()
    working.cancel()
    await users.settle()

    assert users.have_it == ["a1", "b1"]
    await users.let_go("b1")
    await users.begin("c", "c1")
    assert users.have_it[-1] == "c1"
    await users.let_go("c1")


async def test_who_gives_up_at_the_moment_of_his_turn_leaves_it_to_the_next() -> None:
    users = Users(LargeRequests(max_under_way=1, max_waiting=10))
    await users.begin("a", "a1")
    second = await users.begin("a", "a2")
    await users.begin("a", "a3")

    users._let_go["a1"].set()
    await asyncio.sleep(0)
    second.cancel()
    await users.settle()

    assert users.have_it[-1] in ("a2", "a3")
    await users.let_go("a3")
    assert users.have_it[-1] == "a3"


async def test_between_two_parses_of_large_requests_others_are_served() -> None:
    large, order = LargeRequests(), []

    def parse(_data: bytes) -> Empty:
        order.append("large")
        return Empty()

    async def small() -> None:
        while order.count("large") < 5:
            order.append("small")
            await asyncio.sleep(0)

    await asyncio.gather(small(), *(large.parse(parse, b"") for _ in range(5)))

    assert [one for one, next_ in pairwise(order) if one == next_ == "large"] == []


@pytest.fixture
def service() -> SlowService:
    return SlowService()


async def test_few_calls_with_large_requests_are_under_way_and_small_ones_go_on(
    blockyard: Blockyard, service: SlowService
) -> None:
    acquire: Any = cast("Any", blockyard.channel).unary_unary(ACQUIRE)
    large = [asyncio.ensure_future(refusal_of(acquire(padded(f"large-{number}")))) for number in range(6)]

    await until_submitted(service, 4)
    small = asyncio.ensure_future(refusal_of(blockyard.allocator.Acquire(acquire_request("small"))))
    await until_submitted(service, 5)
    service.let_go.set()

    assert [refusal.reason for refusal in await asyncio.gather(small, *large)] == ["FLEET_NOT_FOUND"] * 7
    assert len(service.work) == 7


async def until_submitted(service: SlowService, count: int) -> None:
    async def submitted() -> bool:
        return len(service.work) >= count

    await eventually(submitted, f"{count} requests are carried out")
    assert len(service.work) == count


def padded(token: str) -> bytes:
    """An Acquire with an unknown field that makes it large."""
    padding = b"\xfa\x7f" + b"\x80\x80\x08" + b"x" * 2 * LARGE_REQUEST_BYTES
    return acquire_request(token).SerializeToString() + padding


@pytest.mark.parametrize("method", [ACQUIRE, "/blockyard.v1.Allocator/Watch"])
async def test_large_garbage_is_refused_as_small_garbage_is(blockyard: Blockyard, method: str) -> None:
    channel: Any = blockyard.channel
    call = channel.unary_stream(method) if method.endswith("Watch") else channel.unary_unary(method)

    refusals = [await refusal_of(first_of(call(b"\xff" * 2 * LARGE_REQUEST_BYTES))) for _ in range(10)]

    assert {refusal.code for refusal in refusals} == {grpc.StatusCode.INVALID_ARGUMENT}


@pytest.mark.parametrize("edge_settings", [EdgeSettings(max_request_bytes=65_536)])
async def test_the_largest_request_is_a_setting(blockyard: Blockyard) -> None:
    acquire: Any = cast("Any", blockyard.channel).unary_unary(ACQUIRE)

    assert (await refusal_of(acquire(padded("large")))).code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_full_batch_with_long_texts_fits(blockyard: Blockyard, service: SlowService) -> None:
    service.let_go.set()
    await blockyard.make_fleet("f" * MAX_ID_LENGTH)
    batch = pb.BatchRequest()
    for number in range(MAX_BATCH_OPERATIONS):
        acquire = acquire_request(f"{number:0{MAX_TOKEN_LENGTH}}", fleet="f" * MAX_ID_LENGTH)
        acquire.holder = "h" * MAX_HOLDER_LENGTH
        acquire.demands[0].selector.match_labels["l" * MAX_LABEL_KEY_LENGTH] = "v" * MAX_LABEL_VALUE_LENGTH
        batch.operations.add().acquire.CopyFrom(acquire)

    assert 0.7 * MAX_REQUEST_BYTES < batch.ByteSize() < MAX_REQUEST_BYTES
    assert len((await blockyard.allocator.Batch(batch)).results) == MAX_BATCH_OPERATIONS
