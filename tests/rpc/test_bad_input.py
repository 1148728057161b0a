"""Whatever is sent, the answer is INVALID_ARGUMENT with the field's name, never UNKNOWN or INTERNAL; nothing changes.

Against the fake service and against the real server on SQLite.
"""

import itertools
import random
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message

from blockyard.v1 import access_pb2, fleet_admin_pb2, ledger_pb2, resources_pb2
from blockyard.v1 import allocator_pb2 as pb
from blockyard_server.settings import MAX_REQUEST_BYTES
from tests.harness.samples import some_at_first
from tests.rpc.answers import Given, answer, call_of, concerns, refused
from tests.rpc.bad_values import Case, cases_of
from tests.rpc.legal_input import BLAMED_INSTEAD, IGNORED, LEGAL, OK, answer_to
from tests.rpc.servers import fake_server
from tests.rpc.well_formed import REQUESTS, World, make_world
from tests.rpc.wire import Blockyard, acquire_request, first_of, refusal_of

SERVICES = [module.DESCRIPTOR.services_by_name for module in (access_pb2, pb, fleet_admin_pb2, ledger_pb2)]
METHODS = {method.name: method for services in SERVICES for service in services.values() for method in service.methods}
SAMPLES = 60
INVALID = "INVALID_REQUEST"


on_the_fake = pytest.mark.parametrize("server_address", [fake_server], ids=["fake"], indirect=True)
WITHOUT_FIELDS = {"WhoAmI"}
every_request = pytest.mark.parametrize("request_", REQUESTS)
# What is refused before the request is known is the same for each: `make test-slow` has the others.
ONE_AT_FIRST = [
    pytest.param(each, marks=() if number == 0 else pytest.mark.slow) for number, each in enumerate(REQUESTS)
]
some_requests_at_first = pytest.mark.parametrize("request_", some_at_first([*REQUESTS], 8))
one_request_at_first = pytest.mark.parametrize("request_", ONE_AT_FIRST)


def test_every_rpc_has_a_well_formed_request() -> None:
    assert {request.split()[0] for request in REQUESTS} == set(METHODS)


@every_request
@on_the_fake
async def test_a_well_formed_request_is_answered(any_blockyard: Blockyard, request_: str) -> None:
    world = await make_world(any_blockyard, "world")

    assert (await answer(any_blockyard, request_, REQUESTS[request_](world))).reason == OK


@pytest.mark.parametrize("request_", some_at_first([each for each in REQUESTS if each not in WITHOUT_FIELDS], 15))
async def test_a_bad_field_is_named_and_nothing_changes(any_blockyard: Blockyard, request_: str) -> None:
    world = await make_world(any_blockyard, "world")
    cases = [case for case in cases_of(REQUESTS[request_](world)) if expected(request_, case) == INVALID]
    before = await everything(any_blockyard, world)

    wrong = {}
    for case in cases:
        given = await answer(any_blockyard, request_, case.request)
        blamed = BLAMED_INSTEAD.get((f"{request_}: {case.path}", case.kind), case.path)
        if given.reason != INVALID or not any(concerns(violation, blamed) for violation in given.fields):
            wrong[case.path, case.kind] = given

    assert cases
    assert not wrong
    assert await everything(any_blockyard, world) == before


@some_requests_at_first
@on_the_fake
async def test_an_unusual_but_legal_field_is_taken(any_blockyard: Blockyard, request_: str) -> None:
    wrong = {}
    for number in itertools.count():
        world = await make_world(any_blockyard, f"world-{number}")
        cases = [case for case in cases_of(REQUESTS[request_](world)) if expected(request_, case) != INVALID]
        if number >= len(cases):
            break
        given = await answer(any_blockyard, request_, cases[number].request)
        if given.reason != expected(request_, cases[number]):
            wrong[cases[number].path, cases[number].kind] = given

    assert not wrong


def all_cases() -> list[tuple[str, Case]]:
    world = World("w", resources_pb2.Allocation(name="fleets/w/allocations/7", fencing_token=7), *["r1"] * 4)
    return [(request_, case) for request_, make in REQUESTS.items() for case in cases_of(make(world))]


def test_every_field_of_every_request_is_spoiled() -> None:
    messages, fields = [method.input_type for method in METHODS.values()], set()
    for message in messages:
        for field in message.fields:
            inner = field.message_type
            fields.add(f"{message.name}.{field.name}")
            if inner is not None and not inner.GetOptions().map_entry and inner not in messages:
                messages.append(inner)

    assert {case.field for _, case in all_cases()} == fields


def test_the_table_of_what_is_legal_speaks_of_existing_cases_only() -> None:
    known = {(case.field, case.kind) for _, case in all_cases()}
    known |= {(f"{request_}: {case.path}", case.kind) for request_, case in all_cases()}

    listed = {(key, kind) for key, kinds in LEGAL.items() for kind in kinds}
    assert not listed - known
    assert not set(BLAMED_INSTEAD) - known
    assert not IGNORED - {key for key, _ in known}


@one_request_at_first
async def test_random_bytes_are_an_invalid_argument(any_blockyard: Blockyard, request_: str) -> None:
    world = await make_world(any_blockyard, "world")
    before = await everything(any_blockyard, world)
    generator = random.Random(f"bytes for {request_}")

    codes = set()
    for length in range(SAMPLES):
        codes.add((await raw_answer(any_blockyard, request_, generator.randbytes(length + 1))).code)

    # All fields of ListFleets are optional, and unknown fields are skipped: some bytes are a request for it.
    optional = {grpc.StatusCode.OK} if request_ in {"ListFleets", *WITHOUT_FIELDS} else set()
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    assert codes <= {grpc.StatusCode.INVALID_ARGUMENT} | optional
    assert await everything(any_blockyard, world) == before


