"""The values that go into calls and come out of them: frozen, comparable, free of protobuf.

Two rules hold throughout. Fields named `fleet` and `instance` are short ids (`gpu`, `node-1`), fields named
`name` and `allocation` are full resource names (`fleets/gpu/allocations/17`); arguments take either form.
Times are aware datetimes in UTC by the server's clock, durations are timedeltas.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeAlias

from blockyard._arguments import mapped, several, some
from blockyard.enums import (
    AllocationState,
    Check,
    CorrectionKind,
    EventKind,
    InstanceState,
    Operator,
    PlacementStrategy,
    ReleaseOutcome,
)

Seconds: TypeAlias = timedelta | float
"""A duration as an argument: a timedelta, or a number of seconds."""


@dataclass(frozen=True, slots=True)
class Expression:
    """One term of a selector."""

    key: str
    """The label's key."""
    operator: Operator
    """How its value is compared."""
    values: tuple[str, ...] = ()
    """1..256 values for IN and NOT_IN, none for the others. One string is a TypeError."""

    def __post_init__(self) -> None:
        several(self.values, "values")


@dataclass(frozen=True, slots=True)
class Selector:
    """A query over labels, as in Kubernetes: all of its terms must hold."""

    match_labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Each key must be there with this value. Up to 64."""
    match_expressions: tuple[Expression, ...] = ()
    """Further terms. Up to 32."""

    def __post_init__(self) -> None:
        mapped(self.match_labels, "match_labels")
        several(self.match_expressions, "match_expressions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """One requested shape: blocks on each of `instances` distinct instances.

    At most one of `blocks` and `requirements`; `exclusive` alone or with `blocks`.
    """

    instances: int = 1
    """How many distinct instances, 1..1000."""
    blocks: int | None = None
    """How many blocks on each, 1..4096. With `exclusive`: how many it must have at least."""
    requirements: Mapping[str, int] = field(default_factory=dict, hash=False)
    """What is needed on each, such as `{"gpu": 2}`: the smallest share of its resources that covers every entry."""
    exclusive: bool = False
    """A wholly idle instance, all of it. Nobody else gets a block there while the allocation has one, not even
    blocks that are added later."""
    selector: Selector | Mapping[str, str] | None = field(default=None, hash=False)
    """Only instances whose labels match; a plain mapping stands for `match_labels`. None: any."""
    instance_names: tuple[str, ...] | None = None
    """Only these instances. None: any. Empty is a ValueError, one string a TypeError."""

    def __post_init__(self) -> None:
        some(self.instance_names, "instance_names")


@dataclass(frozen=True, slots=True)
class Placement:
    """Some blocks of one instance."""

    instance: str
    """The instance's id."""
    blocks: tuple[int, ...]
    """Block numbers, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """One all-or-nothing grant: a holder, and the exact blocks on each instance."""

    name: str
    """`fleets/{fleet}/allocations/{allocation}`. Empty only in the answer to `validate_only`."""
    fleet: str
    """The fleet's id."""
    holder: str
    """Who has it, in the scheduler's own words."""
    state: AllocationState
    """Where it is in its life."""
    placements: tuple[Placement, ...]
    """The blocks that are held, in the order of choice; once it has ended, those that were held at the end."""
    fencing_token: int
    """The fleet's revision at which it was granted: later grants have higher ones."""
    revision: int
    """The fleet's revision of its last change."""
    ttl: timedelta | None
    """The lease that was granted. None: held until released."""
    grant_time: datetime
    """When it was granted."""
    expire_time: datetime | None
    """When the lease ends unless it is renewed. None: held until released."""
    end_time: datetime | None
    """When it was released or expired. None while it is held."""
    annotations: Mapping[str, str] = field(hash=False)
    """What the acquire said, unchanged."""
    idempotency_token: str
    """The token of the acquire that it answers."""
    offline_instances: tuple[str, ...]
    """The ids of those of its instances that are OFFLINE now."""
    exclusive_instances: tuple[str, ...] = ()
    """The ids of its instances that it has exclusively: nobody else gets a block there while it holds one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The answer to an acquire: held, durably, at `revision`."""

    allocation: Allocation
    """What is held."""
    revision: int
    """The revision at which it is held; for `validate_only`, the one that the decision was made on."""
    server_time: datetime
    """The server's clock, to compare `expire_time` with."""
    replayed: bool
    """An earlier request with this token was granted; this one changed nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseResult:
    """What a release did."""

    outcome: ReleaseOutcome
    """What happened."""
    allocation: Allocation | None
    """The allocation as it is now. None for CANCELLED_BEFORE_GRANT."""
    revision: int
    """The revision of the allocation's last change, or of the cancellation."""
    server_time: datetime
    """The server's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewal:
    """A renewed lease."""

    allocation: Allocation
    """The allocation as it is now, with its `expire_time`."""
    revision: int
    """The revision of the allocation's last change."""
    server_time: datetime
    """The server's clock."""


