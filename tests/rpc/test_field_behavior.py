"""google.api.field_behavior says what the real server does: it is compared field by field, for every request."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.message import Message

from blockyard.v1 import fleet_admin_pb2, resources_pb2
from tests.harness.samples import some_at_first
from tests.protos.annotations import FIELDS, behaviors, fields_of_requests, is_ours
from tests.rpc.answers import answer, call_of, concerns
from tests.rpc.legal_input import IGNORED, OK
from tests.rpc.servers import real_server
from tests.rpc.well_formed import REQUESTS, World, make_world
from tests.rpc.wire import Blockyard, refusal_of

INVALID = "INVALID_REQUEST"
NEEDED = {
    # One of three says how much a demand asks for.
    "Acquire: demands.blocks",
    "Acquire by requirements: demands.requirements",
    "Batch of acquires: operations.acquire.demands.blocks",
    # What an expression compares with. EXISTS and DOES_NOT_EXIST have no values.
    "Acquire: demands.selector.match_expressions.values",
    "Batch of acquires: operations.acquire.demands.selector.match_expressions.values",
    # One of the fields of a oneof.
    "Release: name",
    "Release by token: idempotency_token",
    "Batch of releases: operations.release.name",
    "Batch of acquires: operations.acquire",
    "Batch of releases: operations.release",
    "Batch of renewals: operations.renew",
    # A token says nothing of the fleet; a name does.
    "Release by token: fleet",
    # An update says by `name` what it changes, and a mask that names the state needs one.
    "UpdateFleet: fleet.name",
    "UpdateInstance: instance.name",
    "UpdateInstance: instance.state",
}
"""What is not REQUIRED as such, but is in this request, as the comments of the protos say."""
BLAMED_INSTEAD = {
    "Acquire by requirements: demands.requirements": "demands.blocks",
    "Release: name": "target",
    "Release by token: idempotency_token": "target",
    "Batch of releases: operations.release.name": "operations.release.target",
    "Batch of acquires: operations.acquire": "operations",
    "Batch of releases: operations.release": "operations",
    "Batch of renewals: operations.renew": "operations",
}
"""Where one of several is missing, and another name is blamed."""

on_the_real_server = pytest.mark.parametrize("server_address", [real_server], ids=["real"], indirect=True)
every_request = pytest.mark.parametrize("request_", REQUESTS)


@dataclass(frozen=True)
class Absence:
    """A well-formed request without one field that it had."""

    path: str
    field: str
    """`Message.field`."""
    request: Message

    def is_required(self) -> bool:
        return "REQUIRED" in behaviors(FIELDS[self.field])


def absences(request: Message) -> Iterator[Absence]:
    """The request without each of the fields that are set in it, at any depth, one at a time."""
    yield from _absences(request, request, ())


def _absences(root: Message, message: Any, steps: tuple[str, ...]) -> Iterator[Absence]:
    for field, _ in message.ListFields():
        inner = (*steps, field.name)
        without = type(root)()
        without.CopyFrom(root)
        follow(without, steps).ClearField(field.name)
        yield Absence(".".join(inner), f"{message.DESCRIPTOR.name}.{field.name}", without)
        if is_ours(field):
            yield from _absences(root, follow(root, inner), inner)


def follow(message: Any, steps: tuple[str, ...]) -> Any:
    for name in steps:
        message = getattr(message, name)
        message = message[0] if hasattr(message, "append") else message
    return message


SOME_WORLD = World("w", resources_pb2.Allocation(name="fleets/w/allocations/7", fencing_token=7), *["r1"] * 4)


def all_absences() -> list[tuple[str, Absence]]:
    return [(request_, each) for request_, make in REQUESTS.items() for each in absences(make(SOME_WORLD))]


def test_every_required_field_is_left_out_of_a_request() -> None:
    required = {name for name, field in fields_of_requests() if "REQUIRED" in behaviors(field)}

    assert required
    assert required <= {each.field for _, each in all_absences()}


def test_the_tables_speak_of_existing_fields_that_are_not_required() -> None:
    optional = {f"{request_}: {each.path}" for request_, each in all_absences() if not each.is_required()}

    assert not NEEDED - optional
    assert not BLAMED_INSTEAD.keys() - NEEDED


@pytest.mark.parametrize("request_", some_at_first([*REQUESTS], 8))
@on_the_real_server
async def test_without_a_field_a_request_is_refused_if_it_is_required_and_else_taken(
    any_blockyard: Blockyard, request_: str
) -> None:
    wrong = {}
    for number in range(len(list(absences(REQUESTS[request_](SOME_WORLD))))):
        world = await make_world(any_blockyard, f"world-{number}")
        absence = list(absences(REQUESTS[request_](world)))[number]
        given = await answer(any_blockyard, request_, absence.request)
        key = f"{request_}: {absence.path}"
        if absence.is_required() or key in NEEDED:
            blamed = BLAMED_INSTEAD.get(key, absence.path)
            right = given.reason == INVALID and any(concerns(field, blamed) for field in given.fields)
        else:
            right = given.reason == OK
        if not right:
            wrong[absence.path] = given

    assert not wrong


OUTPUT_ONLY = {name for name, field in fields_of_requests() if "OUTPUT_ONLY" in behaviors(field)}


def fill_output_only(message: Any) -> set[str]:
    """Sets every output-only field of a resource to what it never is."""
    filled = set()
    for field in message.DESCRIPTOR.fields:
        name = f"{message.DESCRIPTOR.name}.{field.name}"
        if name not in OUTPUT_ONLY:
            continue
        filled.add(name)
        if field.message_type is not None:
            getattr(message, field.name).FromSeconds(77)
        else:
            setattr(message, field.name, True if field.type == field.TYPE_BOOL else 7_777)
    return filled


def test_what_the_server_ignores_in_a_request_is_output_only() -> None:
    ignored = {key for key in IGNORED if ":" not in key and not key.startswith("Timestamp.")}

    assert ignored == OUTPUT_ONLY


@on_the_real_server
@pytest.mark.parametrize("request_", ["CreateFleet", "UpdateFleet", "CreateInstance", "UpdateInstance"])
async def test_an_output_only_field_of_a_request_does_nothing(any_blockyard: Blockyard, request_: str) -> None:
    world = await make_world(any_blockyard, "world")
    request: Any = REQUESTS[request_](world)
    resource = request.fleet if request_.endswith("Fleet") else request.instance
    filled = fill_output_only(resource)

    made = await call_of(any_blockyard, request_)(request)

    assert filled == {name for name in OUTPUT_ONLY if name.startswith(f"{resource.DESCRIPTOR.name}.")}
    for name in filled:
        field = name.partition(".")[2]
        assert getattr(made, field) != getattr(resource, field), name


@on_the_real_server
async def test_a_mask_cannot_name_what_is_output_only(any_blockyard: Blockyard) -> None:
    world = await make_world(any_blockyard, "world")
    for name in sorted(OUTPUT_ONLY):
        message, _, field = name.partition(".")
        request: Any
        if message == "Fleet":
            request = fleet_admin_pb2.UpdateFleetRequest(fleet=resources_pb2.Fleet(name=world.name))
        else:
            request = fleet_admin_pb2.UpdateInstanceRequest(instance=resources_pb2.Instance(name=world.busy))
        request.update_mask.paths.append(field)
        refusal = await refusal_of(call_of(any_blockyard, f"Update{message}")(request))

        assert (refusal.reason, refusal.fields) == (INVALID, ["update_mask"]), name
