"""What can happen to a fleet: the events of its journal.

An event is one committed change and makes one revision. Events are the spine: a decision is an event,
the store writes rows out of events, memory changes by events, Verify replays events.
`encode_body` and `decode_event` are the journal's format (JSON); fields are only ever added to it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.corrections import Correction, decode_correction, encode_correction
from blockyard_server.domain.requests import FleetFields, InstanceFields, InstanceState, PlacementStrategy


@dataclass(frozen=True, slots=True)
class _Event:
    revision: int
    time_us: int


@dataclass(frozen=True, slots=True)
class FleetCreated(_Event):
    """The fleet was made, or made again after a deletion."""

    kind: ClassVar = "FLEET_CREATED"
    fields: FleetFields


@dataclass(frozen=True, slots=True)
class FleetUpdated(_Event):
    """The fleet's own fields changed to `fields`."""

    kind: ClassVar = "FLEET_UPDATED"
    fields: FleetFields


@dataclass(frozen=True, slots=True)
class FleetDeleted(_Event):
    """The fleet and its instances are gone; its revision and journal stay."""

    kind: ClassVar = "FLEET_DELETED"


@dataclass(frozen=True, slots=True)
class InstanceCreated(_Event):
    """An instance was registered, with this place in the order of registration."""

    kind: ClassVar = "INSTANCE_CREATED"
    instance: str
    order: int
    fields: InstanceFields


@dataclass(frozen=True, slots=True)
class InstanceUpdated(_Event):
    """An instance's own fields changed to `fields`."""

    kind: ClassVar = "INSTANCE_UPDATED"
    instance: str
    fields: InstanceFields


@dataclass(frozen=True, slots=True)
class InstanceDeleted(_Event):
    """An instance is gone."""

    kind: ClassVar = "INSTANCE_DELETED"
    instance: str


@dataclass(frozen=True, slots=True)
class Granted(_Event):
    """Blocks were granted. The allocation's id is the revision."""

    kind: ClassVar = "GRANTED"
    holder: str
    caller: str
    token: str
    fingerprint: bytes
    placements: Placements
    ttl_us: int | None
    expire_time_us: int | None
    annotations: tuple[tuple[str, str], ...]
    exclusive: tuple[str, ...] = ()
    """The instances that were granted exclusively. Journals of before have none: nobody owned an instance then."""

    def allocation(self) -> Allocation:
        """The allocation as this event made it."""
        return Allocation(
            allocation=self.revision,
            holder=self.holder,
            caller=self.caller,
            token=self.token,
            granted=self.placements,
            placements=self.placements,
            ttl_us=self.ttl_us,
            grant_time_us=self.time_us,
            expire_time_us=self.expire_time_us,
            annotations=self.annotations,
            revision=self.revision,
            exclusive=self.exclusive,
        )


@dataclass(frozen=True, slots=True)
class Released(_Event):
    """The blocks in `freed` were released; `left` is still held. It has ended if nothing is left."""

    kind: ClassVar = "RELEASED"
    allocation: int
    holder: str
    freed: Placements
    left: Placements


@dataclass(frozen=True, slots=True)
class Renewed(_Event):
    """A lease was extended."""

    kind: ClassVar = "RENEWED"
    allocation: int
    holder: str
    ttl_us: int
    expire_time_us: int


@dataclass(frozen=True, slots=True)
class Expired(_Event):
    """A lease ran out, and all of the allocation's blocks, `freed`, are idle."""

    kind: ClassVar = "EXPIRED"
    allocation: int
    holder: str
    freed: Placements


@dataclass(frozen=True, slots=True)
class TokenWasCancelled(_Event):
    """A Release by token came before its Acquire."""

    kind: ClassVar = "TOKEN_CANCELLED"
    caller: str
    token: str


@dataclass(frozen=True, slots=True)
class LeasesExtended(_Event):
    """After a start, leases were extended by at most their TTL, to `expire_time_us` at the latest.

    `allocation.extended_us` is the rule.
    """

    kind: ClassVar = "LEASES_EXTENDED"
    expire_time_us: int


@dataclass(frozen=True, slots=True)
class Repaired(_Event):
    """A Repair changed records so that they agree. Memory does not follow it, but is loaded anew."""

    kind: ClassVar = "REPAIRED"
    corrections: tuple[Correction, ...]


FleetEvent = FleetCreated | FleetUpdated | FleetDeleted
InstanceEvent = InstanceCreated | InstanceUpdated | InstanceDeleted
AllocationEvent = Granted | Released | Renewed | Expired
Event = FleetEvent | InstanceEvent | AllocationEvent | TokenWasCancelled | LeasesExtended | Repaired


def _fleet_body(fields: FleetFields) -> dict[str, Any]:
    return {
        "labels": dict(fields.labels),
        "default_placement_strategy": fields.default_placement_strategy,
        "default_ttl_us": fields.default_ttl_us,
        "max_ttl_us": fields.max_ttl_us,
    }


def _instance_body(fields: InstanceFields) -> dict[str, Any]:
    return {
        "total_blocks": fields.total_blocks,
        "labels": dict(fields.labels),
        "resources": dict(fields.resources),
        "state": fields.state,
    }


@dataclass(frozen=True, slots=True)
class JournalRow:
    """An event as the journal keeps it: columns to search by, and the other fields as a JSON object."""

    revision: int
    time_us: int
    kind: str
    allocation: int | None
    instance: str | None
    holder: str | None
    body: str


# Made once: json.dumps with arguments makes an encoder for each call, which every grant would pay for.
_encode_json: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def encode_body(event: Event) -> str:
    """The fields of an event that have no column of their own, as JSON."""
    return _encode_json(_BODIES[type(event)](event))


