"""`async with client.lease(...)`: what differs from the blocking one is cancellation."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from blockyard import AsyncClient, InternalError, LeaseLost, NoCapacity, OutcomeUnknown
from blockyard._call import Call, T
from blockyard.reasons import Reason
from tests.sdk.conftest import QUICK
from tests.sdk.fake_server import Broken, FakeServer, Refused, Silent


class BodyError(Exception):
    """What goes wrong inside a with block."""


@pytest.fixture
async def client(fake: FakeServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(fake.target, retry=QUICK, timeout_s=20) as client:
        yield client


async def acquire_and_wait(client: AsyncClient, *, timeout_s: float | None = None) -> None:
    async with client.lease("gpu", blocks=2, holder="train", token="t-1", timeout_s=timeout_s):
        await asyncio.Event().wait()


async def arrived(fake: FakeServer, method: str, count: int = 1) -> None:
    await asyncio.to_thread(fake.wait_for, method, count)


async def test_a_lease_holds_blocks_for_the_time_of_its_block(fake: FakeServer, client: AsyncClient) -> None:
    async with client.lease("gpu", blocks=2, holder="train") as lease:
        assert [each.name for each in fake.held.values()] == [lease.allocation.name]
    assert fake.held == {}


async def test_a_lease_is_released_after_an_exception_which_comes_through(
    fake: FakeServer, client: AsyncClient
) -> None:
    with pytest.raises(BodyError):
        async with client.lease("gpu", blocks=2, holder="train"):
            raise BodyError
    assert fake.held == {}


async def test_a_release_that_fails_does_not_hide_the_bodys_exception(fake: FakeServer, client: AsyncClient) -> None:
    fake.disturb("Release", Refused(Reason.INTERNAL_ERROR))
    with pytest.raises(BodyError) as e:
        async with client.lease("gpu", blocks=2, holder="train"):
            raise BodyError
    assert "was not released" in e.value.__notes__[0]


async def test_a_release_that_fails_is_raised_if_the_body_ended_in_peace(fake: FakeServer, client: AsyncClient) -> None:
    fake.disturb("Release", Refused(Reason.INTERNAL_ERROR))
    with pytest.raises(InternalError):
        async with client.lease("gpu", blocks=2, holder="train"):
            pass


async def test_a_release_is_tried_again_while_the_server_is_away(fake: FakeServer, client: AsyncClient) -> None:
    async with client.lease("gpu", blocks=2, holder="train"):
        fake.disturb("Release", Broken(), Refused(Reason.SHUTTING_DOWN), Refused(Reason.OVERLOADED))
    assert fake.held == {}


async def test_a_refused_lease_raises_and_leaves_the_token_alone(fake: FakeServer, client: AsyncClient) -> None:
    fake.disturb("Acquire", Refused(Reason.NO_CAPACITY))
    with pytest.raises(NoCapacity):
        await acquire_and_wait(client)
    assert fake.requests("Release") == []


async def test_an_acquire_that_is_never_answered_is_cancelled(fake: FakeServer, client: AsyncClient) -> None:
    fake.disturb("Acquire", Silent(after=True), *[Silent()] * 20)
    with pytest.raises(OutcomeUnknown):
        await acquire_and_wait(client, timeout_s=0.6)
    assert fake.held == {}
    assert set(fake.deliver_late()) <= {"TOKEN_CANCELLED", "ALLOCATION_ENDED"}


async def test_cancelling_during_the_acquire_cancels_its_token(fake: FakeServer, client: AsyncClient) -> None:
    fake.disturb("Acquire", Silent())
    task = asyncio.create_task(acquire_and_wait(client))
    await arrived(fake, "Acquire")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.deliver_late() == ["TOKEN_CANCELLED"]
    assert fake.held == {}


async def test_cancelling_again_does_not_keep_the_token_from_being_cancelled(
    fake: FakeServer, client: AsyncClient
) -> None:
    fake.disturb("Acquire", Silent())
    fake.disturb("Release", Refused(Reason.OVERLOADED, retry_after_s=0.3))
    task = asyncio.create_task(acquire_and_wait(client))
    await arrived(fake, "Acquire")
    task.cancel()
    await arrived(fake, "Release")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await arrived(fake, "Release", 2)
    assert fake.deliver_late() == ["TOKEN_CANCELLED"]


async def test_a_timeout_around_the_lease_cancels_the_acquire(fake: FakeServer, client: AsyncClient) -> None:
    fake.disturb("Acquire", *[Silent()] * 20)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await acquire_and_wait(client)
    assert [request.idempotency_token for request in fake.requests("Release")] == ["t-1"]


async def test_cancelling_the_body_releases(fake: FakeServer, client: AsyncClient) -> None:
    fake.ttl_s = 1.5
    task = asyncio.create_task(acquire_and_wait(client))
    await arrived(fake, "Renew")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fake.held == {}


async def test_a_lease_is_renewed_while_the_body_runs(fake: FakeServer, client: AsyncClient) -> None:
    fake.ttl_s = 1.5
    async with client.lease("gpu", blocks=2, holder="train", ttl=1.5) as lease:
        await arrived(fake, "Renew", 3)
        lease.check()
        assert not lease.lost.is_set()
    assert fake.held == {}


async def test_a_lease_that_has_ended_is_lost_at_once_and_says_why(fake: FakeServer, client: AsyncClient) -> None:
    fake.ttl_s = 1.5
    told: list[LeaseLost] = []
    async with client.lease("gpu", blocks=2, holder="train", ttl=1.5) as lease:
        lease.on_lost(told.append)
        fake.disturb("Renew", Refused(Reason.LEASE_EXPIRED))
        await asyncio.wait_for(lease.lost.wait(), timeout=30)
        with pytest.raises(LeaseLost, match="has ended: refused: LEASE_EXPIRED"):
            lease.check()
        lease.on_lost(told.append)
    assert len(told) == 2


async def test_a_lease_that_cannot_be_renewed_is_lost(fake: FakeServer, client: AsyncClient) -> None:
    fake.ttl_s = 0.6
    fake.disturb("Renew", *[Silent()] * 100)
    async with client.lease("gpu", blocks=2, holder="train", ttl=0.6) as lease:
        await asyncio.wait_for(lease.lost.wait(), timeout=30)
        with pytest.raises(LeaseLost, match="could not be renewed in time"):
            lease.check()
    assert fake.held == {}


class BrokenClient(AsyncClient):
    """A client with a fault: its renewals end in an exception that is none of ours."""

    async def call(self, call: Call[T]) -> T:
        if call.method == "Renew":
            raise ZeroDivisionError
        return await super().call(call)


async def test_a_lease_that_nobody_renews_any_more_is_lost_whatever_the_reason(fake: FakeServer) -> None:
    fake.ttl_s = 0.6
    async with (
        BrokenClient(fake.target) as client,
        client.lease("gpu", blocks=2, holder="train", ttl=0.6) as lease,
    ):
        await asyncio.wait_for(lease.lost.wait(), timeout=30)
        with pytest.raises(LeaseLost, match="is no longer renewed"):
            lease.check()


async def test_a_body_can_have_itself_cancelled_when_the_lease_is_lost(fake: FakeServer, client: AsyncClient) -> None:
    fake.ttl_s = 0.6
    fake.disturb("Renew", Refused(Reason.LEASE_EXPIRED))

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        async with client.lease("gpu", blocks=2, holder="train", ttl=0.6) as lease:
            lease.on_lost(lambda error: task.cancel(str(error)))
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError, match="has ended"):
        await work()
    assert fake.held == {}


async def test_a_lease_that_was_left_is_not_held_and_not_entered_again(client: AsyncClient) -> None:
    lease = client.lease("gpu", blocks=2, holder="train")
    with pytest.raises(RuntimeError, match="not entered"):
        lease.check()
    async with lease:
        lease.check()
    with pytest.raises(LeaseLost, match="was released"):
        lease.check()
    with pytest.raises(RuntimeError, match="once"):
        await lease.__aenter__()


async def test_renewals_and_the_release_carry_the_guards_of_the_holder(fake: FakeServer, client: AsyncClient) -> None:
    fake.ttl_s = 1.5
    async with client.lease("gpu", blocks=2, holder="train", ttl=1.5) as lease:
        await arrived(fake, "Renew")
    guards = {(each.holder, each.fencing_token) for each in (*fake.requests("Renew"), *fake.requests("Release"))}
    assert guards == {("train", lease.allocation.fencing_token)}


async def test_an_acquire_without_an_answer_is_cancelled_for_its_holder_alone(
    fake: FakeServer, client: AsyncClient
) -> None:
    fake.disturb("Acquire", *[Silent()] * 20)
    with pytest.raises(OutcomeUnknown):
        await acquire_and_wait(client, timeout_s=0.6)
    assert [each.holder for each in fake.requests("Release")] == ["train"]


@pytest.mark.parametrize("reason", [Reason.NOT_HOLDER, Reason.STALE_FENCING_TOKEN])
async def test_a_lease_whose_name_is_somebody_elses_by_now_is_lost_at_once(
    fake: FakeServer, client: AsyncClient, reason: Reason
) -> None:
    fake.ttl_s = 60
    fake.disturb("Renew", Refused(reason))
    async with client.lease("gpu", blocks=2, holder="train", ttl=60) as lease:
        await lease._renew(10)  # what its task does at a third of the lease
        with pytest.raises(LeaseLost, match=f"has ended: refused: {reason}"):
            lease.check()
