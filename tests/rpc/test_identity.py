"""Who calls: asked before a request is read, kept apart from other calls, looked at again while a stream is open."""

import asyncio
from typing import Any, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from blockyard.v1 import access_pb2, ledger_pb2
from blockyard.v1 import allocator_pb2 as pb
from blockyard_server.domain.policy import Role
from blockyard_server.domain.requests import Acquire
from blockyard_server.rpc.auth.principal import current_principal
from blockyard_server.rpc.server import EdgeSettings
from blockyard_server.settings import MAX_REQUEST_BYTES
from tests.rpc.fake_service import FakeService
from tests.rpc.principals import knowing, principal
from tests.rpc.wire import Blockyard, Refusal, acquire_request, refusal_of

ONE: Final = principal(Role.ADMIN, tenant="one", callers=frozenset({"before"}))
TWO: Final = principal(Role.ADMIN, tenant="two")
BOTH: Final = {"token-one": ONE, "token-two": TWO}


async def events_of(client: Blockyard) -> list[Any]:
    answer = await client.ledger.ListEvents(ledger_pb2.ListEventsRequest(parent="fleets/gpu"))
    return list(answer.events)


@pytest.mark.parametrize(("token", "scheme"), [(None, "none"), ("", "bearer"), ("token", "bearer")])
async def test_a_stranger_is_refused_whatever_it_asks(token: str | None, scheme: str) -> None:
    async with knowing(FakeService(), BOTH) as server:
        client = await server.client(token)
        refusals: list[Refusal] = [
            await refusal_of(client.allocator.Acquire(acquire_request())),
            await refusal_of(client.access.WhoAmI(access_pb2.WhoAmIRequest())),
            await refusal_of(client.allocator.Watch(pb.WatchRequest(fleet="fleets/gpu")).read()),
        ]

    assert {(r.code, r.reason) for r in refusals} == {(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")}
    assert [r.metadata for r in refusals] == [{"scheme": scheme}] * 3


async def test_the_body_of_a_stranger_is_not_read() -> None:
    """One that is too large would be refused for that if it were read."""
    large = pb.AcquireRequest(fleet="x" * (MAX_REQUEST_BYTES + 1))
    async with knowing(FakeService(), BOTH) as server:
        stranger = await refusal_of((await server.client("token")).allocator.Acquire(large))
        known = await refusal_of((await server.client("token-one")).allocator.Acquire(large))

    assert (stranger.reason, known.code) == ("UNAUTHENTICATED", grpc.StatusCode.RESOURCE_EXHAUSTED)


async def test_whoever_watches_over_a_server_needs_no_credentials() -> None:
    async with knowing(FakeService(), BOTH) as server:
        stub: Any = health_pb2_grpc.HealthStub((await server.client(None)).channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        watched = await stub.Watch(health_pb2.HealthCheckRequest()).read()

    assert answer.status == watched.status == health_pb2.HealthCheckResponse.SERVING


async def test_calls_that_are_under_way_at_once_do_not_mix_up_who_calls() -> None:
    async with knowing(FakeService(), BOTH) as server:
        one, two = await server.client("token-one"), await server.client("token-two")
        await one.make_fleet("gpu", "n1", blocks=4096)
        await asyncio.gather(
            *(client.allocator.Acquire(acquire_request(f"{i}")) for i in range(200) for client in (one, two))
        )
        granted = [event for event in await events_of(one) if event.kind == ledger_pb2.Event.GRANTED]
        me = await asyncio.gather(
            *(client.access.WhoAmI(access_pb2.WhoAmIRequest()) for _ in range(50) for client in (one, two))
        )

    assert len(granted) == 98, "the first page, without the fleet and its instance"
    assert {event.actor for event in granted} == {"one/admin-of-one", "two/admin-of-two"}
    assert {event.via for event in granted} == {"token:test"}
    assert [answer.tenant for answer in me] == ["one", "two"] * 50


async def test_outside_of_a_call_nobody_is_known() -> None:
    async with knowing(FakeService(), BOTH) as server:
        await (await server.client("token-one")).access.WhoAmI(access_pb2.WhoAmIRequest())

    with pytest.raises(LookupError):
        current_principal()


@pytest.mark.parametrize(
    ("named", "caller"),
    [(None, "one"), ("one", "one"), ("batch", "one/batch"), ("before", "before"), ("two", "one/two")],
)
async def test_a_tenants_tokens_are_its_own_whatever_caller_it_names(named: str | None, caller: str) -> None:
    service = FakeService()
    async with knowing(service, BOTH) as server:
        client = await server.client("token-one", **({} if named is None else {"blockyard_caller": named}))
        await client.make_fleet("gpu", "n1")
        await client.allocator.Acquire(acquire_request())

    acquire = service.requests[-1]
    assert isinstance(acquire, Acquire)
    assert acquire.caller == caller


async def test_every_change_says_who_asked_for_it() -> None:
    async with knowing(FakeService(), BOTH) as server:
        one, two = await server.client("token-one"), await server.client("token-two")
        await one.make_fleet("gpu", "n1")
        grant = await one.allocator.Acquire(acquire_request())
        await two.allocator.Release(pb.ReleaseRequest(name=grant.allocation.name))
        events = await events_of(one)

    assert [event.actor for event in events] == ["one/admin-of-one"] * 3 + ["two/admin-of-two"]


async def test_a_stream_ends_soon_after_its_credentials_do() -> None:
    async with knowing(FakeService(), BOTH, EdgeSettings(recheck_s=0.01)) as server:
        client = await server.client("token-one")
        await client.make_fleet("gpu", "n1")
        watch = client.allocator.Watch(pb.WatchRequest(fleet="fleets/gpu"))
        await watch.read()
        del server.authenticator.principals["token-one"]
        refusal = await refusal_of(watch.read())

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_EXPIRED")


async def test_where_nobody_is_asked_events_name_nobody(blockyard: Blockyard) -> None:
    await blockyard.make_fleet("gpu", "n1")

    assert [(event.actor, event.via) for event in await events_of(blockyard)] == [("", "")] * 2
