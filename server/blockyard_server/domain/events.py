"""What can happen to a fleet: the events of its journal.

An event is one committed change and makes one revision. Events are the spine: a decision is an event,
the store writes rows out of events, memory changes by events, Verify replays events.
`encode_body` and `decode_event` are the journal's format (JSON); fields are only ever added to it.
"""

import json
from dataclasses import dataclass
from typing import Any, ClassVar

from blockyard_server.domain.allocation import Allocation
from blockyard_server.domain.blocks import Placements
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
    """After a restart, every lease that would end before `expire_time_us` was extended to it."""

    kind: ClassVar = "LEASES_EXTENDED"
    expire_time_us: int


FleetEvent = FleetCreated | FleetUpdated | FleetDeleted
InstanceEvent = InstanceCreated | InstanceUpdated | InstanceDeleted
AllocationEvent = Granted | Released | Renewed | Expired
Event = FleetEvent | InstanceEvent | AllocationEvent | TokenWasCancelled | LeasesExtended

KINDS: tuple[str, ...] = (
    FleetCreated.kind,
    FleetUpdated.kind,
    FleetDeleted.kind,
    InstanceCreated.kind,
    InstanceUpdated.kind,
    InstanceDeleted.kind,
    Granted.kind,
    Released.kind,
    Renewed.kind,
    Expired.kind,
    TokenWasCancelled.kind,
    LeasesExtended.kind,
)
"""Every kind, as the journal and the protos spell it."""


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


def encode_body(event: Event) -> str:
    """The part of an event that the journal keeps as JSON; revision, time, kind, allocation, instance and
    holder have columns of their own."""
    body: dict[str, Any]
    match event:
        case Granted():
            body = {
                "caller": event.caller,
                "token": event.token,
                "fingerprint": event.fingerprint.hex(),
                "placements": event.placements,
                "ttl_us": event.ttl_us,
                "expire_time_us": event.expire_time_us,
                "annotations": dict(event.annotations),
            }
        case Released():
            body = {"freed": event.freed, "left": event.left}
        case Expired():
            body = {"freed": event.freed}
        case Renewed():
            body = {"ttl_us": event.ttl_us, "expire_time_us": event.expire_time_us}
        case TokenWasCancelled():
            body = {"caller": event.caller, "token": event.token}
        case LeasesExtended():
            body = {"expire_time_us": event.expire_time_us}
        case InstanceCreated():
            body = {"order": event.order, **_instance_body(event.fields)}
        case InstanceUpdated():
            body = _instance_body(event.fields)
        case FleetCreated() | FleetUpdated():
            body = _fleet_body(event.fields)
        case FleetDeleted() | InstanceDeleted():
            body = {}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)


def decode_placements(value: list[list[Any]]) -> Placements:
    """Placements out of their JSON form."""
    return tuple((instance, tuple(blocks)) for instance, blocks in value)


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


def decode_event(  # noqa: PLR0911 - one return for each kind is the table that this function is
    revision: int, time_us: int, kind: str, allocation: int | None, instance: str | None, holder: str | None, body: str
) -> Event:
    """An event out of its journal row. Raises ValueError for a kind that this version does not know."""
    fields = json.loads(body)
    match kind, allocation, instance, holder:
        case "GRANTED", int(), _, str():
            return Granted(
                revision,
                time_us,
                holder=holder,
                caller=fields["caller"],
                token=fields["token"],
                fingerprint=bytes.fromhex(fields["fingerprint"]),
                placements=decode_placements(fields["placements"]),
                ttl_us=fields["ttl_us"],
                expire_time_us=fields["expire_time_us"],
                annotations=tuple(sorted(fields["annotations"].items())),
            )
        case "RELEASED", int(), _, str():
            freed, left = decode_placements(fields["freed"]), decode_placements(fields["left"])
            return Released(revision, time_us, allocation, holder, freed, left)
        case "EXPIRED", int(), _, str():
            return Expired(revision, time_us, allocation, holder, decode_placements(fields["freed"]))
        case "RENEWED", int(), _, str():
            return Renewed(revision, time_us, allocation, holder, fields["ttl_us"], fields["expire_time_us"])
        case "TOKEN_CANCELLED", _, _, _:
            return TokenWasCancelled(revision, time_us, fields["caller"], fields["token"])
        case "LEASES_EXTENDED", _, _, _:
            return LeasesExtended(revision, time_us, fields["expire_time_us"])
        case "INSTANCE_CREATED", _, str(), _:
            return InstanceCreated(revision, time_us, instance, fields["order"], _decode_instance_fields(fields))
        case "INSTANCE_UPDATED", _, str(), _:
            return InstanceUpdated(revision, time_us, instance, _decode_instance_fields(fields))
        case "INSTANCE_DELETED", _, str(), _:
            return InstanceDeleted(revision, time_us, instance)
        case "FLEET_CREATED", _, _, _:
            return FleetCreated(revision, time_us, _decode_fleet_fields(fields))
        case "FLEET_UPDATED", _, _, _:
            return FleetUpdated(revision, time_us, _decode_fleet_fields(fields))
        case "FLEET_DELETED", _, _, _:
            return FleetDeleted(revision, time_us)
    msg = f"the journal has an event of kind {kind!r} at revision {revision} that this version cannot read"
    raise ValueError(msg)
