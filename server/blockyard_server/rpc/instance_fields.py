"""The own fields of an instance between the message and the domain: one row for each, for both directions.

The paths of an update's mask, what a create sets and what an answer says all come out of FIELDS. A new field is one
more row (docs/how-to/add-a-field.md).
"""

from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from blockyard.v1 import resources_pb2
from blockyard_server.domain import limits
from blockyard_server.domain.requests import InstanceFields
from blockyard_server.rpc.enums import ENCODED_INSTANCE_STATES, INSTANCE_STATES
from blockyard_server.rpc.fields import Violations, decode_labels, decode_quantities


class InstanceField(NamedTuple):
    """A field that operators set."""

    name: str
    """In `InstanceFields` and in the message: they are the same."""
    decode: Callable[[resources_pb2.Instance, Violations], Any]
    """Its value, or what is wrong with it."""
    fill: Callable[[resources_pb2.Instance, Any], None]
    """Sets its value in a message."""


def _decode_total_blocks(message: resources_pb2.Instance, bad: Violations) -> int:
    if not 1 <= message.total_blocks <= limits.MAX_BLOCKS_PER_INSTANCE:
        bad.append(("instance.total_blocks", f"must be 1..{limits.MAX_BLOCKS_PER_INSTANCE}"))
    return message.total_blocks


def _decode_state(message: resources_pb2.Instance, bad: Violations) -> object:
    # An update that names the state without one would put the instance back to work by accident.
    if message.state not in INSTANCE_STATES:
        bad.append(("instance.state", "must be ACTIVE, CORDONED or OFFLINE"))
    return INSTANCE_STATES.get(message.state)


def _fill_total_blocks(message: resources_pb2.Instance, total_blocks: int) -> None:
    message.total_blocks = total_blocks


FIELDS: Final = (
    InstanceField("total_blocks", _decode_total_blocks, _fill_total_blocks),
    InstanceField(
        "labels",
        lambda message, bad: decode_labels(message.labels, "instance.labels", bad),
        lambda message, labels: message.labels.update(labels),
    ),
    InstanceField(
        "resources",
        lambda message, bad: dict(decode_quantities(message.resources, "instance.resources", 0, bad)),
        lambda message, resources: message.resources.update(resources),
    ),
    InstanceField(
        "state",
        _decode_state,
        lambda message, state: setattr(message, "state", ENCODED_INSTANCE_STATES[state]),
    ),
)
PATHS: Final = tuple(field.name for field in FIELDS)
"""What a mask may name."""


def decode_instance_fields(
    message: resources_pb2.Instance, paths: Collection[str], bad: Violations
) -> dict[str, object]:
    """The named fields, by their names in InstanceFields."""
    return {field.name: field.decode(message, bad) for field in FIELDS if field.name in paths}


def fill_own_fields(message: resources_pb2.Instance, fields: InstanceFields) -> None:
    """Sets all of them."""
    for field in FIELDS:
        field.fill(message, getattr(fields, field.name))
