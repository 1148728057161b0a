"""What one principal may ask for, at a real port: its rate, what it has under way, and what is never limited."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from blockyard.v1 import access_pb2, fleet_admin_pb2, ledger_pb2
from blockyard.v1 import allocator_pb2 as pb
from blockyard_server.domain.policy import Role
from blockyard_server.domain.requests import Acquire, Request
from blockyard_server.engine.asker import ANYBODY, Asker
from blockyard_server.engine.failures import RateLimited
from blockyard_server.rpc import rates as rates_module
from blockyard_server.rpc.auth.principal import ANONYMOUS, Principal, PrincipalLimits, set_principal
from blockyard_server.rpc.authorization import RULES
from blockyard_server.rpc.prices import PRICES, Kind, Price
from blockyard_server.rpc.rates import LEAST_WAIT_S, SPREAD_S, Bucket, Rates
from tests.harness.patience import eventually
from tests.rpc.fake_service import FakeService
from tests.rpc.principals import Known, knowing, principal
from tests.rpc.wire import Blockyard, acquire_request, refusal_of

HELD = "held"


class HoldingService(FakeService):
    """Does not answer those who ask for it."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()
        self.holding = 0

    async def submit(self, request: Request, asker: Asker = ANYBODY) -> Any:
        if isinstance(request, Acquire) and request.token.startswith(HELD):
            await self._hold()
        return await super().submit(request, asker)

    async def describe(self, fleet: str, **page: Any) -> Any:
        await self._hold()
        return await super().describe(fleet, **page)

    async def verify(self, fleet: str) -> Any:
        await self._hold()
        return await super().verify(fleet)

    async def _hold(self) -> None:
        self.holding += 1
        await self.let_go.wait()
        self.holding -= 1


@asynccontextmanager
async def limited(service: FakeService | None = None, **limits: Any) -> AsyncIterator[tuple[Blockyard, Known]]:
    """A client of a principal with these limits, and a fleet that another has made."""
    few = replace(principal(Role.ADMIN), limits=PrincipalLimits(**limits))
    others = principal(Role.ADMIN, tenant="t2")
    async with knowing(service or FakeService(), {"few": few, "other": others}) as known:
        other = await known.client("other")
        await other.make_fleet("gpu", "n1", blocks=4096)
        yield await known.client("few"), known


def test_each_method_that_needs_a_permission_has_a_price() -> None:
    assert set(PRICES) == set(RULES)


@pytest.mark.parametrize(
    ("method", "request_", "kind", "units"),
    [
        ("Allocator.Acquire", pb.AcquireRequest(), Kind.CALL, 1),
        ("Allocator.Renew", pb.RenewRequest(), Kind.CONTROL, 0),
        ("Allocator.Release", pb.ReleaseRequest(), Kind.CONTROL, 0),
        ("Allocator.Batch", pb.BatchRequest(operations=[pb.BatchOperation(renew=pb.RenewRequest())]), Kind.CONTROL, 0),
        (
            "Allocator.Batch",
            pb.BatchRequest(operations=[pb.BatchOperation(acquire=acquire_request())] * 1000),
            Kind.CALL,
            101,
        ),
        ("Allocator.Describe", pb.DescribeRequest(), Kind.PAGE_READ, 2),
        ("Allocator.ListAllocations", pb.ListAllocationsRequest(page_size=1000), Kind.PAGE_READ, 11),
        ("Ledger.ListEvents", ledger_pb2.ListEventsRequest(page_size=2**31 - 1), Kind.PAGE_READ, 11),
        ("FleetAdmin.ListFleets", fleet_admin_pb2.ListFleetsRequest(page_size=-5), Kind.PAGE_READ, 2),
        ("Allocator.Watch", pb.WatchRequest(), Kind.WATCH, 1),
        ("Ledger.Verify", ledger_pb2.VerifyRequest(), Kind.VERIFY, 200),
        ("Access.WhoAmI", access_pb2.WhoAmIRequest(), Kind.CALL, 1),
    ],
)
def test_prices(method: str, request_: Message, kind: Kind, units: float) -> None:
    pricing = PRICES[f"blockyard.v1.{method}"]
    assert pricing is not None
    assert (pricing if isinstance(pricing, Price) else pricing(request_)) == (kind, units)


