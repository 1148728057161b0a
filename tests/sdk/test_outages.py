"""What the SDK does, and says in its log, while no server answers; each with the blocking and the asyncio client."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from blockyard import (
    Allocation,
    AllocationEnded,
    AsyncClient,
    AsyncLease,
    Client,
    InternalError,
    Lease,
    LeaseLost,
    NotReleased,
    OutcomeUnknown,
    WrongLoop,
    operations,
)
from blockyard._allocator import get_allocation
from blockyard._call import Call
from blockyard._watching import WARN_AFTER_STREAMS
from blockyard.reasons import Reason
from blockyard.v1 import allocator_pb2 as pb
from tests.sdk.conftest import QUICK, Carrier
from tests.sdk.fake_server import Broken, FakeServer, Refused, Silent

Body = Callable[[Lease | AsyncLease], object]
InLease = Callable[..., None]
"""Carries out a body under a lease: (body, **arguments of the lease)."""

READ: Call[Allocation] = get_allocation("fleets/gpu/allocations/1")
NO_ANSWERS = [Broken()] * 10_000


@pytest.fixture(params=["blocking", "asyncio"])
def in_lease(request: pytest.FixtureRequest, fake: FakeServer) -> InLease:
    options: dict[str, Any] = {"retry": QUICK, "timeout_s": 1}

    def blocking(body: Body, **arguments: Any) -> None:
        with (
            Client(fake.target, **options) as client,
            client.lease("gpu", blocks=2, holder="train", **arguments) as lease,
        ):
            body(lease)

    async def awaiting(body: Body, **arguments: Any) -> None:
        async with (
            AsyncClient(fake.target, **options) as client,
            client.lease("gpu", blocks=2, holder="train", **arguments) as lease,
        ):
            body(lease)

    if request.param == "blocking":
        return blocking
    return lambda body, **arguments: asyncio.run(awaiting(body, **arguments))


def granted_before(fake: FakeServer, token: str) -> None:
    """Another process was granted blocks for this token, and died."""
    with Client(fake.target) as client:
        client.acquire("gpu", blocks=2, holder="train", token=token)


def test_a_lease_that_a_token_was_granted_before_is_renewed_before_its_body(
    fake: FakeServer, in_lease: InLease
) -> None:
    fake.ttl_s = 30
    granted_before(fake, "t-1")
    renewals: list[int] = []

    in_lease(lambda _: renewals.append(len(fake.requests("Renew"))), token="t-1")

    assert renewals == [1]


def test_a_lease_that_is_new_is_not_renewed_before_its_time(fake: FakeServer, in_lease: InLease) -> None:
    fake.ttl_s = 30
    in_lease(lambda lease: lease.check(), token="t-1")
    assert fake.requests("Renew") == []


def test_what_is_held_without_a_lease_needs_no_renewal(fake: FakeServer, in_lease: InLease) -> None:
    granted_before(fake, "t-1")
    in_lease(lambda lease: lease.check(), token="t-1")
    assert fake.requests("Renew") == []


def test_a_lease_from_before_that_has_ended_is_lost_and_its_body_never_begins(
    fake: FakeServer, in_lease: InLease
) -> None:
    fake.ttl_s = 30
    granted_before(fake, "t-1")
    fake.disturb("Renew", Refused(Reason.ALLOCATION_ENDED))
    bodies: list[object] = []

    with pytest.raises(LeaseLost) as lost:
        in_lease(bodies.append, token="t-1")

    assert isinstance(lost.value.__cause__, AllocationEnded)
    assert bodies == []
    assert fake.held == {}


def test_a_lease_from_before_that_cannot_be_renewed_in_time_is_lost(fake: FakeServer, in_lease: InLease) -> None:
    fake.ttl_s = 0.6
    granted_before(fake, "t-1")
    fake.disturb("Renew", *[Silent()] * 100)
    bodies: list[object] = []

    with pytest.raises(LeaseLost, match="could not be renewed in time"):
        in_lease(bodies.append, token="t-1")

    assert bodies == []
    assert fake.held == {}


def test_a_first_renewal_that_fails_is_tried_again(fake: FakeServer, in_lease: InLease) -> None:
    fake.ttl_s = 3
    granted_before(fake, "t-1")
    fake.disturb("Renew", Refused(Reason.INTERNAL_ERROR))
    bodies: list[int] = []

    in_lease(lambda _: bodies.append(len(fake.requests("Renew"))), token="t-1")

    assert bodies == [2]


def test_a_body_that_ended_well_is_no_failure_if_nobody_answers_its_release(
    fake: FakeServer, in_lease: InLease, caplog: pytest.LogCaptureFixture
) -> None:
    fake.ttl_s = 30
    leases: list[Lease | AsyncLease] = []

    def work(lease: Lease | AsyncLease) -> None:
        leases.append(lease)
        fake.disturb("Release", *NO_ANSWERS)

    in_lease(work)

    assert isinstance(leases[0].release_failure, OutcomeUnknown)
    # gRPC before 1.80 logs what it makes of two event loops in one process: the client's and the fake server's.
    ours = [record for record in caplog.record_tuples if "PollerCompletionQueue" not in record[2]]
    [(logger, level, message)] = [record for record in ours if record[1] >= logging.WARNING]
    assert (logger, level) == ("blockyard.lease", logging.WARNING)
    assert message.startswith("fleets/gpu/allocations/1 was not released, and stays held until its lease runs out: ")


def test_without_a_ttl_the_caller_is_told_what_stays_held(fake: FakeServer, in_lease: InLease) -> None:
    with pytest.raises(NotReleased, match="stays held until it is released") as failure:
        in_lease(lambda _: fake.disturb("Release", *NO_ANSWERS), ttl=None)
    assert failure.value.allocation == "fleets/gpu/allocations/1"
    assert isinstance(failure.value.__cause__, OutcomeUnknown)
    assert len(fake.held) == 1


def test_a_release_that_was_refused_is_raised_as_it_is(fake: FakeServer, in_lease: InLease) -> None:
    fake.ttl_s = 30
    with pytest.raises(InternalError):
        in_lease(lambda _: fake.disturb("Release", Refused(Reason.INTERNAL_ERROR)))


def test_each_retry_is_in_the_log_and_nothing_else_is(
    fake: FakeServer, carry_out: Carrier, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "blockyard")
    fake.disturb("Acquire", Broken(), Broken())
    carry_out(operations.acquire("gpu", blocks=2, holder="train"))
    carry_out(operations.acquire("gpu", blocks=2, holder="other"))

    said = [(record.name, record.levelname, record.getMessage()) for record in caplog.records]
    said = [each for each in said if each[0].startswith("blockyard")]
    assert [(name, level) for name, level, _ in said] == [("blockyard.retry", "INFO")] * 2
    assert ["attempt 2" in message or "attempt 3" in message for _, _, message in said] == [True, True]
    assert all(message.startswith("Acquire is asked for again in 0.0") for _, _, message in said)


def test_a_lease_that_is_lost_and_each_renewal_that_failed_are_in_the_log(
    fake: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    fake.ttl_s = 1.2
    fake.disturb("Renew", Refused(Reason.INTERNAL_ERROR), Refused(Reason.ALLOCATION_ENDED))
    with Client(fake.target, retry=QUICK) as client, client.lease("gpu", blocks=2, holder="train") as lease:
        assert lease.lost.wait(30)

    said = [(record.name, record.levelname) for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == [("blockyard.lease", level) for level in ("WARNING", "WARNING", "ERROR")]
    assert "has ended" in caplog.records[-1].getMessage()


def test_a_watch_says_that_nobody_answers_and_that_somebody_does_again(
    fake: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "blockyard")
    broken = Broken(grpc.StatusCode.UNAVAILABLE)
    fake.streams("Watch", *[[broken]] * (WARN_AFTER_STREAMS + 1), [pb.WatchResponse(revision=7)])
    with Client(fake.target, retry=QUICK) as client, client.watch("gpu") as watch:
        assert next(watch.updates()).revision == 7

    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "blockyard.watch"]
    levels = [level for level, _ in said]
    assert levels == ["INFO"] * (WARN_AFTER_STREAMS - 1) + ["WARNING", "INFO", "INFO"]
    assert "has no answer" in said[WARN_AFTER_STREAMS - 1][1]
    assert said[-1][1] == "the watch of fleets/gpu goes on, at revision 7"


def test_an_asyncio_client_may_be_made_before_its_loop_and_belongs_to_the_first(fake: FakeServer) -> None:
    client = AsyncClient(fake.target)

    async def acquire() -> str:
        grant = await client.acquire("gpu", blocks=2, holder="train")
        return grant.allocation.name

    async def lease() -> None:
        async with client.lease("gpu", blocks=2, holder="train"):
            pass

    async def watch() -> None:
        async with client.watch("gpu") as events:
            await anext(events)

    with asyncio.Runner() as own:
        assert own.run(acquire()) == "fleets/gpu/allocations/1"
        with asyncio.Runner() as other:
            for use in (acquire, lease, watch, client.close):
                with pytest.raises(WrongLoop, match="an AsyncClient for each loop"):
                    other.run(use())
        assert len(fake.seen) == 1
        assert own.run(acquire()) == "fleets/gpu/allocations/2"
        own.run(client.close())


def test_an_asyncio_client_that_was_never_used_can_be_closed(fake: FakeServer) -> None:
    client = AsyncClient(fake.target)
    asyncio.run(client.close())
    assert fake.seen == []
