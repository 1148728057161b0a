"""What can be asked of a fleet, decoded and defaulted: the input of the `decide_x` functions.

Every request names its fleet. `token_key` and `allocation_ids` say which records a decision needs, so
that a whole batch's records are looked up with two statements.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from blockyard_server.domain.actor import Actor
from blockyard_server.domain.blocks import Placements

TokenKey = tuple[str, str]
"""(caller, idempotency token): what a token is scoped to within a fleet."""


class PlacementStrategy(StrEnum):
    """How an instance is chosen among those that fit."""

    FIRST_FIT = "FIRST_FIT"
    BEST_FIT = "BEST_FIT"
    WORST_FIT = "WORST_FIT"


class InstanceState(StrEnum):
    """Whether an instance takes new grants: only ACTIVE ones do."""

    ACTIVE = "ACTIVE"
    CORDONED = "CORDONED"
    OFFLINE = "OFFLINE"


Operator = Literal["IN", "NOT_IN", "EXISTS", "DOES_NOT_EXIST"]


@dataclass(frozen=True, slots=True)
class Term:
    """One term of a selector. `values` are sorted, without repeats."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an instance with these labels satisfies the term (Kubernetes' LabelSelector rules)."""
        value = labels.get(self.key)
        match self.operator:
            case "IN":
                return value is not None and value in self.values
            case "NOT_IN":
                return value is None or value not in self.values
            case "EXISTS":
                return value is not None
            case "DOES_NOT_EXIST":
                return value is None


Selector = tuple[Term, ...]
"""Terms that must all hold, in a canonical order. Empty: any instance."""


@dataclass(frozen=True, slots=True)
class Demand:
    """One requested shape: blocks on each of `instances` distinct instances.

    Exactly one of: `blocks > 0` without `exclusive`; `requirements`; `exclusive` (then `blocks` is the
    least that the instance must have, or 0).
    """

    instances: int = 1
    blocks: int = 0
    requirements: tuple[tuple[str, int], ...] = ()
    exclusive: bool = False
    selector: Selector = ()
    instance_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Request:
    fleet: str
    actor: Actor | None = field(default=None, kw_only=True)
    """Who asks. None: the server has no auth file."""


@dataclass(frozen=True, slots=True)
class Acquire(_Request):
    """Asks for every demand or none. `strategy` and `ttl_us` are None where the fleet's default holds."""

    caller: str
    token: str
    holder: str
    demands: tuple[Demand, ...]
    strategy: PlacementStrategy | None = None
    ttl_us: int | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    validate_only: bool = False

    @property
    def token_key(self) -> TokenKey | None:
        """The token record that the decision needs."""
        return (self.caller, self.token)

    @property
    def allocation_id(self) -> int | None:
        """The allocation that the decision needs besides the token's."""
        return None


@dataclass(frozen=True, slots=True)
class Release(_Request):
    """Ends an allocation, by id or by token: exactly one of `allocation` and `token` is set.

    `placements` is empty for all blocks. The guards `holder` and `fencing_token` are None where not asked.
    """

    caller: str
    allocation: int | None = None
    token: str | None = None
    placements: Placements = ()
    holder: str | None = None
    fencing_token: int | None = None

    @property
    def token_key(self) -> TokenKey | None:
        """The token record that the decision needs."""
        return None if self.token is None else (self.caller, self.token)

    @property
    def allocation_id(self) -> int | None:
        """The allocation that the decision needs besides the token's."""
        return self.allocation


@dataclass(frozen=True, slots=True)
class Renew(_Request):
    """Extends a lease by `ttl_us` from now, or by the allocation's own TTL."""

    allocation: int
    ttl_us: int | None = None
    holder: str | None = None
    fencing_token: int | None = None

    @property
    def token_key(self) -> TokenKey | None:
        """The token record that the decision needs."""
        return None

    @property
    def allocation_id(self) -> int | None:
        """The allocation that the decision needs."""
        return self.allocation


@dataclass(frozen=True, slots=True)
class FleetFields:
    """The fields of a fleet that operators set. TTLs are None where absent. A new field has a default (ADR 22)."""

    labels: Mapping[str, str] = field(default_factory=dict)
    default_placement_strategy: PlacementStrategy = PlacementStrategy.BEST_FIT
    default_ttl_us: int | None = None
    max_ttl_us: int | None = None


@dataclass(frozen=True, slots=True)
class InstanceFields:
    """The fields of an instance that operators set. A new field has a default (docs/adr/0022)."""

    total_blocks: int
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, int] = field(default_factory=dict)
    state: InstanceState = InstanceState.ACTIVE


@dataclass(frozen=True, slots=True)
class _AdminRequest(_Request):
    @property
    def token_key(self) -> TokenKey | None:
        """Administration needs no token record."""
        return None

    @property
    def allocation_id(self) -> int | None:
        """Administration needs no allocation."""
        return None


@dataclass(frozen=True, slots=True)
class CreateFleet(_AdminRequest):
    """Makes a fleet."""

    fields: FleetFields


@dataclass(frozen=True, slots=True)
class UpdateFleet(_AdminRequest):
    """Changes those of a fleet's fields that `changes` names (names of FleetFields). `etag` None: no guard."""

    changes: Mapping[str, object] = field(default_factory=dict)
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class DeleteFleet(_AdminRequest):
    """Deletes a fleet; with `force` also its instances."""

    etag: str | None = None
    force: bool = False


@dataclass(frozen=True, slots=True)
class CreateInstance(_AdminRequest):
    """Registers an instance."""

    instance: str
    fields: InstanceFields


@dataclass(frozen=True, slots=True)
class UpdateInstance(_AdminRequest):
    """Changes those of an instance's fields that `changes` names (names of InstanceFields)."""

    instance: str
    changes: Mapping[str, object] = field(default_factory=dict)
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class DeleteInstance(_AdminRequest):
    """Removes an instance."""

    instance: str
    etag: str | None = None


Request = (
    Acquire
    | Release
    | Renew
    | CreateFleet
    | UpdateFleet
    | DeleteFleet
    | CreateInstance
    | UpdateInstance
    | DeleteInstance
)
"""Everything that the writer carries out on a client's behalf."""