async def test_whoever_has_used_up_its_rate_is_told_when_to_come_back() -> None:
    async with limited(units_per_s=0.001, burst=3) as (client, known):
        for number in range(3):
            await client.allocator.Acquire(acquire_request(f"t{number}"))

        refusal = await refusal_of(client.allocator.Acquire(acquire_request("one more")))

        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "RATE_LIMITED")
        assert refusal.metadata == {"limit": "units_per_s", "maximum": "0.001"}
        delay = refusal.details["RetryInfo"].retry_delay
        assert 990 < delay.seconds <= 1000, "one unit at a thousandth a second"
        other = await known.client("other")
        for number in range(5):
            await other.allocator.Acquire(acquire_request(f"other {number}"))


async def test_a_lease_is_renewed_and_released_however_much_was_asked_for() -> None:
    async with limited(units_per_s=0.001, burst=1) as (client, _):
        held = (await client.allocator.Acquire(acquire_request())).allocation.name
        assert (await refusal_of(client.allocator.Acquire(acquire_request("b")))).reason == "RATE_LIMITED"

        for _ in range(5):
            await client.allocator.Renew(pb.RenewRequest(name=held))
        renew = pb.BatchOperation(renew=pb.RenewRequest(name=held))
        answer = await client.allocator.Batch(pb.BatchRequest(operations=[renew] * 10))
        assert not any(result.HasField("error") for result in answer.results)
        await client.allocator.Release(pb.ReleaseRequest(name=held))


async def test_a_batch_that_acquires_counts_by_its_operations() -> None:
    async with limited(units_per_s=0.001, burst=12) as (client, _):
        batch = [pb.BatchOperation(acquire=acquire_request(f"t{number}")) for number in range(100)]
        await client.allocator.Batch(pb.BatchRequest(operations=batch))
        await client.allocator.Acquire(acquire_request("the twelfth unit"))

        assert (await refusal_of(client.allocator.Acquire(acquire_request("b")))).reason == "RATE_LIMITED"


async def test_a_batch_of_nothing_costs_as_much_as_one_that_acquires() -> None:
    async with limited(units_per_s=0.001, burst=12) as (client, _):
        await client.allocator.Batch(pb.BatchRequest(operations=[pb.BatchOperation()] * 110))

        assert (await refusal_of(client.allocator.Acquire(acquire_request("b")))).reason == "RATE_LIMITED"


async def test_held_blocks_of_a_full_snapshot_are_owed() -> None:
    async with limited(units_per_s=0.001, burst=4) as (client, known):
        other = await known.client("other")
        await other.allocator.Acquire(acquire_request(blocks=3000))
        full = pb.DescribeRequest(fleet="fleets/gpu", view=pb.DescribeView.FULL)
        await client.allocator.Describe(full)  # two units, and three for the blocks

        refusal = await refusal_of(client.allocator.Acquire(acquire_request("b")))
        assert refusal.details["RetryInfo"].retry_delay.seconds > 1900


async def test_whoever_may_not_ask_may_not_ask_more_often() -> None:
    few = replace(principal(Role.VIEWER), limits=PrincipalLimits(units_per_s=0.001, burst=2))
    async with knowing(FakeService(), {"few": few}) as known:
        client = await known.client("few")
        found = [(await refusal_of(client.allocator.Acquire(acquire_request()))).reason for _ in range(3)]

    assert found == ["NOT_PERMITTED", "NOT_PERMITTED", "RATE_LIMITED"]


Ask = Callable[[Blockyard, int], Any]


