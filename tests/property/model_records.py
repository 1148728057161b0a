"""What the model remembers: fleets, instances, allocations, tokens, events; all of it dicts and lists."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.property.plain import Plain, given

STATUS = {
    "INVALID_REQUEST": "INVALID_ARGUMENT",
    "UNSATISFIABLE": "FAILED_PRECONDITION",
    "NO_CAPACITY": "RESOURCE_EXHAUSTED",
    "TOKEN_MISMATCH": "ALREADY_EXISTS",
    "TOKEN_CANCELLED": "FAILED_PRECONDITION",
    "ALLOCATION_ENDED": "FAILED_PRECONDITION",
    "LEASE_EXPIRED": "FAILED_PRECONDITION",
    "STALE_FENCING_TOKEN": "FAILED_PRECONDITION",
    "FLEET_NOT_FOUND": "NOT_FOUND",
    "INSTANCE_NOT_FOUND": "NOT_FOUND",
    "ALLOCATION_NOT_FOUND": "NOT_FOUND",
    "FLEET_EXISTS": "ALREADY_EXISTS",
    "INSTANCE_EXISTS": "ALREADY_EXISTS",
    "INSTANCE_IN_USE": "FAILED_PRECONDITION",
    "FLEET_IN_USE": "FAILED_PRECONDITION",
    "ETAG_MISMATCH": "ABORTED",
    "NOT_HOLDER": "PERMISSION_DENIED",
    "BLOCK_NOT_GRANTED": "FAILED_PRECONDITION",
    "LIMIT_EXCEEDED": "RESOURCE_EXHAUSTED",
    "COMPACTED": "OUT_OF_RANGE",
}
"""The design's table of errors, written down a second time."""


class Refusal(Exception):
    """An error that a request is answered with: its reason, its documented metadata, the fields that are wrong."""

    def __init__(self, reason: str, *fields: str, **metadata: object) -> None:
        super().__init__(reason)
        self.plain: Plain = {
            "code": STATUS[reason],
            "message": True,
            "reason": reason,
            "metadata": {key: str(value) for key, value in metadata.items()},
        }
        if fields:
            self.plain["fields"] = sorted(fields)