@dataclass(frozen=True, slots=True)
class BlockCounts:
    """Sums over some instances. `busy_blocks + idle_blocks = total_blocks`, always."""

    instances: int
    """How many instances."""
    total_blocks: int
    """All their blocks."""
    busy_blocks: int
    """Those that are held."""
    idle_blocks: int
    """Those that are not held, on instances of any state."""
    acquirable_blocks: int
    """Those of `idle_blocks` that are on ACTIVE instances: what an acquire may get."""


@dataclass(frozen=True, slots=True)
class Hold:
    """The blocks that one allocation has on one instance."""

    allocation: str
    """The allocation's full name."""
    holder: str
    """Who has it."""
    blocks: tuple[int, ...]
    """Block numbers, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceBlocks:
    """One instance in a snapshot of its fleet."""

    instance: str
    """The instance's id."""
    state: InstanceState
    """Whether it takes new grants."""
    total_blocks: int
    """All its blocks."""
    busy_blocks: int
    """Those that are held."""
    idle_blocks: int
    """Those that are not held."""
    holds: tuple[Hold, ...]
    """With the FULL view: who has which blocks. The blocks that no hold names are idle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPage:
    """Some of a fleet's instances and the totals of all of them, all of it true at `revision`."""

    fleet: str
    """The fleet's id."""
    revision: int
    """The revision at which this page is true."""
    totals: BlockCounts
    """The sums over the whole fleet."""
    instances: tuple[InstanceBlocks, ...]
    """The page's instances in the order of registration."""
    server_time: datetime
    """The server's clock."""
    next_page_token: str
    """For the next page. Empty: this was the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSnapshot:
    """A whole fleet."""

    fleet: str
    """The fleet's id."""
    revision: int
    """The revision of `totals` and of the last page that was read."""
    totals: BlockCounts
    """The sums over the whole fleet at `revision`."""
    instances: tuple[InstanceBlocks, ...]
    """All its instances in the order of registration."""
    server_time: datetime
    """The server's clock."""
    consistent: bool
    """All of it is true at `revision`. False if the fleet kept changing while its pages were read: then each
    instance is true at some revision up to this one, and their sums may differ from `totals`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A named pool of instances, and the unit of consistency."""

    name: str
    """`fleets/{fleet}`."""
    labels: Mapping[str, str] = field(hash=False)
    """Its labels."""
    default_placement_strategy: PlacementStrategy
    """The strategy of an acquire that names none."""
    default_ttl: timedelta | None
    """The lease of an acquire that asks for none. None: held until released, or `max_ttl` if that is set."""
    max_ttl: timedelta | None
    """The longest lease that is granted. None: 366 days."""
    etag: str
    """Changes whenever the fleet's own fields change."""
    revision: int
    """The fleet's revision when this answer was made."""
    create_time: datetime
    """When it was created."""
    update_time: datetime
    """When its own fields last changed."""
    halted: bool = False
    """Its writes are stopped, because an invariant was found not to hold. See `repair`."""

    @property
    def id(self) -> str:
        """The short form of `name`."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A machine in a fleet, divided into blocks numbered 0..total_blocks-1."""

    name: str
    """`fleets/{fleet}/instances/{instance}`."""
    fleet: str
    """The fleet's id."""
    total_blocks: int
    """How many blocks it is divided into, 1..4096."""
    labels: Mapping[str, str] = field(hash=False)
    """Its labels, for selectors."""
    resources: Mapping[str, int] = field(hash=False)
    """What the whole instance has, such as `{"gpu": 8}`, for demands with requirements."""
    state: InstanceState
    """Whether it takes new grants."""
    etag: str
    """Changes whenever the instance's own fields change."""
    busy_blocks: int
    """The blocks that are held now."""
    idle_blocks: int
    """The blocks that are not held now, whatever the state."""
    order: int
    """Its place in the order of registration; what placement breaks ties by."""
    create_time: datetime
    """When it was registered."""
    update_time: datetime
    """When its own fields last changed."""

    @property
    def id(self) -> str:
        """The short form of `name`."""
        return self.name.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One change of one record by `repair`. What is set depends on `kind`."""

    kind: CorrectionKind
    """What is changed."""
    instance: str | None
    """The instance's id."""
    allocation: str | None
    """The allocation's full name."""
    block: int
    """The block's number."""
    before: int
    """The number before."""
    after: int
    """The number after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One committed change of a fleet. Which fields are set depends on `kind`."""

    revision: int
    """The revision that this change made."""
    time: datetime
    """When."""
    kind: EventKind
    """What changed."""
    allocation: str | None
    """The allocation's full name."""
    instance: str | None
    """The instance's id."""
    holder: str | None
    """The allocation's holder."""
    placements: tuple[Placement, ...]
    """The blocks that were granted, released, or freed by expiry."""
    expire_time: datetime | None
    """The new end of the lease."""
    idempotency_token: str | None
    """Of the grant or the cancellation."""
    ended: bool
    """The allocation has ended with this event; False for a partial release."""
    fleet: Fleet | None
    """The fleet's own fields after the change."""
    instance_after: Instance | None
    """The instance's own fields after the change; its busy and idle blocks are not counted here."""
    corrections: tuple[Correction, ...] = ()
    """What a repair changed."""
    actor: str | None = None
    """Who asked for it, as `tenant/principal`; `system` for what the server does by itself. None: nobody was asked."""
    via: str | None = None
    """How the actor proved who it is, such as `token:k3v9`."""
    backup_revision: int | None = None
    """The fleet's revision in the backup that was restored."""
    epoch: int | None = None
    """How often the database was restored, this time included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchUpdate:
    """One answer of a watch: some events, or none; then it is a progress notification."""

    events: tuple[Event, ...]
    """In ascending order of the revision."""
    revision: int
    """All matching events up to this revision have come. To go on later, watch from the revision after it."""
    server_time: datetime
    """The server's clock."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """One place where two records disagree."""

    check: Check
    """Which comparison failed."""
    instance: str | None
    """The instance's id, if the difference is of one instance."""
    allocation: str | None
    """The allocation's full name, if the difference is of one allocation."""
    expected: str
    """What the check expected, for people."""
    actual: str
    """What it found, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What a check of a fleet's records found."""

    clean: bool
    """No difference at all."""
    revision: int
    """The revision at which everything was compared."""
    discrepancies: tuple[Discrepancy, ...]
    """The differences, at most 1000."""
    truncated: bool
    """There were more."""
    instances_checked: int
    """How many instances were compared."""
    held_blocks_checked: int
    """How many held blocks were compared."""
    allocations_checked: int
    """How many live allocations were compared."""
    events_replayed: int
    """How many events were replayed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """What a repair did, or would do."""

    applied: bool
    """The changes were made. False without `apply`, and if there was nothing to change."""
    revision: int
    """The revision at which the records were compared."""
    corrections: tuple[Correction, ...]
    """Every change that was, or would be, made; at most 1000."""
    unrepaired: tuple[Discrepancy, ...]
    """Differences that no rule repairs, at most 1000: they are left as they are."""
    truncated: bool
    """There is more than `corrections` or `unrepaired` can hold: repair again."""
    halted: bool
    """The fleet's writes are stopped, now that this is done."""