@pytest.mark.parametrize(
    ("limit", "ask"),
    [
        ("calls", lambda client, n: client.allocator.Acquire(acquire_request(f"{HELD}-{n}"))),
        ("page_reads", lambda client, _: client.allocator.Describe(pb.DescribeRequest(fleet="fleets/gpu"))),
        ("verifies", lambda client, _: client.ledger.Verify(ledger_pb2.VerifyRequest(fleet="fleets/gpu"))),
    ],
)
async def test_no_more_calls_of_a_kind_are_under_way_than_a_principal_may_have(limit: str, ask: Ask) -> None:
    service = HoldingService()
    async with limited(service, **{limit: 3}) as (client, known):
        under_way = [asyncio.ensure_future(ask(client, number)) for number in range(3)]
        await eventually(lambda: _holds(service, 3), "three calls are under way")

        refusal = await refusal_of(ask(client, 4))

        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "RATE_LIMITED")
        assert refusal.metadata == {"limit": limit, "maximum": "3"}
        delay = refusal.details["RetryInfo"].retry_delay
        assert LEAST_WAIT_S <= delay.seconds + delay.nanos / 1e9 <= LEAST_WAIT_S + SPREAD_S
        other = await known.client("other")
        under_way += [asyncio.ensure_future(ask(other, number)) for number in range(10, 12)]
        await eventually(lambda: _holds(service, 5), "another principal has places of its own")
        service.let_go.set()
        await asyncio.gather(*under_way)
        await ask(client, 5)


async def _holds(service: HoldingService, calls: int) -> bool:
    return service.holding == calls


async def test_renewals_have_places_beside_all_other_calls() -> None:
    service = HoldingService()
    async with limited(service, calls=1) as (client, _):
        held = (await client.allocator.Acquire(acquire_request())).allocation.name
        waits = asyncio.ensure_future(client.allocator.Acquire(acquire_request(HELD)))
        await eventually(lambda: _holds(service, 1), "a call is under way")

        await client.allocator.Renew(pb.RenewRequest(name=held))
        await client.allocator.Release(pb.ReleaseRequest(name=held))

        service.let_go.set()
        await waits


async def test_a_watch_keeps_its_place_until_it_ends() -> None:
    async with limited(watches=1) as (client, _):
        watch = client.allocator.Watch(pb.WatchRequest(fleet="fleets/gpu"))
        await watch.read()
        second = client.allocator.Watch(pb.WatchRequest(fleet="fleets/gpu"))
        assert (await refusal_of(second.read())).metadata["limit"] == "watches"

        watch.cancel()

        async def there_is_a_place() -> bool:
            third = client.allocator.Watch(pb.WatchRequest(fleet="fleets/gpu"))
            try:
                return bool(await third.read())
            except grpc.aio.AioRpcError:
                return False

        await eventually(there_is_a_place, "the place is free again")


async def test_where_nobody_is_asked_who_he_is_there_are_no_limits(blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "n1", blocks=64)
    for number in range(50):
        await blockyard.allocator.Acquire(acquire_request(f"t{number}"))


async def test_a_call_takes_the_share_of_its_tenant_with_its_weight() -> None:
    heavy = replace(principal(Role.ADMIN, tenant="heavy"), weight=3)
    service = FakeService()
    async with knowing(service, {"heavy": heavy}) as known:
        client = await known.client("heavy", blockyard_caller="below")
        await client.make_fleet("gpu", "n1")
        held = (await client.allocator.Acquire(acquire_request())).allocation.name
        await client.allocator.Renew(pb.RenewRequest(name=held))
        batch = [pb.BatchOperation(renew=pb.RenewRequest(name=held))]
        await client.allocator.Batch(pb.BatchRequest(operations=batch))
        await client.allocator.Release(pb.ReleaseRequest(name=held))
        plain = await known.client("heavy")
        await plain.admin.CordonInstance(fleet_admin_pb2.CordonInstanceRequest(name="fleets/gpu/instances/n1"))

    assert set(service.askers) == {Asker("heavy", 3, is_known=True)}
    assert len(service.askers) == len(service.requests) == 7