@dataclass
class Instance:
    """A machine; `holders` says which allocation has which block."""

    fleet: str
    instance: str
    order: int
    total_blocks: int
    labels: dict[str, str]
    resources: dict[str, int]
    state: str
    changed: int
    """The revision at which its own fields last changed."""
    create_time: int
    update_time: int
    holders: dict[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its full name."""
        return f"fleets/{self.fleet}/instances/{self.instance}"

    exclusive: bool = False
    """One allocation has it exclusively, as long as it has any of its blocks."""

    @property
    def idle(self) -> list[int]:
        """The blocks that nobody has."""
        return [block for block in range(self.total_blocks) if block not in self.holders]

    @property
    def acquirable(self) -> list[int]:
        """The blocks that somebody may get."""
        return [] if self.exclusive or self.state != "ACTIVE" else self.idle

    def own_fields(self) -> Plain:
        """What operators set."""
        return given(
            name=self.name,
            total_blocks=self.total_blocks,
            labels=dict(self.labels),
            resources=dict(self.resources),
            state=self.state,
        )

    def plain(self) -> Plain:
        """As a client sees it."""
        return self.own_fields() | given(
            etag=f"r{self.changed}",
            busy_blocks=len(self.holders),
            idle_blocks=len(self.idle),
            order=self.order,
            create_time=self.create_time,
            update_time=self.update_time,
        )


@dataclass
class Allocation:
    """A grant. `held` is what is left of `granted`; once it has ended, what was left at its end."""

    fleet: str
    allocation: int
    holder: str
    caller: str
    token: str
    granted: dict[str, list[int]]
    held: dict[str, list[int]]
    ttl: int | None
    grant_time: int
    expire_time: int | None
    annotations: dict[str, str]
    exclusive: list[str]
    revision: int
    state: str = "HELD"
    end_time: int | None = None

    @property
    def name(self) -> str:
        """Its full name; empty for one that was only tried."""
        return f"fleets/{self.fleet}/allocations/{self.allocation}" if self.allocation else ""

    def has_run_out(self, now: int) -> bool:
        """Whether its lease has ended: at its expire time it has."""
        return self.state == "HELD" and self.expire_time is not None and self.expire_time <= now


@dataclass
class Token:
    """What is remembered of a token: its allocation (None: it was cancelled) and what was asked for."""

    allocation: int | None
    asked: Plain
    revision: int
    time: int


@dataclass
class Fleet:
    """A fleet, with all that ever happened to it. `exists` is false after a deletion."""

    fleet: str
    exists: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    default_placement_strategy: str = "BEST_FIT"
    default_ttl: int | None = None
    max_ttl: int | None = None
    revision: int = 0
    changed: int = 0
    create_time: int = 0
    update_time: int = 0
    next_order: int = 1
    instances: dict[str, Instance] = field(default_factory=dict)
    """By id, in the order of registration."""
    allocations: dict[int, Allocation] = field(default_factory=dict)
    """By id, in the order in which they were granted."""
    tokens: dict[tuple[str, str], Token] = field(default_factory=dict)
    """By (caller, token)."""
    events: list[Plain] = field(default_factory=list)
    """Those that are kept."""
    age: int = 0
    """How long the sweeper has watched it, in all its lives."""
    marks: list[tuple[int, int]] = field(default_factory=list)
    """(age, revision): what is at this revision or below is at least as old as since that age."""
    looked: int | None = None
    """When the sweeper of this life last looked."""

    @property
    def name(self) -> str:
        """Its full name."""
        return f"fleets/{self.fleet}"

    @property
    def has_past(self) -> bool:
        """Whether there is anything that may be forgotten some day."""
        ended = any(allocation.state != "HELD" for allocation in self.allocations.values())
        return ended or len(self.events) > 1 or any(token.allocation is None for token in self.tokens.values())

    def grow_older(self, now: int, retentions: tuple[int, int]) -> None:
        """The sweeper looks: what it has watched counts, but for a thousandth, which its clock may be wrong by."""
        step = max(1_000_000, min(600_000_000, min(retentions) // 1000))
        if self.looked is None:
            self.looked = now
            return
        watched = (now - self.looked) - (now - self.looked) // 1000
        if watched < step:
            return
        self.looked = now
        self.age += watched
        last_age, last_revision = self.marks[-1] if self.marks else (-min(retentions), -1)
        if last_revision < self.revision and self.age - last_age >= min(retentions) // 8:
            self.marks.append((self.age, self.revision))

    def old(self, retention: int) -> int:
        """The highest revision that is older than this."""
        return max((revision for age, revision in self.marks if self.age - age >= retention), default=0)

    def forget(self, ended: int, events: int) -> None:
        """What ended up to one revision, and the events up to another, but never the last one."""
        gone = [a for a in self.allocations.values() if a.state != "HELD" and a.revision <= ended]
        for allocation in gone:
            del self.allocations[allocation.allocation]
            del self.tokens[allocation.caller, allocation.token]
        cancelled = [key for key, known in self.tokens.items() if known.allocation is None and known.revision <= ended]
        for key in cancelled:
            del self.tokens[key]
        while len(self.events) > 1 and self.events[0]["revision"] <= events:
            del self.events[0]

    def own_fields(self) -> Plain:
        """What operators set."""
        return given(
            name=self.name,
            labels=dict(self.labels),
            default_placement_strategy=self.default_placement_strategy,
            default_ttl=self.default_ttl,
            max_ttl=self.max_ttl,
        )

    def plain(self) -> Plain:
        """As a client sees it."""
        return self.own_fields() | given(
            etag=f"r{self.changed}",
            revision=self.revision,
            create_time=self.create_time,
            update_time=self.update_time,
        )

    def record(self, now: int, kind: str, **fields: Any) -> int:
        """One more event, and its revision."""
        self.revision += 1
        actor = {"actor": "system"} if kind in {"EXPIRED", "LEASES_EXTENDED"} else {}
        self.events.append(given(revision=self.revision, time=now, kind=kind, **fields, **actor))
        return self.revision

    def instance(self, instance: str) -> Instance:
        """One instance, or the refusal of who names it."""
        if instance not in self.instances:
            raise Refusal("INSTANCE_NOT_FOUND", instance=f"{self.name}/instances/{instance}")
        return self.instances[instance]

    def allocation(self, allocation: int) -> Allocation:
        """One allocation, or the refusal of who names it."""
        if allocation not in self.allocations:
            raise Refusal("ALLOCATION_NOT_FOUND", allocation=f"{self.name}/allocations/{allocation}")
        return self.allocations[allocation]

    def live(self) -> Iterator[Allocation]:
        """The allocations that have blocks."""
        return (allocation for allocation in self.allocations.values() if allocation.state == "HELD")

    def placements(self, blocks: dict[str, list[int]]) -> list[Plain]:
        """Blocks by instance, as clients see them."""
        return [{"instance": f"{self.name}/instances/{i}", "blocks": list(numbers)} for i, numbers in blocks.items()]

    def shown(self, allocation: Allocation) -> Plain:
        """An allocation as a client sees it."""
        held = allocation.state == "HELD"
        offline = [i for i in allocation.held if held and self.instances[i].state == "OFFLINE"]
        return given(
            name=allocation.name,
            holder=allocation.holder,
            state=allocation.state,
            placements=self.placements(allocation.held),
            fencing_token=allocation.allocation,
            revision=allocation.revision,
            ttl=allocation.ttl,
            grant_time=allocation.grant_time,
            expire_time=allocation.expire_time,
            end_time=allocation.end_time,
            annotations=dict(allocation.annotations),
            idempotency_token=allocation.token,
            exclusive_instances=[f"{self.name}/instances/{i}" for i in allocation.held if i in allocation.exclusive],
            offline_instances=[f"{self.name}/instances/{i}" for i in offline],
        )

    def free(self, blocks: dict[str, list[int]]) -> None:
        """Nobody has these blocks any more."""
        for instance, numbers in blocks.items():
            for number in numbers:
                del self.instances[instance].holders[number]
            self.instances[instance].exclusive &= bool(self.instances[instance].holders)

    def sweep(self, now: int) -> None:
        """Ends the leases that have run out, the one that ran out first, first."""
        due = [allocation for allocation in self.live() if allocation.has_run_out(now)]
        for allocation in sorted(due, key=lambda a: (a.expire_time, a.allocation)):
            allocation.revision = self.record(
                now,
                "EXPIRED",
                allocation=allocation.name,
                holder=allocation.holder,
                placements=self.placements(allocation.held),
                ended=True,
            )
            allocation.state, allocation.end_time = "EXPIRED", allocation.expire_time
            self.free(allocation.held)
