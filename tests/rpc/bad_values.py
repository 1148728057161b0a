"""Spoils a well-formed request, field by field. The cases come out of the descriptors: a new field has some at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)

_TOO_MANY: Final = 1100
"""More than any list or map may have; few enough for a request of 1 MiB."""

_INTEGERS: Final = {
    FieldDescriptor.CPPTYPE_INT32: {"negative": -1, "least": -(2**31), "zero": 0, "huge": 2**31 - 1},
    FieldDescriptor.CPPTYPE_INT64: {"negative": -1, "least": -(2**63), "zero": 0, "huge": 2**63 - 1},
}
_ENUMS: Final = {"unknown": 99, "negative": -1, "unspecified": 0}

Step = tuple[str, bool]
"""A field's name, and whether to go on with its first element."""


@dataclass(frozen=True)
class Case:
    """One request that is the well-formed one but for one field."""

    path: str
    """Where, as field names with dots between them; no indexes."""
    field: str
    """`Message.field`."""
    kind: str
    """How it is spoiled, in a word or two."""
    request: Message


def cases_of(request: Message) -> Iterator[Case]:
    """Every field of a well-formed request, and of every message in it, spoiled in every way of its type."""
    yield from _cases_in(request, request, ())


def _cases_in(root: Message, message: Message, steps: tuple[Step, ...]) -> Iterator[Case]:
    fields: Sequence[Any] = message.DESCRIPTOR.fields  # the types of the two implementations differ
    for field in fields:
        oneof = field.containing_oneof
        if oneof and message.WhichOneof(oneof.name) not in (None, field.name):
            continue  # the other one is the request's
        value = getattr(message, field.name)
        path = ".".join([name for name, _ in steps] + [field.name])
        for kind, spoil in _ways(field, value):
            spoiled = _copy(root)
            spoil(_follow(spoiled, steps))
            if spoiled != root:
                yield Case(path, f"{message.DESCRIPTOR.name}.{field.name}", kind, spoiled)
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            inner = (*steps, (field.name, field.is_repeated))
            if value if field.is_repeated else message.HasField(field.name):
                yield from _cases_in(root, _follow(root, inner), inner)


def _copy(message: M) -> M:
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def _follow(message: Message, steps: tuple[Step, ...]) -> Any:
    found: Any = message
    for name, repeated in steps:
        found = getattr(found, name)
        if repeated:
            found = found[0]
    return found


Spoil = Callable[[Any], object]


def _ways(field: FieldDescriptor, value: Any) -> Iterator[tuple[str, Spoil]]:
    name = field.name
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        yield from _map_ways(field, name)
    elif field.is_repeated:
        yield "empty", lambda message: message.ClearField(name)
        if field.message_type is None:
            first = value[0] if value else _zero(field)
            for kind, bad in _values(field, first):
                yield f"an element {kind}", partial(_replace, name=name, values=[bad])
            yield "too many", lambda message: getattr(message, name).extend([first] * _TOO_MANY)
        else:
            yield "too many", lambda message: _add_copies(getattr(message, name))
            yield "an empty element", lambda message: _replace_by_empty(getattr(message, name))
    elif field.message_type is not None:
        yield "empty", lambda message: _replace_message(message, name)
    else:
        if field.containing_oneof and field.containing_oneof.name == f"_{name}":  # it is `optional`
            yield "absent", lambda message: message.ClearField(name)
        for kind, bad in _values(field, value):
            yield kind, partial(_set, name=name, value=bad)


def _zero(field: FieldDescriptor) -> Any:
    return "" if field.cpp_type == FieldDescriptor.CPPTYPE_STRING else 0


def _values(field: FieldDescriptor, good: Any) -> Iterator[tuple[str, Any]]:
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        yield from _strings(good)
    elif field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        yield "flipped", not good
    elif field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        yield from _ENUMS.items()
    else:
        yield from _INTEGERS[field.cpp_type].items()


def _strings(good: str) -> Iterator[tuple[str, str]]:
    yield "empty", ""
    yield "too long", good + "x" * 70_000
    yield "with NUL", good + "\0"
    yield "with a newline", good + "\n"
    yield "with an escape", good + "\x1b[2J"
    yield "not ASCII", good + "é"
    yield "with a slash", good + "/x"
    yield "upward", "../../" + good
    yield "a space", " "


def _map_ways(field: FieldDescriptor, name: str) -> Iterator[tuple[str, Spoil]]:
    entry: Any = field.message_type
    value_field = entry.fields_by_name["value"]
    text = value_field.cpp_type == FieldDescriptor.CPPTYPE_STRING
    good: Any = "x" if text else 1
    yield "empty", lambda message: message.ClearField(name)
    yield "too many", partial(_update, name=name, entries={f"key{i}": good for i in range(_TOO_MANY)})
    for kind, key in _strings("key"):
        yield f"a key {kind}", partial(_update, name=name, entries={key: good})
    for kind, value in _strings("value") if text else _INTEGERS[value_field.cpp_type].items():
        yield f"a value {kind}", partial(_update, name=name, entries={"key": value})


def _replace(message: Any, name: str, values: list[Any]) -> None:
    message.ClearField(name)
    getattr(message, name).extend(values)


def _set(message: Any, name: str, value: Any) -> None:
    setattr(message, name, value)


def _update(message: Any, name: str, entries: dict[str, Any]) -> None:
    getattr(message, name).update(entries)


def _add_copies(rows: Any) -> None:
    first = rows[0] if rows else rows.add()
    rows.extend([_copy(first) for _ in range(_TOO_MANY)])


def _replace_by_empty(rows: Any) -> None:
    del rows[:]
    rows.add()


def _replace_message(message: Any, name: str) -> None:
    message.ClearField(name)
    getattr(message, name).SetInParent()