async def test_without_identities_a_call_takes_the_share_of_its_caller(
    blockyard: Blockyard, service: FakeService
) -> None:
    await blockyard.make_fleet("gpu", "n1")
    mine = {"metadata": (("blockyard-caller", "mine"),)}
    held = (await blockyard.allocator.Acquire(acquire_request(), **mine)).allocation.name
    await blockyard.allocator.Renew(pb.RenewRequest(name=held), **mine)
    await blockyard.allocator.Release(pb.ReleaseRequest(name=held), **mine)
    await refusal_of(blockyard.allocator.Renew(pb.RenewRequest(name=held), metadata=(("blockyard-caller", "a/b"),)))

    assert [asker.tenant for asker in service.askers] == ["default", "default", "mine", "mine", "mine", "default"]


units = st.floats(0.01, 300)


@given(st.floats(0.1, 1000), st.floats(0.1, 1000), st.lists(st.tuples(units, st.floats(0, 5)), max_size=30))
def test_the_wait_is_exact_and_no_more_than_the_rate_is_let_through(
    rate: float, burst: float, calls: list[tuple[float, float]]
) -> None:
    """In any time: no more units than the burst, the rate's, and the rest of one call above its burst."""
    now_s = 1000.0
    bucket = Bucket(rate, burst, now_s)
    taken = largest = 0.0
    begun: list[tuple[float, float]] = []
    for units_of_call, pause_s in calls:
        now_s += pause_s
        wait_s = bucket.wait_s(units_of_call, now_s)
        if wait_s:
            assert bucket.wait_s(units_of_call, now_s + 0.99 * wait_s) > 0, "not earlier"
            now_s += wait_s * (1 + 1e-9) + 1e-9
            assert bucket.wait_s(units_of_call, now_s) <= 1e-6, "and not later"
        begun.append((now_s, taken))
        taken += units_of_call
        largest = max(largest, units_of_call)
        for since_s, before in begun:
            assert taken - before <= burst + rate * (now_s - since_s) + max(0.0, largest - burst) + 1e-3


def test_a_new_auth_file_counts_at_once() -> None:
    rates = Rates(lambda: 100.0)
    enter = rates.entrance("blockyard.v1.Allocator.Acquire")
    slow = Principal("a", "t", "x", limits=PrincipalLimits(units_per_s=1, burst=1))
    set_principal(slow)
    assert enter(acquire_request())
    with pytest.raises(RateLimited):
        enter(acquire_request())
    set_principal(replace(slow, limits=PrincipalLimits(units_per_s=5, burst=5, calls=3)))
    assert enter(acquire_request())
    assert enter(acquire_request())
    with pytest.raises(RateLimited) as refusal:
        enter(acquire_request())
    assert refusal.value.metadata == {"limit": "calls", "maximum": "3"}
    assert rates.refused == {"units_per_s": 1, "calls": 1, "page_reads": 0, "watches": 0, "verifies": 0}


def test_what_is_known_of_principals_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates_module, "MAX_ACCOUNTS", 100)
    now_s = 0.0
    rates = Rates(lambda: now_s)
    enter = rates.entrance("blockyard.v1.Allocator.Acquire")
    limits = PrincipalLimits(units_per_s=1e-6, burst=1)

    def call(name: str) -> Any:
        set_principal(Principal(name, "t", "x", limits=limits))
        return enter(acquire_request())

    busy = call("busy")
    for number in range(1000):
        now_s += 1
        call(f"passing {number}").leave()
        assert len(rates) <= 100
    with pytest.raises(RateLimited):
        call("passing 999")
    with pytest.raises(RateLimited):
        call("busy")
    busy.leave()
    set_principal(ANONYMOUS)
    assert enter(acquire_request()) is None
