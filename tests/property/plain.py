"""Messages and errors as plain dicts, the form in which the model speaks.

Fields that are not set are absent, times and durations are microseconds, enum values are their names. So two
answers are equal if and only if every field is, also those that a test never thought of.
"""

from typing import Any

import grpc
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from blockyard.reasons import DOMAIN

Plain = dict[str, Any]
"""A message: field names to values, without those that are not set."""


def given(**fields: Any) -> Plain:
    """The fields that are set: neither None nor their type's zero."""
    return {name: value for name, value in fields.items() if value}


def plain(message: Message) -> Plain:
    """A message as a dict of the fields that are set."""
    fields = ((field.name, _plain_field(field, value)) for field, value in message.ListFields())
    return {name: value for name, value in fields if value}


def _plain_field(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return dict(value)
    if field.is_repeated:
        return [_plain_value(field, item) for item in value]
    return _plain_value(field, value)


def _plain_value(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if field.message_type is None:
        return value
    match field.message_type.full_name:
        case "google.protobuf.Timestamp" | "google.protobuf.Duration":
            assert value.nanos % 1000 == 0, "times are whole microseconds"
            return value.seconds * 1_000_000 + value.nanos // 1000
        case "google.protobuf.FieldMask":
            return list(value.paths)
        case "google.rpc.Status":
            return plain_status(value)
        case _:
            return plain(value)


def plain_error(error: Any) -> Plain:
    """The error that a call ended with: a grpc.RpcError, which is a grpc.Call too."""
    status = rpc_status.from_call(error)
    assert status is not None, f"an error without details: {error.code()}, {error.details()}"
    assert status.code == error.code().value[0], "the call and its details disagree on the code"
    return plain_status(status)


def plain_status(status: status_pb2.Status) -> Plain:
    """An error: code, reason, metadata, and the fields that are wrong."""
    found: Plain = {"code": _CODES[status.code], "message": bool(status.message)}
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            assert info.domain == DOMAIN
            found.update(reason=info.reason, metadata=dict(info.metadata))
        elif detail.Unpack(bad):
            found["fields"] = sorted(violation.field for violation in bad.field_violations)
    return found


_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
