"""Encodes a frozen dataclass as a JSON object, and decodes it: the one codec of everything that is kept as JSON.

The dataclass itself says what is written. An absent field takes its default and an unknown one is ignored, so a record
of an older release, or of a newer one of the same format, can be read (docs/adr/0022).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from operator import attrgetter, itemgetter
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, TypeVar, get_type_hints

import msgspec

T = TypeVar("T")

encode_json: Final = msgspec.json.Encoder().encode
"""JSON in UTF-8, without spaces, keys in the order of the value."""

_Convert = Callable[[Any], Any]


class _Wire(NamedTuple):
    """What stands in the JSON for values of a type that JSON has not."""

    type: Any
    encode: _Convert
    decode: _Convert


_WIRE: Final[Mapping[Any, _Wire]] = MappingProxyType({bytes: _Wire(str, bytes.hex, bytes.fromhex)})


class RecordCodec(Generic[T]):
    """The codec of one dataclass. Those of its fields that have columns of their own are not in the JSON.

    A field that is a dataclass itself is not nested: its fields stand beside the others. A field that is keyword-only
    is left out of the JSON where it has its default.
    """

    def __init__(self, record: type[T], columns: Sequence[str] = ()) -> None:
        self._record = record
        self.columns: Final = tuple(columns)
        """The names of the fields that `decode` is given."""
        paths: list[str] = []
        wire: list[tuple[str, Any, Any]] = []
        parts: dict[str, tuple[Any, list[str]]] = {}
        optional: dict[str, Any] = {}
        left_out: list[tuple[str, Any, Any]] = []
        hints: dict[str, Any] = get_type_hints(record)
        for each in fields(record):  # type: ignore[arg-type]  # any dataclass will do
            hint = hints[each.name]
            if each.name in columns:
                continue
            if is_dataclass(hint) and isinstance(hint, type):
                inner = get_type_hints(hint)
                own = [each for each in fields(hint) if each.name not in columns]
                parts[each.name] = (hint, [field.name for field in fields(hint)])
                paths += [f"{each.name}.{field.name}" for field in own]
                wire += [_wire_field(field, inner[field.name]) for field in own]
            elif each.kw_only:
                optional[each.name] = each.default
                left_out.append((each.name, hint | msgspec.UnsetType, msgspec.UNSET))
            else:
                paths.append(each.name)
                wire.append(_wire_field(each, hint))
        names = [*self.columns, *(name for name, _, _ in wire)]
        self._struct = msgspec.defstruct(record.__name__, [*wire, *left_out], frozen=True, gc=False)
        self._decode_json = msgspec.json.Decoder(self._struct).decode
        self._values = _tuple_of(attrgetter(*paths) if paths else None, len(paths))
        self._optional = tuple(optional.items())
        self._optional_values = _tuple_of(attrgetter(*optional) if optional else None, len(optional))
        self._defaults = tuple(optional.values())
        self._converted = [
            (index, _WIRE[hint]) for index, path in enumerate(paths) if (hint := hints.get(path)) in _WIRE
        ]
        self._parts = []
        for name, (hint, own_names) in parts.items():
            self._parts.append((hint, _picking([names.index(own_name) for own_name in own_names])))
            names.append(name)
        positional = [each.name for each in fields(record) if not each.kw_only]  # type: ignore[arg-type]  # as above
        self._arguments = _picking([names.index(name) for name in positional])

    def encode(self, record: T) -> str:
        """The fields that have no column, as JSON."""
        values = self._values(record)
        if self._converted:
            changed = list(values)
            for index, wire in self._converted:
                changed[index] = wire.encode(changed[index])
            values = tuple(changed)
        optional = self._optional_values(record)
        if optional != self._defaults:
            values += tuple(
                msgspec.UNSET if value == default else value
                for value, default in zip(optional, self._defaults, strict=True)
            )
        return encode_json(self._struct(*values)).decode()

    def decode(self, text: str, *columns: Any) -> T:
        """The record, given the values of its columns. Raises msgspec.MsgspecError, ValueError."""
        values = [*columns, *msgspec.structs.astuple(self._decode_json(text))]
        optional = {}
        for name, default in reversed(self._optional):
            value = values.pop()
            optional[name] = default if value is msgspec.UNSET else value
        for index, wire in self._converted:
            place = len(columns) + index
            values[place] = wire.decode(values[place])
        for part, own in self._parts:
            values.append(part(*own(values)))
        return self._record(*self._arguments(values), **optional)


def _wire_field(field: "Field[Any]", hint: Any) -> tuple[str, Any, Any]:
    """The field as `msgspec.defstruct` takes it, with the dataclass's default."""
    wire = _WIRE[hint].type if hint in _WIRE else hint
    if field.default_factory is not MISSING:
        return field.name, wire, msgspec.field(default_factory=field.default_factory)
    return field.name, wire, msgspec.NODEFAULT if field.default is MISSING else field.default


def _tuple_of(getter: Callable[[Any], Any] | None, count: int) -> Callable[[Any], tuple[Any, ...]]:
    """A getter that always answers a tuple."""
    if getter is None:
        return lambda _record: ()
    return getter if count > 1 else lambda record: (getter(record),)


def _picking(places: Sequence[int]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Picks the values at these places, as a tuple."""
    return _tuple_of(itemgetter(*places) if places else None, len(places))
