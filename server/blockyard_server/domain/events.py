"""What can happen to a fleet: the events of its journal.

An event is one committed change and makes one revision. Events are the spine: a decision is an event,
the store writes rows out of events, memory changes by events, Verify replays events.

The journal keeps every event for ever, so a kind's fields are only ever added to, each with a default: what an older
release wrote is read with the defaults, and what a newer one adds is ignored (docs/adr/0022). A new kind also needs a
format of its own (`formats.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final, get_args

from blockyard_server.domain.allocation import Allocation, TokenRecord
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.corrections import Correction
from blockyard_server.domain.requests import FleetFields, InstanceFields


@dataclass(frozen=True, slots=True)
class _Event:
    revision: int
    time_us: int
    actor: str = field(default="", kw_only=True)
    """Who asked for it, as `Actor.name`. Empty: the server had no auth file, or did it by itself."""
    via: str = field(default="", kw_only=True)
    """How the actor proved that (`Actor.via`)."""


@dataclass(frozen=True, slots=True)
class FleetCreated(_Event):
    """The fleet was made, or made again after a deletion."""

    kind: ClassVar[str] = "FLEET_CREATED"
    fields: FleetFields


@dataclass(frozen=True, slots=True)
class FleetUpdated(_Event):
    """The fleet's own fields changed to `fields`."""

    kind: ClassVar[str] = "FLEET_UPDATED"
    fields: FleetFields


@dataclass(frozen=True, slots=True)
class FleetDeleted(_Event):
    """The fleet and its instances are gone; its revision and journal stay."""

    kind: ClassVar[str] = "FLEET_DELETED"


@dataclass(frozen=True, slots=True)
class InstanceCreated(_Event):
    """An instance was registered, with this place in the order of registration."""

    kind: ClassVar[str] = "INSTANCE_CREATED"
    instance: str
    order: int
    fields: InstanceFields


@dataclass(frozen=True, slots=True)
class InstanceUpdated(_Event):
    """An instance's own fields changed to `fields`."""

    kind: ClassVar[str] = "INSTANCE_UPDATED"
    instance: str
    fields: InstanceFields


@dataclass(frozen=True, slots=True)
class InstanceDeleted(_Event):
    """An instance is gone."""

    kind: ClassVar[str] = "INSTANCE_DELETED"
    instance: str


@dataclass(frozen=True, slots=True)
class Granted(_Event):
    """Blocks were granted. The allocation's id is the revision."""

    kind: ClassVar[str] = "GRANTED"
    holder: str
    caller: str
    token: str
    fingerprint: bytes
    placements: Placements
    ttl_us: int | None
    expire_time_us: int | None
    annotations: Mapping[str, str] = field(default_factory=dict)
    exclusive: tuple[str, ...] = ()
    """The instances that were granted exclusively. Journals of before have none: nobody owned an instance then."""

    def token_record(self) -> TokenRecord:
        """What is remembered of its token."""
        return TokenRecord(self.caller, self.token, self.revision, self.fingerprint, self.revision)

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

    kind: ClassVar[str] = "RELEASED"
    allocation: int
    holder: str
    freed: Placements
    left: Placements


@dataclass(frozen=True, slots=True)
class Renewed(_Event):
    """A lease was extended."""

    kind: ClassVar[str] = "RENEWED"
    allocation: int
    holder: str
    ttl_us: int
    expire_time_us: int


@dataclass(frozen=True, slots=True)
class Expired(_Event):
    """A lease ran out, and all of the allocation's blocks, `freed`, are idle."""

    kind: ClassVar[str] = "EXPIRED"
    allocation: int
    holder: str
    freed: Placements


@dataclass(frozen=True, slots=True)
class TokenWasCancelled(_Event):
    """A Release by token came before its Acquire."""

    kind: ClassVar[str] = "TOKEN_CANCELLED"
    caller: str
    token: str

    def token_record(self) -> TokenRecord:
        """What is remembered of its token: no request was made with it."""
        return TokenRecord(self.caller, self.token, None, b"", self.revision)


@dataclass(frozen=True, slots=True)
class LeasesExtended(_Event):
    """After a start, leases were extended by at most their TTL, to `expire_time_us` at the latest.

    `allocation.extended_us` is the rule.
    """

    kind: ClassVar[str] = "LEASES_EXTENDED"
    expire_time_us: int


@dataclass(frozen=True, slots=True)
class Repaired(_Event):
    """A Repair changed records so that they agree. Memory does not follow it, but is loaded again."""

    kind: ClassVar[str] = "REPAIRED"
    corrections: tuple[Correction, ...]


@dataclass(frozen=True, slots=True)
class Restored(_Event):
    """The database was restored from a backup. Revisions go on above all that the lost future can have had."""

    kind: ClassVar[str] = "RESTORED"
    backup_revision: int
    """The fleet's revision in the backup."""
    epoch: int
    """How often the database was restored, this time included."""


FleetEvent = FleetCreated | FleetUpdated | FleetDeleted
InstanceEvent = InstanceCreated | InstanceUpdated | InstanceDeleted
AllocationEvent = Granted | Released | Renewed | Expired
Event = FleetEvent | InstanceEvent | AllocationEvent | TokenWasCancelled | LeasesExtended | Repaired | Restored

KINDS: Final = tuple(event.kind for event in get_args(Event))
"""Every kind, as the journal and the protos spell it."""