_BODIES: Final[dict[type[Event], Callable[[Any], dict[str, Any]]]] = {
    Granted: lambda event: {
        "caller": event.caller,
        "token": event.token,
        "fingerprint": event.fingerprint.hex(),
        "placements": event.placements,
        "ttl_us": event.ttl_us,
        "expire_time_us": event.expire_time_us,
        "annotations": dict(event.annotations),
        "exclusive": event.exclusive,
    },
    Released: lambda event: {"freed": event.freed, "left": event.left},
    Expired: lambda event: {"freed": event.freed},
    Renewed: lambda event: {"ttl_us": event.ttl_us, "expire_time_us": event.expire_time_us},
    TokenWasCancelled: lambda event: {"caller": event.caller, "token": event.token},
    LeasesExtended: lambda event: {"expire_time_us": event.expire_time_us},
    InstanceCreated: lambda event: {"order": event.order, **_instance_body(event.fields)},
    InstanceUpdated: lambda event: _instance_body(event.fields),
    InstanceDeleted: lambda _event: {},
    FleetCreated: lambda event: _fleet_body(event.fields),
    FleetUpdated: lambda event: _fleet_body(event.fields),
    FleetDeleted: lambda _event: {},
    Repaired: lambda event: {"corrections": [encode_correction(each) for each in event.corrections]},
}


def decode_event(row: JournalRow) -> Event:
    """An event out of its journal row. Raises ValueError for a kind that this version does not know."""
    decode = _DECODERS.get(row.kind)
    if decode is None:
        message = (
            f"the journal has an event of kind {row.kind!r} at revision {row.revision}; this version cannot read it"
        )
        raise ValueError(message)
    return decode(row, json.loads(row.body))


def decode_placements(value: list[list[Any]]) -> Placements:
    """Placements out of their JSON form."""
    return tuple((instance, tuple(blocks)) for instance, blocks in value)


def _decode_granted(row: JournalRow, body: dict[str, Any]) -> Granted:
    return Granted(
        row.revision,
        row.time_us,
        holder=row.holder or "",
        caller=body["caller"],
        token=body["token"],
        fingerprint=bytes.fromhex(body["fingerprint"]),
        placements=decode_placements(body["placements"]),
        ttl_us=body["ttl_us"],
        expire_time_us=body["expire_time_us"],
        annotations=tuple(sorted(body["annotations"].items())),
        exclusive=tuple(body.get("exclusive", ())),
    )


def _decode_released(row: JournalRow, body: dict[str, Any]) -> Released:
    freed, left = decode_placements(body["freed"]), decode_placements(body["left"])
    return Released(row.revision, row.time_us, row.allocation or 0, row.holder or "", freed, left)


def _decode_expired(row: JournalRow, body: dict[str, Any]) -> Expired:
    freed = decode_placements(body["freed"])
    return Expired(row.revision, row.time_us, row.allocation or 0, row.holder or "", freed)


def _decode_renewed(row: JournalRow, body: dict[str, Any]) -> Renewed:
    times = body["ttl_us"], body["expire_time_us"]
    return Renewed(row.revision, row.time_us, row.allocation or 0, row.holder or "", *times)


def _decode_instance_created(row: JournalRow, body: dict[str, Any]) -> InstanceCreated:
    fields = _decode_instance_fields(body)
    return InstanceCreated(row.revision, row.time_us, row.instance or "", body["order"], fields)


def _decode_instance_updated(row: JournalRow, body: dict[str, Any]) -> InstanceUpdated:
    return InstanceUpdated(row.revision, row.time_us, row.instance or "", _decode_instance_fields(body))


def _decode_fleet_fields(body: dict[str, Any]) -> FleetFields:
    return FleetFields(
        labels=tuple(sorted(body["labels"].items())),
        default_placement_strategy=PlacementStrategy(body["default_placement_strategy"]),
        default_ttl_us=body["default_ttl_us"],
        max_ttl_us=body["max_ttl_us"],
    )


def _decode_instance_fields(body: dict[str, Any]) -> InstanceFields:
    return InstanceFields(
        total_blocks=body["total_blocks"],
        labels=tuple(sorted(body["labels"].items())),
        resources=tuple(sorted(body["resources"].items())),
        state=InstanceState(body["state"]),
    )


_DECODERS: Final[dict[str, Callable[[JournalRow, dict[str, Any]], Event]]] = {
    Granted.kind: _decode_granted,
    Released.kind: _decode_released,
    Expired.kind: _decode_expired,
    Renewed.kind: _decode_renewed,
    TokenWasCancelled.kind: lambda row, body: TokenWasCancelled(
        row.revision, row.time_us, body["caller"], body["token"]
    ),
    LeasesExtended.kind: lambda row, body: LeasesExtended(row.revision, row.time_us, body["expire_time_us"]),
    InstanceCreated.kind: _decode_instance_created,
    InstanceUpdated.kind: _decode_instance_updated,
    InstanceDeleted.kind: lambda row, _body: InstanceDeleted(row.revision, row.time_us, row.instance or ""),
    FleetCreated.kind: lambda row, body: FleetCreated(row.revision, row.time_us, _decode_fleet_fields(body)),
    FleetUpdated.kind: lambda row, body: FleetUpdated(row.revision, row.time_us, _decode_fleet_fields(body)),
    FleetDeleted.kind: lambda row, _body: FleetDeleted(row.revision, row.time_us),
    Repaired.kind: lambda row, body: Repaired(
        row.revision, row.time_us, tuple(decode_correction(each) for each in body["corrections"])
    ),
}

KINDS: Final = tuple(_DECODERS)
"""Every kind, as the journal and the protos spell it."""
