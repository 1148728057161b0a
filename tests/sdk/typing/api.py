"""What a type checker makes of the public surface. `make types` reads this file, and nothing runs it."""

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import assert_type

from blockyard import (
    Allocation,
    AsyncClient,
    AsyncLease,
    AsyncWatch,
    CallFailed,
    Client,
    DescribeView,
    Event,
    EventKind,
    Fleet,
    FleetPage,
    FleetSnapshot,
    Grant,
    Identity,
    Instance,
    InvalidRequest,
    Lease,
    OutcomeUnknown,
    Permission,
    ReleaseResult,
    Renewal,
    RepairReport,
    VerifyReport,
    Watch,
    WatchUpdate,
    credentials_from_environment,
    operations,
)
from blockyard.errors import FieldViolation


def made_of_the_environment() -> tuple[Client, AsyncClient]:
    return Client(**credentials_from_environment()), AsyncClient(**credentials_from_environment())


def blocking(client: Client) -> None:
    assert_type(client.acquire("gpu", holder="a", blocks=1, selector={"zone": "a"}, ttl=timedelta(minutes=1)), Grant)
    assert_type(client.release("fleets/gpu/allocations/1"), ReleaseResult)
    assert_type(client.who_am_i(), Identity)
    assert_type(client.can_i(Permission.READ, "gpu"), bool)
    assert_type(client.release_by_token("gpu", "t-1"), ReleaseResult)
    assert_type(client.renew("fleets/gpu/allocations/1", ttl=30), Renewal)
    assert_type(client.describe("gpu", view=DescribeView.FULL), FleetSnapshot)
    assert_type(client.describe_page("gpu", page_size=10), FleetPage)
    assert_type(client.get_allocation("fleets/gpu/allocations/1"), Allocation)
    assert_type(client.list_allocations("gpu"), Iterator[Allocation])
    assert_type(client.list_events("gpu", from_revision=5), Iterator[Event])
    assert_type(client.verify("gpu"), VerifyReport)
    assert_type(client.repair("gpu", apply=True), RepairReport)
    assert_type(client.watch("gpu", kinds=[EventKind.GRANTED]), Watch)
    assert_type(next(client.watch("gpu")), Event)
    assert_type(client.watch("gpu").updates(), Iterator[WatchUpdate])
    assert_type(client.watch("gpu").revision, int | None)
    assert_type(client.list_fleets(), Iterator[Fleet])
    assert_type(client.update_fleet("gpu", default_ttl=None), Fleet)
    assert_type(client.create_instance("gpu", "node-1", total_blocks=8), Instance)
    assert_type(client.lease("gpu", blocks=1, holder="a"), Lease)
    with client as entered, client.lease("gpu", blocks=1, holder="a") as lease:
        assert_type(entered, Client)
        assert_type(lease.allocation, Allocation)


async def awaiting(client: AsyncClient) -> None:
    assert_type(await client.acquire("gpu", holder="a", blocks=1), Grant)
    assert_type(await client.describe("gpu"), FleetSnapshot)
    assert_type(client.list_allocations("gpu"), AsyncIterator[Allocation])
    assert_type(client.lease("gpu", blocks=1, holder="a"), AsyncLease)
    assert_type(client.watch("gpu", progress_interval=1.5), AsyncWatch)
    async for event in client.watch("gpu", from_revision=7):
        assert_type(event, Event)
    async for update in client.watch("gpu").updates():
        assert_type(update, WatchUpdate)
    async with client as entered, client.lease("gpu", blocks=1, holder="a") as lease:
        assert_type(entered, AsyncClient)
        assert_type(lease.allocation, Allocation)


def batches(client: Client) -> None:
    acquires = [operations.acquire("gpu", holder=holder, blocks=1) for holder in "ab"]
    assert_type(client.batch(acquires), list[Grant | CallFailed])
    for outcome in client.batch([*acquires, operations.release("fleets/gpu/allocations/1")]):
        if isinstance(outcome, ReleaseResult):
            assert_type(outcome, ReleaseResult)


def failures(client: Client) -> None:
    try:
        client.acquire("gpu", holder="a", blocks=1)
    except InvalidRequest as error:
        assert_type(error.field_violations, tuple[FieldViolation, ...])
    except CallFailed as error:
        assert_type(error.reason, str | None)
        assert_type(error.retry_delay, timedelta | None)
    except OutcomeUnknown as error:
        assert_type(error.token, str | None)


def mistakes(client: Client, lease: Lease) -> None:
    """Each line is an error; mypy complains about an ignore that is not needed."""
    client.acquire("gpu", blocks=1)  # type: ignore[call-arg]  # without a holder
    client.acquire("gpu", 1, holder="a")  # type: ignore[misc,arg-type]  # by position
    client.acquire("gpu", holder="a", strategy="BEST_FIT")  # type: ignore[arg-type]  # not a word but an enum
    client.batch([client.acquire("gpu", holder="a", blocks=1)])  # type: ignore[arg-type]  # a grant, no operation
    lease.on_lost(lambda: None)  # type: ignore[arg-type,misc]  # without the LeaseLost
