"""Reads protos with their comments: values that a page can be written out of.

All that is public must say what it is: a service, an RPC, a message, a field, a oneof, an enum or a value without a
comment is an error.
"""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from google.api import field_behavior_pb2, resource_pb2
from google.protobuf import descriptor_pb2 as pb

OURS: Final = "blockyard/v1"
"""The folder of the protos that are read; what they import is not."""


class Undocumented(Exception):
    """Something public has no comment; the message names all of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field of a message."""

    name: str
    """Its own name."""
    full_name: str
    """With package and message."""
    comment: str
    """What it means, as Markdown."""
    kind: str
    """Its type as in the proto: `repeated Demand`, `map<string, int64>`. Full names for types of other packages."""
    type_name: str | None
    """The full name of its message or enum. None for a scalar."""
    behaviors: tuple[str, ...]
    """Its google.api.field_behavior: `REQUIRED`."""
    resource: str
    """The type of the resource that it names: `blockyard.dev/Fleet`. Empty: none."""
    oneof: str
    """The oneof that it is a part of. Empty: none."""
    has_presence: bool
    """It is marked `optional`: that it is empty and that it is absent are two things."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """Fields of a message of which one at most is set."""

    name: str
    """Its own name."""
    comment: str
    """What it means, as Markdown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A value of an enum."""

    name: str
    """Its own name."""
    full_name: str
    """With package and enum."""
    number: int
    """What is sent."""
    comment: str
    """What it means, as Markdown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enum:
    """An enum, in a file or in a message."""

    title: str
    """Its name without the package: `Instance.State`."""
    full_name: str
    """With the package."""
    comment: str
    """What it is about, as Markdown."""
    values: tuple[Value, ...]
    """In the order of the proto."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message, in a file or in another message."""

    title: str
    """Its name without the package."""
    full_name: str
    """With the package."""
    comment: str
    """What it is, as Markdown."""
    resource: str
    """Its google.api.resource: the type. Empty: it is none."""
    fields: tuple[Field, ...]
    """In the order of the proto."""
    oneofs: tuple[OneOf, ...]
    """Without those that `optional` makes."""
    inner: tuple["Message | Enum", ...]
    """What is declared in it: messages, then enums."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """An RPC."""

    name: str
    """Its own name."""
    full_name: str
    """With package and service."""
    comment: str
    """What it does, as Markdown."""
    request: str
    """The full name of what it takes."""
    answer: str
    """The full name of what it answers."""
    streams: bool
    """Whether it answers many times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service."""

    name: str
    """Its own name."""
    full_name: str
    """With the package."""
    comment: str
    """What it is for, as Markdown."""
    methods: tuple[Method, ...]
    """In the order of the proto."""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One proto."""

    path: str
    """Below the folder of the protos: `blockyard/v1/ledger.proto`."""
    package: str
    """`blockyard.v1`."""
    services: tuple[Service, ...]
    """At most one, so far."""
    messages: tuple[Message, ...]
    """Those of the file itself; the others are in them."""
    enums: tuple[Enum, ...]
    """Those of the file itself."""


def read_protos(folder: Path) -> list[File]:
    """Our files in a folder of protos. Raises Undocumented."""
    files = [
        _Reader(file)
        for file in sorted(_compiled(folder), key=lambda file: file.name)
        if file.name.startswith(f"{OURS}/")
    ]
    read = [reader.file() for reader in files]
    if missing := [name for reader in files for name in reader.undocumented]:
        raise Undocumented(f"no comment in protos: {', '.join(missing)}")
    return read


def _compiled(folder: Path) -> Sequence[pb.FileDescriptorProto]:
    names = sorted(path.relative_to(folder).as_posix() for path in (folder / OURS).glob("*.proto"))
    with TemporaryDirectory() as made:
        out = Path(made) / "set"
        protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{folder}", "--include_source_info"]
        subprocess.run([*protoc, f"--descriptor_set_out={out}", *names], check=True)  # noqa: S603 - our own protoc
        return pb.FileDescriptorSet.FromString(out.read_bytes()).file


Path_ = tuple[int, ...]
"""Where something is in a file: numbers of fields and indices of descriptor.proto, in turns."""


