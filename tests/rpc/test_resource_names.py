"""google.api.resource and resource_reference say which names the server reads and writes: both sides are compared."""

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf.message import Message

from blockyard.v1 import allocator_pb2, fleet_admin_pb2, ledger_pb2
from blockyard_server.rpc.fields import Violations
from blockyard_server.rpc.names import (
    decode_allocation,
    decode_fleet,
    decode_instance,
    encode_allocation_name,
    encode_fleet_name,
    encode_instance_name,
)
from tests.harness.samples import some_at_first
from tests.protos.annotations import RESOURCES, is_ours, reference_of, resource_of
from tests.rpc.answers import answer, concerns
from tests.rpc.servers import real_server
from tests.rpc.well_formed import REQUESTS, make_world
from tests.rpc.wire import Blockyard

IDS: dict[str, tuple[Any, ...]] = {
    "blockyard.dev/Fleet": ("gpu",),
    "blockyard.dev/Instance": ("gpu", "node-1"),
    "blockyard.dev/Allocation": ("gpu", 7),
}
ENCODE: dict[str, Callable[..., str]] = {
    "blockyard.dev/Fleet": encode_fleet_name,
    "blockyard.dev/Instance": encode_instance_name,
    "blockyard.dev/Allocation": encode_allocation_name,
}
DECODE: dict[str, Callable[[str, str, Violations], Any]] = {
    "blockyard.dev/Fleet": decode_fleet,
    "blockyard.dev/Instance": decode_instance,
    "blockyard.dev/Allocation": decode_allocation,
}

on_the_real_server = pytest.mark.parametrize("server_address", [real_server], ids=["real"], indirect=True)
each_resource = pytest.mark.parametrize("kind", IDS)


def pattern_of(kind: str) -> str:
    (pattern,) = resource_of(RESOURCES[kind]).pattern
    return str(pattern)


def kind_of(name: str) -> str | None:
    """The type of the resource that has such a name, by the patterns of the protos."""
    for kind in RESOURCES:
        if re.fullmatch(re.sub(r"\{\w+\}", "[a-z0-9._-]+", pattern_of(kind)), name):
            return kind
    return None


def strings(message: Message) -> Iterator[tuple[str, Any, Any, str]]:
    """Path, field, the field's holder, and value of every text that is set in the message, at any depth."""
    for field, value in message.ListFields():
        rows: Any = list(value) if field.is_repeated else [value]
        if is_ours(field):
            for row in rows:
                for path, inner, holder, text in strings(row):
                    yield f"{field.name}.{path}", inner, holder, text
        elif field.type == field.TYPE_STRING:
            for text in rows:
                yield field.name, field, message, text


def is_own_name(field: Any) -> bool:
    return field.name == "name" and resource_of(field.containing_type) is not None


def said_kinds(field: Any) -> set[str]:
    """The types of which the field may hold a name, by its annotations."""
    if is_own_name(field):
        return {resource_of(field.containing_type).type}
    reference = reference_of(field)
    if reference is None:
        return set()
    if reference.child_type:
        parent, _, _ = pattern_of(reference.child_type).rpartition("/{")
        return {kind for kind in RESOURCES if pattern_of(kind) == parent.rpartition("/")[0]}
    return {reference.type}


def test_every_resource_has_names() -> None:
    assert set(RESOURCES) == set(IDS)


@each_resource
def test_the_server_writes_names_of_the_pattern(kind: str) -> None:
    variables = re.findall(r"\{(\w+)\}", pattern_of(kind))

    assert pattern_of(kind).format(**dict(zip(variables, IDS[kind], strict=True))) == ENCODE[kind](*IDS[kind])


@pytest.mark.parametrize(("read", "written"), list(itertools.product(IDS, IDS)))
def test_the_server_reads_names_of_the_pattern_and_no_others(read: str, written: str) -> None:
    bad: Violations = []
    found = DECODE[read](ENCODE[written](*IDS[written]), "name", bad)

    if read == written:
        assert (found if isinstance(found, tuple) else (found,)) == IDS[read]
        assert not bad
    else:
        assert [path for path, _ in bad] == ["name"]


@on_the_real_server
@pytest.mark.parametrize("request_", some_at_first([*REQUESTS], 8))
async def test_a_request_holds_names_where_its_annotations_say_so(any_blockyard: Blockyard, request_: str) -> None:
    world = await make_world(any_blockyard, "world")
    request = REQUESTS[request_](world)

    for path, field, _, text in strings(request):
        kind = kind_of(text)
        assert said_kinds(field) == ({kind} if kind else set()), path


@on_the_real_server
@pytest.mark.parametrize("request_", some_at_first([*REQUESTS], 8))
async def test_the_name_of_another_kind_of_resource_is_refused(any_blockyard: Blockyard, request_: str) -> None:
    world = await make_world(any_blockyard, "world")
    names = {
        "blockyard.dev/Fleet": world.name,
        "blockyard.dev/Instance": world.busy,
        "blockyard.dev/Allocation": world.allocation.name,
    }
    for number, (path, field, _, _) in enumerate(list(strings(REQUESTS[request_](world)))):
        for other in names.keys() - said_kinds(field) if said_kinds(field) else ():
            request = REQUESTS[request_](world)
            _, _, holder, _ = list(strings(request))[number]
            if field.is_repeated:
                getattr(holder, field.name)[:] = [names[other]]
            else:
                setattr(holder, field.name, names[other])
            given = await answer(any_blockyard, request_, request)

            assert given.reason == "INVALID_REQUEST", (path, other)
            assert any(concerns(violation, path) for violation in given.fields), (path, other, given)


@on_the_real_server
async def test_an_answer_holds_names_where_its_annotations_say_so(any_blockyard: Blockyard) -> None:
    world = await make_world(any_blockyard, "world")
    allocator, admin, ledger = any_blockyard.allocator, any_blockyard.admin, any_blockyard.ledger
    demand = allocator_pb2.Demand(exclusive=True, instance_names=[world.idle])
    exclusive = allocator_pb2.AcquireRequest(
        fleet=world.name, idempotency_token="whole", holder="job-3", demands=[demand]
    )
    await allocator.Acquire(exclusive)
    offline: Any = fleet_admin_pb2.UpdateInstanceRequest()
    offline.instance.name, offline.instance.state = world.idle, 3
    await admin.UpdateInstance(offline)
    answers = [
        await allocator.Describe(allocator_pb2.DescribeRequest(fleet=world.name, view=allocator_pb2.FULL)),
        await allocator.ListAllocations(allocator_pb2.ListAllocationsRequest(parent=world.name)),
        await admin.ListFleets(fleet_admin_pb2.ListFleetsRequest()),
        await admin.ListInstances(fleet_admin_pb2.ListInstancesRequest(parent=world.name)),
        await ledger.ListEvents(ledger_pb2.ListEventsRequest(parent=world.name)),
    ]

    seen = set()
    for message in answers:
        for path, field, _, text in strings(message):
            kind = kind_of(text)
            assert said_kinds(field) == ({kind} if kind else set()), path
            seen |= {f"{field.containing_type.name}.{field.name}"} if kind else set()
    assert {"Hold.allocation", "Event.instance", "Event.allocation", "InstanceBlocks.instance"} <= seen
    assert {"Allocation.exclusive_instances", "Allocation.offline_instances", "Placement.instance"} <= seen
    assert {"Fleet.name", "Instance.name", "Allocation.name"} <= seen
