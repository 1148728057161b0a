"""A call that ends as CANCELLED: dropped by somebody on its way, or cancelled by whoever made it."""

import asyncio
import threading

import grpc
import pytest

from blockyard import Allocation, AsyncClient, CallFailed, Client, Grant, OutcomeUnknown, Unavailable, operations
from blockyard._allocator import get_allocation
from blockyard._call import Call
from blockyard._fleet_admin import delete_fleet
from blockyard.reasons import Reason
from tests.sdk.conftest import Carrier
from tests.sdk.fake_server import Broken, FakeServer, Refused, Silent

DROPPED = Broken(grpc.StatusCode.CANCELLED)
CHANGE = operations.acquire("gpu", blocks=2, holder="train", token="t-1")
READ: Call[Allocation] = get_allocation("fleets/gpu/allocations/1")


def test_a_dropped_change_is_tried_again_with_the_same_token(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("Acquire", DROPPED, Broken(grpc.StatusCode.CANCELLED, after=True))
    grant: Grant = carry_out(CHANGE)
    assert grant.replayed
    assert [request.idempotency_token for request in fake.requests("Acquire")] == ["t-1"] * 3


def test_a_change_that_is_dropped_to_the_end_is_as_unknown_as_without_a_server(
    fake: FakeServer, carry_out: Carrier
) -> None:
    fake.disturb("Acquire", *[DROPPED] * 10_000)
    with pytest.raises(OutcomeUnknown) as e:
        carry_out(CHANGE, timeout_s=0.3)
    assert isinstance(e.value.__cause__, CallFailed)
    assert e.value.token == "t-1"
    assert len(fake.requests("Acquire")) > 1


def test_a_read_that_is_dropped_to_the_end_is_unavailable(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("GetAllocation", *[DROPPED] * 10_000)
    with pytest.raises(Unavailable) as e:
        carry_out(READ, timeout_s=2)
    assert (e.value.status, e.value.reason) == ("UNAVAILABLE", None)
    assert len(fake.requests("GetAllocation")) > 1


def test_a_delete_that_was_dropped_and_then_finds_nothing_is_unknown(fake: FakeServer, carry_out: Carrier) -> None:
    fake.disturb("DeleteFleet", DROPPED, Refused(Reason.FLEET_NOT_FOUND))
    with pytest.raises(OutcomeUnknown):
        carry_out(delete_fleet("gpu"))


def test_a_call_of_a_client_that_is_closed_meanwhile_stays_cancelled(fake: FakeServer) -> None:
    fake.disturb("GetAllocation", Silent())
    failures: list[CallFailed] = []
    client = Client(fake.target)

    def ask() -> None:
        try:
            client.call(READ)
        except CallFailed as failure:
            failures.append(failure)

    asking = threading.Thread(target=ask)
    asking.start()
    fake.wait_for("GetAllocation")
    client.close()
    asking.join()
    assert [failure.status for failure in failures] == ["CANCELLED"]
    assert len(fake.requests("GetAllocation")) == 1


async def under_way(client: AsyncClient, fake: FakeServer) -> "asyncio.Task[Allocation]":
    """A read that the server has, and never answers."""
    fake.disturb("GetAllocation", Silent())
    asking = asyncio.ensure_future(client.call(READ))
    await asyncio.to_thread(fake.wait_for, "GetAllocation")
    return asking


async def test_a_call_of_an_asyncio_client_that_is_closed_meanwhile_stays_cancelled(fake: FakeServer) -> None:
    client = AsyncClient(fake.target)
    asking = await under_way(client, fake)
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(fake.requests("GetAllocation")) == 1


async def test_a_call_of_a_task_that_is_cancelled_stays_cancelled(fake: FakeServer) -> None:
    async with AsyncClient(fake.target) as client:
        asking = await under_way(client, fake)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
    assert len(fake.requests("GetAllocation")) == 1
