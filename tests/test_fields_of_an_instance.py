"""A field of an instance is in every place that it needs, or a test here names the place (docs/how-to/add-a-field.md).

The list of the fields is that of the protos; what is only in answers is OUTPUT_ONLY there.
"""

import dataclasses
import inspect
from typing import Any, Final, get_type_hints

import click
import pytest
import typer

from blockyard import Client, Instance, InstanceState
from blockyard._codec import decode_instance
from blockyard.cli.app import app
from blockyard.v1 import fleet_admin_pb2 as pb
from blockyard.v1 import resources_pb2
from blockyard_server.domain.answers import InstanceRecord
from blockyard_server.domain.requests import InstanceFields
from blockyard_server.domain.requests import InstanceState as ServerState
from blockyard_server.engine.store_protocol import Store
from blockyard_server.rpc.decode_fleet_admin import decode_create_instance, decode_update_instance
from blockyard_server.rpc.encode_fleet_admin import encode_instance
from blockyard_server.rpc.instance_fields import PATHS
from tests.protos.annotations import behaviors
from tests.store.conftest import *  # noqa: F403 - the fixture `store`: every store keeps every field
from tests.store.story import Story

IDENTITY: Final = {"name", "etag"}
"""What says which instance is meant, and in which version."""
OPTION_OF: Final = {"total_blocks": "blocks", "labels": "label", "resources": "resource"}
"""Options of the command line that do not have the field's name."""


def own_fields() -> list[str]:
    """The fields of the message that operators set, by the annotations of the protos (tests/protos: each has one)."""
    fields: list[Any] = list(resources_pb2.Instance.DESCRIPTOR.fields)
    return [field.name for field in fields if field.name not in IDENTITY and "OUTPUT_ONLY" not in behaviors(field)]


OWN: Final = own_fields()


def other_value(hint: Any, default: Any) -> Any:
    """A value of the type that is not the default."""
    values: list[Any] = [7, "seven", True, ServerState.CORDONED, {"seven": 7}, {"seven": "7"}, ("seven",), (7,)]
    by_type = {"int": 7, "str": "seven", "bool": True}
    name = getattr(hint, "__name__", str(hint))
    if name in by_type:
        return by_type[name]
    if "Mapping" in str(hint):
        return {"seven": 7} if "int" in str(hint) else {"seven": "7"}
    return next(value for value in values if isinstance(value, hint) and value != default)


def filled() -> InstanceFields:
    """An instance of whose fields none has its default."""
    hints = get_type_hints(InstanceFields)
    values = {field.name: other_value(hints[field.name], field.default) for field in dataclasses.fields(InstanceFields)}
    made = InstanceFields(**values)
    assert all(getattr(made, field.name) != field.default for field in dataclasses.fields(made))
    return made


def message_of(fields: InstanceFields) -> resources_pb2.Instance:
    return encode_instance(InstanceRecord("gpu", "n1", 1, fields, 0, 2, 0, 0))


def test_the_protos_the_domain_and_the_edge_have_the_same_fields() -> None:
    assert list(PATHS) == OWN
    assert set(OWN) == {field.name for field in dataclasses.fields(InstanceFields)}


@pytest.mark.parametrize("field", dataclasses.fields(InstanceFields)[1:], ids=lambda field: field.name)
def test_a_field_has_a_default_for_what_older_releases_wrote(field: "dataclasses.Field[Any]") -> None:
    assert field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def test_the_edge_decodes_what_it_encodes() -> None:
    fields, message = filled(), message_of(filled())
    create = pb.CreateInstanceRequest(parent="fleets/gpu", instance_id="n1", instance=message)
    update = pb.UpdateInstanceRequest(instance=message)
    update.update_mask.paths.append("*")

    assert decode_create_instance(create).fields == fields
    assert decode_update_instance(update).changes == {name: getattr(fields, name) for name in OWN}


def test_the_sdk_shows_every_field() -> None:
    shown = decode_instance(message_of(filled()))
    fields = filled()

    assert set(OWN) <= {field.name for field in dataclasses.fields(Instance)}
    for name in OWN:
        value = getattr(fields, name)
        assert getattr(shown, name) == (InstanceState(value.value) if isinstance(value, ServerState) else value)


@pytest.mark.parametrize("method", ["create_instance", "update_instance"])
def test_the_sdk_can_set_every_field(method: str) -> None:
    assert set(OWN) <= set(inspect.signature(getattr(Client, method)).parameters)


@pytest.mark.parametrize("command", ["create", "update"])
def test_the_command_line_can_set_every_field(command: str) -> None:
    group: Any = typer.main.get_command(app)
    found = group.get_command(click.Context(group), "instance").get_command(click.Context(group), command)

    assert {OPTION_OF.get(name, name) for name in OWN} <= {parameter.name for parameter in found.params}


def test_every_store_keeps_every_field(store: Store) -> None:
    story, fields = Story(store), filled()
    story.create_fleet()
    story.register("n1", fields)
    story.commit()
    with store.transaction("gpu") as transaction:
        [row] = transaction.load_instances()
        assert row.record.fields == fields
        events = transaction.events_after(1, 10)
    assert [getattr(event, "fields", None) for event in events] == [fields]
