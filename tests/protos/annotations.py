"""What the protos say of themselves, out of the descriptors of the generated code: messages and annotations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from google.api import field_behavior_pb2, resource_pb2

from blockyard.v1 import access_pb2, allocator_pb2, errors_pb2, fleet_admin_pb2, ledger_pb2, resources_pb2

PACKAGE: Final = "blockyard.v1"
FOLDER: Final = Path(__file__).parents[2] / "protos"
FILES: Final[list[Any]] = [
    module.DESCRIPTOR for module in (access_pb2, allocator_pb2, errors_pb2, fleet_admin_pb2, ledger_pb2, resources_pb2)
]
MESSAGES: Final[dict[str, Any]] = {name: kind for file in FILES for name, kind in file.message_types_by_name.items()}
METHODS: Final[dict[str, Any]] = {
    method.name: method for file in FILES for service in file.services_by_name.values() for method in service.methods
}
FIELDS: Final[dict[str, Any]] = {
    f"{message.name}.{field.name}": field for message in MESSAGES.values() for field in message.fields
}


def behaviors(field: Any) -> set[str]:
    """The names of the field's google.api.field_behavior."""
    found = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return {field_behavior_pb2.FieldBehavior.Name(each) for each in found}


def resource_of(message: Any) -> Any:
    """The message's google.api.resource, or None."""
    options = message.GetOptions()
    return options.Extensions[resource_pb2.resource] if options.HasExtension(resource_pb2.resource) else None


def reference_of(field: Any) -> Any:
    """The field's google.api.resource_reference, or None."""
    options, extension = field.GetOptions(), resource_pb2.resource_reference
    return options.Extensions[extension] if options.HasExtension(extension) else None


RESOURCES: Final[dict[str, Any]] = {
    resource_of(message).type: message for message in MESSAGES.values() if resource_of(message)
}
"""By their type, such as `blockyard.dev/Fleet`."""


def is_ours(field: Any) -> bool:
    """Whether the field is a message of this package, other than the entry of a map."""
    kind = field.message_type
    return kind is not None and kind.file.package == PACKAGE and not kind.GetOptions().map_entry


def messages_in_requests() -> dict[str, Any]:
    """Every message that a request is made of, by name."""
    found: dict[str, Any] = {}

    def visit(message: Any) -> None:
        if message.name not in found:
            found[message.name] = message
            for field in message.fields:
                if is_ours(field):
                    visit(field.message_type)

    for method in METHODS.values():
        visit(method.input_type)
    return found


def fields_of_requests() -> Iterator[tuple[str, Any]]:
    """`Message.field` and the field: all that a request may set."""
    for message in messages_in_requests().values():
        for field in message.fields:
            yield f"{message.name}.{field.name}", field
