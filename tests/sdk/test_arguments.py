"""Arguments that would be taken for something else are refused before anything is sent: empty guards, wrong names."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from blockyard import AsyncClient, Client, Demand, Expression, InvalidTarget, Operator, Placement, Selector, operations
from tests.sdk.fake_server import FakeServer

HELD = "fleets/gpu/allocations/17"
Method: TypeAlias = Callable[..., Any]

EMPTY_GUARDS: dict[str, Callable[[Any], Any]] = {
    "release holder": lambda client: client.release(HELD, holder=""),
    "release fence": lambda client: client.release(HELD, fencing_token=0),
    "release placements": lambda client: client.release(HELD, placements=[]),
    "release by token holder": lambda client: client.release_by_token("gpu", "t-1", holder=""),
    "release by token fence": lambda client: client.release_by_token("gpu", "t-1", fencing_token=0),
    "renew holder": lambda client: client.renew(HELD, holder=""),
    "renew fence": lambda client: client.renew(HELD, fencing_token=0),
    "batch holder": lambda client: client.batch([operations.release(HELD, holder="")]),
    "allocations holder": lambda client: client.list_allocations("gpu", holder=""),
    "allocations state": lambda client: client.list_allocations("gpu", state=""),
    "allocations any state": lambda client: client.list_allocations("gpu", state="STATE_UNSPECIFIED"),
    "allocations instance": lambda client: client.list_allocations("gpu", instance=""),
    "events holder": lambda client: client.list_events("gpu", holder=""),
    "events instance": lambda client: client.list_events("gpu", instance=""),
    "events kinds": lambda client: client.list_events("gpu", kinds=[]),
    "events any kind": lambda client: client.list_events("gpu", kinds=["KIND_UNSPECIFIED"]),
    "watch holder": lambda client: client.watch("gpu", holder=""),
    "watch instance": lambda client: client.watch("gpu", instance=""),
    "watch kinds": lambda client: client.watch("gpu", kinds=()),
    "update fleet etag": lambda client: client.update_fleet("gpu", labels={}, etag=""),
    "delete fleet etag": lambda client: client.delete_fleet("gpu", etag=""),
    "update instance etag": lambda client: client.update_instance("gpu", "node-1", labels={}, etag=""),
    "delete instance etag": lambda client: client.delete_instance("gpu", "node-1", etag=""),
    "cordon etag": lambda client: client.cordon_instance("gpu", "node-1", etag=""),
    "uncordon etag": lambda client: client.uncordon_instance("gpu", "node-1", etag=""),
    "acquire instance names": lambda client: client.acquire("gpu", blocks=1, holder="a", instance_names=[]),
    "lease instance names": lambda client: client.lease("gpu", blocks=1, holder="a", instance_names=()),
    "demand instance names": lambda _: Demand(blocks=1, instance_names=()),
    "acquire strategy": lambda client: client.acquire("gpu", blocks=1, holder="a", strategy=""),
}

NO_IDS = ["", "/", "rack-1/node-1", "fleets/", "fleets/gpu/", "fleets/gpu/instances/", "fleets/gpu/allocations/17"]
NO_FLEETS = [*NO_IDS, "fleets/gpu/instances/node-1", "instances/node-1"]
NO_INSTANCES = [*NO_IDS, "fleets/gpu", "fleets/cpu/instances/node-1", "instances/node-1", "gpu/node-1"]

OF_A_FLEET: dict[str, Callable[[Any, str], Any]] = {
    "acquire": lambda client, fleet: client.acquire(fleet, blocks=1, holder="a"),
    "lease": lambda client, fleet: client.lease(fleet, blocks=1, holder="a"),
    "release by token": lambda client, fleet: client.release_by_token(fleet, "t-1"),
    "describe": lambda client, fleet: client.describe(fleet),
    "describe page": lambda client, fleet: client.describe_page(fleet),
    "allocations": lambda client, fleet: client.list_allocations(fleet),
    "events": lambda client, fleet: client.list_events(fleet),
    "watch": lambda client, fleet: client.watch(fleet),
    "verify": lambda client, fleet: client.verify(fleet),
    "repair": lambda client, fleet: client.repair(fleet),
    "create fleet": lambda client, fleet: client.create_fleet(fleet),
    "get fleet": lambda client, fleet: client.get_fleet(fleet),
    "update fleet": lambda client, fleet: client.update_fleet(fleet, labels={}),
    "delete fleet": lambda client, fleet: client.delete_fleet(fleet),
    "instances": lambda client, fleet: client.list_instances(fleet),
    "create instance": lambda client, fleet: client.create_instance(fleet, "node-1", total_blocks=1),
    "get instance": lambda client, fleet: client.get_instance(fleet, "node-1"),
}

OF_AN_INSTANCE: dict[str, Callable[[Any, str], Any]] = {
    "acquire": lambda client, name: client.acquire("gpu", blocks=1, holder="a", instance_names=[name]),
    "demand": lambda client, name: client.acquire(
        "gpu", holder="a", demands=[Demand(blocks=1, instance_names=(name,))]
    ),
    "release": lambda client, name: client.release(HELD, placements=[Placement(name, (0,))]),
    "allocations": lambda client, name: client.list_allocations("gpu", instance=name),
    "events": lambda client, name: client.list_events("gpu", instance=name),
    "watch": lambda client, name: client.watch("gpu", instance=name),
    "create": lambda client, name: client.create_instance("gpu", name, total_blocks=1),
    "get": lambda client, name: client.get_instance("gpu", name),
    "update": lambda client, name: client.update_instance("gpu", name, labels={}),
    "delete": lambda client, name: client.delete_instance("gpu", name),
    "cordon": lambda client, name: client.cordon_instance("gpu", name),
    "uncordon": lambda client, name: client.uncordon_instance("gpu", name),
}

SINGLE_STRINGS: dict[str, Callable[[Any], Any]] = {
    "acquire": lambda client: client.acquire("gpu", blocks=1, holder="a", instance_names="node-1"),
    "acquire bytes": lambda client: client.acquire("gpu", blocks=1, holder="a", instance_names=b"node-1"),
    "lease": lambda client: client.lease("gpu", blocks=1, holder="a", instance_names="node-1"),
    "operation": lambda _: operations.acquire("gpu", blocks=1, holder="a", instance_names="node-1"),
    "demand": lambda _: Demand(blocks=1, instance_names="node-1"),  # type: ignore[arg-type]  # what this is about
    "expression": lambda _: Expression("gpu", Operator.IN, "a100"),  # type: ignore[arg-type]  # what this is about
    "selector": lambda _: Selector(match_expressions="gpu"),  # type: ignore[arg-type]  # what this is about
    "labels of a selector": lambda _: Selector("gpu=a100"),  # type: ignore[arg-type]  # what this is about
    "acquire selector": lambda client: client.acquire("gpu", blocks=1, holder="a", selector="gpu=a100"),
    "demands": lambda client: client.acquire("gpu", holder="a", demands="gpu"),
    "demands of strings": lambda client: client.acquire("gpu", holder="a", demands=["gpu"]),
    "requirements": lambda client: client.acquire("gpu", holder="a", requirements="gpu=2"),
    "annotations": lambda client: client.acquire("gpu", blocks=1, holder="a", annotations="a=b"),
    "placements": lambda client: client.release(HELD, placements="node-1"),
    "blocks": lambda client: client.release(
        HELD,
        placements=[Placement("node-1", b"01")],  # type: ignore[arg-type]  # what this is about
    ),
    "events": lambda client: client.list_events("gpu", kinds="GRANTED"),
    "watch": lambda client: client.watch("gpu", kinds="GRANTED"),
    "batch": lambda client: client.batch("release"),
    "batch of strings": lambda client: client.batch([HELD]),
    "labels of a fleet": lambda client: client.create_fleet("gpu", labels="a=b"),
    "labels of an instance": lambda client: client.update_instance("gpu", "node-1", labels="a=b"),
    "resources": lambda client: client.create_instance("gpu", "node-1", total_blocks=1, resources="gpu=8"),
}


def refused(call: Method, client: Client, fake: FakeServer, *arguments: str, error: type[Exception]) -> str:
    with pytest.raises(error) as refusal:
        call(client, *arguments)
    assert fake.seen == []
    return str(refusal.value)


@pytest.mark.parametrize("call", EMPTY_GUARDS.values(), ids=EMPTY_GUARDS)
def test_a_guard_or_a_filter_that_is_empty_is_refused(fake: FakeServer, client: Client, call: Method) -> None:
    refused(call, client, fake, error=ValueError)


def test_the_refusal_of_an_empty_guard_names_the_argument(fake: FakeServer, client: Client) -> None:
    assert refused(EMPTY_GUARDS["release holder"], client, fake, error=ValueError) == (
        "holder is empty (''); omit it to match any"
    )


@pytest.mark.parametrize("fleet", NO_FLEETS)
@pytest.mark.parametrize("call", OF_A_FLEET.values(), ids=OF_A_FLEET)
def test_a_fleet_is_named_by_its_id_or_its_full_name(
    fake: FakeServer, client: Client, call: Method, fleet: str
) -> None:
    assert "is not a fleet" in refused(call, client, fake, fleet, error=ValueError)


@pytest.mark.parametrize("name", NO_INSTANCES)
@pytest.mark.parametrize("call", OF_AN_INSTANCE.values(), ids=OF_AN_INSTANCE)
def test_an_instance_is_named_by_its_id_or_its_full_name(
    fake: FakeServer, client: Client, call: Method, name: str
) -> None:
    assert "is not an instance of 'fleets/gpu'" in refused(call, client, fake, name, error=ValueError)


@pytest.mark.parametrize("call", SINGLE_STRINGS.values(), ids=SINGLE_STRINGS)
def test_a_string_is_not_taken_for_several_values(fake: FakeServer, client: Client, call: Method) -> None:
    refused(call, client, fake, error=TypeError)


async def test_the_asyncio_client_refuses_the_same(fake: FakeServer) -> None:
    async with AsyncClient(fake.target) as client:
        with pytest.raises(ValueError, match="holder is empty"):
            await client.release(HELD, holder="")
        with pytest.raises(ValueError, match="holder is empty"):
            client.watch("gpu", holder="")
        with pytest.raises(ValueError, match="is not a fleet"):
            await client.create_fleet("team-a/gpu")
        with pytest.raises(TypeError, match="instance_names"):
            await client.acquire("gpu", blocks=1, holder="a", instance_names="node-1")
    assert fake.seen == []


@pytest.mark.parametrize("make", [Client, AsyncClient])
async def test_an_empty_caller_is_not_the_default_one(make: type[Client] | type[AsyncClient]) -> None:
    with pytest.raises(ValueError, match="caller is empty"):
        make("127.0.0.1:1", caller="")


@pytest.mark.parametrize("make", [Client, AsyncClient])
async def test_an_empty_target_is_not_the_default_one(make: type[Client] | type[AsyncClient]) -> None:
    with pytest.raises(InvalidTarget, match="the target is empty"):
        make("")


def test_full_names_of_the_right_kind_are_taken(fake: FakeServer, client: Client) -> None:
    client.acquire("fleets/gpu", blocks=1, holder="a", instance_names=["fleets/gpu/instances/node-1", "node-2"])
    [request] = fake.requests("Acquire")
    assert request.fleet == "fleets/gpu"
    assert list(request.demands[0].instance_names) == ["fleets/gpu/instances/node-1", "fleets/gpu/instances/node-2"]


def test_what_is_left_out_is_absent_on_the_wire(fake: FakeServer, client: Client) -> None:
    client.release(client.acquire("gpu", blocks=1, holder="a").allocation)
    [request] = fake.requests("Release")
    assert not request.HasField("holder")
    assert not request.HasField("fencing_token")