class _Reader:
    """One file on its way from a descriptor to values."""

    def __init__(self, file: pb.FileDescriptorProto) -> None:
        self._file = file
        self._comments: Mapping[Path_, str] = {
            tuple(place.path): _text(place.leading_comments or place.trailing_comments)
            for place in file.source_code_info.location
        }
        self.undocumented: list[str] = []

    def file(self) -> File:
        file, package = self._file, self._file.package
        return File(
            path=file.name,
            package=package,
            services=tuple(self._service(kind, (6, index)) for index, kind in enumerate(file.service)),
            messages=tuple(self._message(kind, package, (4, index)) for index, kind in enumerate(file.message_type)),
            enums=tuple(self._enum(kind, package, (5, index)) for index, kind in enumerate(file.enum_type)),
        )

    def _comment(self, full_name: str, path: Path_) -> str:
        comment = self._comments.get(path, "")
        if not comment:
            self.undocumented.append(full_name)
        return comment

    def _title(self, full_name: str) -> str:
        return full_name.removeprefix(f"{self._file.package}.")

    def _service(self, service: pb.ServiceDescriptorProto, path: Path_) -> Service:
        full_name = f"{self._file.package}.{service.name}"
        methods = (
            Method(
                name=method.name,
                full_name=f"{full_name}.{method.name}",
                comment=self._comment(f"{full_name}.{method.name}", (*path, 2, index)),
                request=method.input_type.removeprefix("."),
                answer=method.output_type.removeprefix("."),
                streams=method.server_streaming,
            )
            for index, method in enumerate(service.method)
        )
        comment = self._comment(full_name, path)
        return Service(name=service.name, full_name=full_name, comment=comment, methods=tuple(methods))

    def _message(self, message: pb.DescriptorProto, scope: str, path: Path_) -> Message:
        full_name = f"{scope}.{message.name}"
        made_by_optional = {field.oneof_index for field in message.field if field.proto3_optional}
        return Message(
            title=self._title(full_name),
            full_name=full_name,
            comment=self._comment(full_name, path),
            resource=_extension(message.options, resource_pb2.resource).type,
            fields=tuple(
                self._field(field, message, full_name, (*path, 2, index)) for index, field in enumerate(message.field)
            ),
            oneofs=tuple(
                OneOf(name=oneof.name, comment=self._comment(f"{full_name}.{oneof.name}", (*path, 8, index)))
                for index, oneof in enumerate(message.oneof_decl)
                if index not in made_by_optional
            ),
            inner=tuple(self._inner(message, full_name, path)),
        )

    def _inner(self, message: pb.DescriptorProto, scope: str, path: Path_) -> Iterator[Message | Enum]:
        for index, kind in enumerate(message.nested_type):
            if not kind.options.map_entry:
                yield self._message(kind, scope, (*path, 3, index))
        for index, enum in enumerate(message.enum_type):
            yield self._enum(enum, scope, (*path, 4, index))

    def _field(self, field: pb.FieldDescriptorProto, message: pb.DescriptorProto, scope: str, path: Path_) -> Field:
        full_name = f"{scope}.{field.name}"
        in_oneof = field.HasField("oneof_index") and not field.proto3_optional
        entry = next((kind for kind in message.nested_type if field.type_name == f".{scope}.{kind.name}"), None)
        behaviors = _extension(field.options, field_behavior_pb2.field_behavior)
        if entry is not None and entry.options.map_entry:
            key, value = entry.field
            kind, type_name = f"map<{self._kind(key)}, {self._kind(value)}>", value.type_name
        else:
            repeated = field.label == pb.FieldDescriptorProto.LABEL_REPEATED
            kind, type_name = ("repeated " if repeated else "") + self._kind(field), field.type_name
        return Field(
            name=field.name,
            full_name=full_name,
            comment=self._comment(full_name, path),
            kind=kind,
            type_name=type_name.removeprefix(".") or None,
            behaviors=tuple(field_behavior_pb2.FieldBehavior.Name(each) for each in behaviors),
            resource=_extension(field.options, resource_pb2.resource_reference).type,
            oneof=message.oneof_decl[field.oneof_index].name if in_oneof else "",
            has_presence=field.proto3_optional,
        )

    def _kind(self, field: pb.FieldDescriptorProto) -> str:
        if field.type_name:
            return self._title(field.type_name.removeprefix("."))
        return pb.FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()

    def _enum(self, enum: pb.EnumDescriptorProto, scope: str, path: Path_) -> Enum:
        full_name = f"{scope}.{enum.name}"
        values = (
            Value(
                name=value.name,
                full_name=f"{full_name}.{value.name}",
                number=value.number,
                comment=self._comment(f"{full_name}.{value.name}", (*path, 2, index)),
            )
            for index, value in enumerate(enum.value)
        )
        comment = self._comment(full_name, path)
        return Enum(title=self._title(full_name), full_name=full_name, comment=comment, values=tuple(values))


def _extension(options: Any, extension: Any) -> Any:
    return options.Extensions[extension]


def _text(comment: str) -> str:
    """A comment without the space that follows `//`."""
    return "\n".join(line.removeprefix(" ").rstrip() for line in comment.splitlines()).strip()
