"""A server whose every string is hostile, and the strings that must not reach a terminal.

The answers are generated out of the protos, so that no field is forgotten.
"""

import re
import unicodedata
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import grpc
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status

from blockyard.v1 import access_pb2, allocator_pb2, fleet_admin_pb2, ledger_pb2

HOSTILE: Final = (
    "\u0301\x1b[66;6mA\x1b]52;c;cHduZWQ=\x07B\x9b66mC\u202eD\u2066E\u200bF\u2028G\u2029H\ue000I\U000e0001J\ufeffK"
    "\x00L\x7fM\nFORGED\rFORGED\tN[bold red]O[/]" + "Z" + "\u0301" * 40
)
"""All kinds: escapes, 8-bit controls, direction, invisible, private, tags, lines, markup, heaps of combining marks."""
SHOWN: Final = r"\u{202e}D\u{2066}E"
"""A part of it as it may be shown."""
_NAMES: Final = {
    "name": "fleets/f/allocations/1",
    "allocation": "fleets/f/allocations/1",
    "instance": "fleets/f/instances/n",
    "fleet": "fleets/f",
}
"""Fields that hold names of resources begin as one."""
_SERVICES: Final = tuple(
    service
    for module in (access_pb2, allocator_pb2, fleet_admin_pb2, ledger_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)
METHODS: Final = {f"/{service.full_name}/{method.name}": method for service in _SERVICES for method in service.methods}
VARIANTS: Final = 12
"""So many answers are tried; enough for each alternative of each `oneof` and each kind of each enum."""
_OWN_ESCAPES: Final = re.compile(r"\x1b\[(?!66)[0-9;?]*[A-Za-z]")
"""What `top` and progress bars send to a terminal themselves."""

_OWN_RETURNS: Final = re.compile(r"\r(?!FORGED)")
"""A terminal's ends of lines, and progress bars that go back to the beginning of theirs."""


def hostile_answer(method: MethodDescriptor, variant: int) -> Message:
    """An answer of this method, with every field set: strings hostile, enums and alternatives by the variant."""
    answer = GetMessageClass(method.output_type)()
    _fill(answer, variant, depth=0)
    return answer


def _fill(message: Any, variant: int, depth: int) -> None:
    if message.DESCRIPTOR.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        message.seconds = 1 + variant
        return
    for oneof in message.DESCRIPTOR.oneofs:
        _fill_field(message, oneof.fields[variant % len(oneof.fields)], variant, depth)
    for field in message.DESCRIPTOR.fields:
        if field.containing_oneof is None and field.name != "next_page_token":
            _fill_field(message, field, variant, depth)


def _fill_field(message: Any, field: FieldDescriptor, variant: int, depth: int) -> None:
    if depth > 6:
        return
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        is_text = field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING
        getattr(message, field.name)[HOSTILE] = HOSTILE if is_text else 1
    elif field.message_type is not None:
        inner = getattr(message, field.name)
        if field.is_repeated:
            inner = inner.add()
        else:
            inner.SetInParent()
        _fill(inner, variant, depth + 1)
    else:
        value = _value(field, variant)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)


def _value(field: FieldDescriptor, variant: int) -> object:
    if field.type == FieldDescriptor.TYPE_STRING:
        return _NAMES.get(field.name, "") + HOSTILE
    if field.enum_type is not None:
        values = [value.number for value in field.enum_type.values if value.number]
        return values[variant % len(values)]
    if field.type == FieldDescriptor.TYPE_BOOL:
        return variant % 2 == 0
    return b"" if field.type == FieldDescriptor.TYPE_BYTES else 0 if field.name == "blocks" else 8


ERRORS: Final = (
    (grpc.StatusCode.NOT_FOUND, "FLEET_NOT_FOUND"),
    (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_CAPACITY"),
    (grpc.StatusCode.FAILED_PRECONDITION, HOSTILE),
    (grpc.StatusCode.DATA_LOSS, "INVARIANT_VIOLATED"),
    (grpc.StatusCode.PERMISSION_DENIED, ""),
)
"""Refusals: a known reason, one that nobody knows, and none. None of them is asked for again."""


class EvilServer(grpc.GenericRpcHandler):
    """Answers every call as `answer` says: a variant, or one of ERRORS below 0."""

    def __init__(self) -> None:
        self.answer = 0
        self.address = ""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """How gRPC asks for the handler of a method."""
        method = METHODS.get(handler_call_details.method)
        if method is None:
            return None
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(lambda _, context: iter([self._answer(method, context)]))
        return grpc.unary_unary_rpc_method_handler(lambda _, context: self._answer(method, context))

    def _answer(self, method: MethodDescriptor, context: grpc.ServicerContext) -> bytes:
        if self.answer < 0:
            self._refuse(context, *ERRORS[-self.answer - 1])
        return hostile_answer(method, self.answer).SerializeToString()

    def _refuse(self, context: grpc.ServicerContext, code: grpc.StatusCode, reason: str) -> None:
        status = Status(code=code.value[0], message=HOSTILE)
        if reason:
            metadata = {"fleet": HOSTILE, "incident": HOSTILE, "idle_blocks": "1"}
            status.details.add().Pack(ErrorInfo(reason=reason, domain="blockyard.dev", metadata=metadata))
            status.details.add().Pack(
                BadRequest(field_violations=[BadRequest.FieldViolation(field=HOSTILE, description=HOSTILE)])
            )
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
        context.abort(code, HOSTILE)


@contextmanager
def evil_server() -> Iterator[EvilServer]:
    """Such a server, for the time of the block."""
    evil = EvilServer()
    server = grpc.server(ThreadPoolExecutor(8), handlers=[evil])
    evil.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield evil
    finally:
        server.stop(None).wait()


def hostile_parts(output: str) -> list[str]:
    """What a terminal would obey, or people would be misled by, in an output; empty if it may be shown."""
    own = _OWN_RETURNS.sub("", _OWN_ESCAPES.sub("", output))
    found = [
        ascii(own[max(place - 20, 0) : place + 20])
        for place, character in enumerate(own)
        if character != "\n" and unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    ]
    found += [line for line in own.split("\n") if line.startswith(("FORGED", "\u0301"))]
    return found + re.findall("\u0301{5,}", own)