@pytest.mark.parametrize("request_", [each for each in ONE_AT_FIRST if each.values[0] not in WITHOUT_FIELDS])
async def test_a_request_with_flipped_bits_never_confuses_the_server(any_blockyard: Blockyard, request_: str) -> None:
    world = await make_world(any_blockyard, "world")
    good = REQUESTS[request_](world).SerializeToString()
    generator = random.Random(f"bits of {request_}")

    answers = []
    for _ in range(SAMPLES):
        flipped = bytearray(good)
        for _ in range(generator.randint(1, 3)):
            flipped[generator.randrange(len(good))] ^= 1 << generator.randrange(8)
        answers.append(await raw_answer(any_blockyard, request_, bytes(flipped)))

    confused = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.DATA_LOSS}
    assert not [one for one in answers if one.code in confused]
    report = await any_blockyard.ledger.Verify(ledger_pb2.VerifyRequest(fleet="fleets/world"))
    assert report.clean


@one_request_at_first
async def test_a_message_that_is_too_large_is_refused_by_the_transport(any_blockyard: Blockyard, request_: str) -> None:
    world = await make_world(any_blockyard, "world")
    before = await everything(any_blockyard, world)
    padding = b"\xfa\x7f" + b"\x80\x80\x40" + b"x" * MAX_REQUEST_BYTES  # an unknown field of 1 MiB

    given = await raw_answer(any_blockyard, request_, REQUESTS[request_](world).SerializeToString() + padding)

    assert given.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await everything(any_blockyard, world) == before


NOWHERE = [
    acquire_request(fleet="nope"),
    pb.ReleaseRequest(name="fleets/nope/allocations/3"),
    pb.ReleaseRequest(fleet="fleets/nope", idempotency_token="token"),
    pb.RenewRequest(name="fleets/nope/allocations/3"),
    pb.DescribeRequest(fleet="fleets/nope"),
    pb.GetAllocationRequest(name="fleets/nope/allocations/3"),
    pb.ListAllocationsRequest(parent="fleets/nope"),
    pb.WatchRequest(fleet="fleets/nope"),
    fleet_admin_pb2.GetFleetRequest(name="fleets/nope"),
    fleet_admin_pb2.UpdateFleetRequest(fleet=resources_pb2.Fleet(name="fleets/nope")),
    fleet_admin_pb2.DeleteFleetRequest(name="fleets/nope"),
    fleet_admin_pb2.CreateInstanceRequest(
        parent="fleets/nope", instance_id="new", instance=resources_pb2.Instance(total_blocks=8)
    ),
    fleet_admin_pb2.GetInstanceRequest(name="fleets/nope/instances/busy"),
    fleet_admin_pb2.ListInstancesRequest(parent="fleets/nope"),
    fleet_admin_pb2.UpdateInstanceRequest(instance=resources_pb2.Instance(name="fleets/nope/instances/busy")),
    fleet_admin_pb2.DeleteInstanceRequest(name="fleets/nope/instances/busy"),
    fleet_admin_pb2.CordonInstanceRequest(name="fleets/nope/instances/busy"),
    fleet_admin_pb2.UncordonInstanceRequest(name="fleets/nope/instances/busy"),
    ledger_pb2.ListEventsRequest(parent="fleets/nope"),
    ledger_pb2.VerifyRequest(fleet="fleets/nope"),
    ledger_pb2.RepairRequest(fleet="fleets/nope"),
]


@pytest.mark.parametrize("request_", NOWHERE, ids=lambda request: str(request.DESCRIPTOR.name))
async def test_a_well_formed_name_of_nothing_is_not_found(any_blockyard: Blockyard, request_: Message) -> None:
    await make_world(any_blockyard, "world")

    given = await refusal_of(
        first_of(call_of(any_blockyard, request_.DESCRIPTOR.name.removesuffix("Request"))(request_))
    )

    assert given.code is grpc.StatusCode.NOT_FOUND
    assert given.reason == "FLEET_NOT_FOUND"
    assert given.metadata == {"fleet": "fleets/nope"}


def expected(request_: str, case: Case) -> str:
    return answer_to(request_, case.path, case.field, case.kind)


async def raw_answer(blockyard: Blockyard, request_: str, data: bytes) -> Given:
    method = METHODS[request_.split(maxsplit=1)[0]]
    path = f"/{method.containing_service.full_name}/{method.name}"
    channel: Any = blockyard.channel
    call = channel.unary_stream(path) if method.server_streaming else channel.unary_unary(path)
    try:
        await first_of(call(data))
    except grpc.aio.AioRpcError as error:
        return refused(error)
    return Given(None)


async def everything(blockyard: Blockyard, world: World) -> list[Message]:
    """All that can be seen of the server: its fleets, and the world's blocks and history."""
    described = await blockyard.allocator.Describe(pb.DescribeRequest(fleet=world.name, view=pb.FULL))
    described.ClearField("server_time")
    return [
        described,
        await blockyard.admin.ListFleets(fleet_admin_pb2.ListFleetsRequest()),
        await blockyard.admin.ListInstances(fleet_admin_pb2.ListInstancesRequest(parent=world.name)),
        await blockyard.ledger.ListEvents(ledger_pb2.ListEventsRequest(parent=world.name)),
    ]
