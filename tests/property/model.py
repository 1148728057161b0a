"""What Blockyard should do, in plain Python: dicts, loops, no database, no concurrency, no protobuf, no speed.

Written from the design and the protos' comments, not from the server's code. Each RPC is a method that takes the
request as a plain dict (see `plain`) and returns the whole answer as one, or raises `Refusal`. A paged RPC returns
everything as one page. Requests are well-formed, apart from what a method says.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.property.model_admin import AdminModel
from tests.property.model_placement import meaning, place
from tests.property.model_records import Allocation, Fleet, Refusal, Token
from tests.property.plain import Plain, given


class Model(AdminModel):
    """All three services, and what time, restarts and the sweeper do."""

    def acquire(self, request: Plain) -> Plain:
        """Allocator.Acquire. Also says so if token, holder or demands are missing."""
        missing = [name for name in ("idempotency_token", "holder", "demands") if not request.get(name)]
        if missing:
            raise Refusal("INVALID_REQUEST", *missing)
        fleet = self.swept(request["fleet"])
        asked, key = meaning(request), (self.caller, request["idempotency_token"])
        if key in fleet.tokens:
            return self._acquired_before(fleet, fleet.tokens[key], key[1], asked)
        strategy = asked["placement_strategy"] or fleet.default_placement_strategy
        blocks, exclusive = place(fleet, asked["demands"], strategy)
        ttl = fleet.default_ttl if asked["ttl"] is None else asked["ttl"]
        if fleet.max_ttl is not None:
            ttl = fleet.max_ttl if ttl is None else min(ttl, fleet.max_ttl)
        allocation = Allocation(
            fleet=fleet.fleet,
            allocation=0,
            holder=request["holder"],
            caller=self.caller,
            token=key[1],
            granted={instance: list(numbers) for instance, numbers in blocks.items()},
            held=blocks,
            ttl=ttl,
            grant_time=self.now,
            expire_time=None if ttl is None else self.now + ttl,
            annotations=asked["annotations"],
            exclusive=exclusive,
            revision=0,
        )
        if not request.get("validate_only"):
            self._grant(fleet, allocation, asked)
        return given(
            allocation=fleet.shown(allocation), revision=allocation.revision or fleet.revision, server_time=self.now
        )

    def _grant(self, fleet: Fleet, allocation: Allocation, asked: Plain) -> None:
        number = fleet.revision + 1
        allocation.allocation = allocation.revision = number
        fleet.record(
            self.now,
            "GRANTED",
            allocation=allocation.name,
            holder=allocation.holder,
            placements=fleet.placements(allocation.held),
            expire_time=allocation.expire_time,
            idempotency_token=allocation.token,
        )
        fleet.allocations[number] = allocation
        fleet.tokens[allocation.caller, allocation.token] = Token(number, asked, number, self.now)
        for instance, blocks in allocation.held.items():
            for block in blocks:
                assert block not in fleet.instances[instance].holders, "the model itself granted a block twice"
                fleet.instances[instance].holders[block] = number
            fleet.instances[instance].exclusive = instance in allocation.exclusive

    def _acquired_before(self, fleet: Fleet, known: Token, token: str, asked: Plain) -> Plain:
        if known.allocation is None:
            raise Refusal("TOKEN_CANCELLED")
        allocation = fleet.allocations[known.allocation]
        differing = [name for name in asked if asked[name] != known.asked[name]]
        if differing:
            raise Refusal("TOKEN_MISMATCH", fields=", ".join(differing), allocation=allocation.name)
        if allocation.state != "HELD":
            raise Refusal("ALLOCATION_ENDED", allocation=allocation.name)
        assert allocation.token == token
        return given(
            allocation=fleet.shown(allocation), revision=allocation.revision, server_time=self.now, replayed=True
        )

    def release(self, request: Plain) -> Plain:
        """Allocator.Release."""
        if "name" in request:
            _, fleet_id, _, number = request["name"].split("/")
            fleet = self.swept(f"fleets/{fleet_id}")
            allocation = fleet.allocation(int(number))
        else:
            fleet = self.swept(request["fleet"])
            key = (self.caller, request["idempotency_token"])
            if key not in fleet.tokens:
                revision = fleet.record(self.now, "TOKEN_CANCELLED", idempotency_token=key[1])
                fleet.tokens[key] = Token(None, {}, revision, self.now)
            known = fleet.tokens[key]
            if known.allocation is None:
                return given(outcome="CANCELLED_BEFORE_GRANT", revision=known.revision, server_time=self.now)
            allocation = fleet.allocations[known.allocation]
        _check_guards(request, allocation)
        wanted = {
            placement["instance"].split("/")[3]: placement["blocks"] for placement in request.get("placements", [])
        }
        _check_granted(wanted, allocation)
        outcome = self._release(fleet, allocation, wanted or allocation.held)
        return given(
            outcome=outcome,
            allocation=fleet.shown(allocation),
            revision=allocation.revision,
            server_time=self.now,
        )

    def _release(self, fleet: Fleet, allocation: Allocation, wanted: dict[str, list[int]]) -> str:
        if allocation.state != "HELD":
            return f"ALREADY_{allocation.state}"
        freed = {i: [b for b in blocks if b in wanted.get(i, [])] for i, blocks in allocation.held.items()}
        freed = {instance: blocks for instance, blocks in freed.items() if blocks}
        if not freed:
            return "ALREADY_RELEASED"
        left = {i: [b for b in blocks if b not in freed.get(i, [])] for i, blocks in allocation.held.items()}
        left = {instance: blocks for instance, blocks in left.items() if blocks}
        fleet.free(freed)
        allocation.revision = fleet.record(
            self.now,
            "RELEASED",
            allocation=allocation.name,
            holder=allocation.holder,
            placements=fleet.placements(freed),
            ended=not left,
        )
        if left:
            allocation.held = left
        else:
            allocation.state, allocation.end_time = "RELEASED", self.now
        return "RELEASED"

    def renew(self, request: Plain) -> Plain:
        """Allocator.Renew."""
        _, fleet_id, _, number = request["name"].split("/")
        fleet = self.swept(f"fleets/{fleet_id}")
        allocation = fleet.allocation(int(number))
        _check_guards(request, allocation)
        if allocation.state == "RELEASED":
            raise Refusal("ALLOCATION_ENDED", allocation=allocation.name)
        if allocation.state == "EXPIRED":
            raise Refusal(
                "LEASE_EXPIRED", allocation=allocation.name, expire_time=_rfc3339(allocation.expire_time or 0)
            )
        if allocation.expire_time is not None and allocation.ttl is not None:
            ttl = request.get("ttl", allocation.ttl)
            ttl = ttl if fleet.max_ttl is None else min(ttl, fleet.max_ttl)
            if self.now + ttl > allocation.expire_time:
                allocation.ttl, allocation.expire_time = ttl, self.now + ttl
                allocation.revision = fleet.record(
                    self.now,
                    "RENEWED",
                    allocation=allocation.name,
                    holder=allocation.holder,
                    expire_time=allocation.expire_time,
                )
        return given(allocation=fleet.shown(allocation), revision=allocation.revision, server_time=self.now)

    def batch(self, request: Plain) -> Plain:
        """Allocator.Batch. Also says so if an operation is missing, or is `validate_only`."""
        return {"results": [self._operation(operation) for operation in request["operations"]]}

    def _operation(self, operation: Plain) -> Plain:
        try:
            return self._carry_out(operation)
        except Refusal as refusal:
            return {"error": refusal.plain}

    def _carry_out(self, operation: Plain) -> Plain:
        if not operation:
            raise Refusal("INVALID_REQUEST", "operation")
        [(kind, request)] = operation.items()
        if request.get("validate_only"):
            raise Refusal("INVALID_REQUEST", "validate_only")
        methods: dict[str, Any] = {"acquire": self.acquire, "release": self.release, "renew": self.renew}
        return {kind: methods[kind](request)}

    def describe(self, request: Plain) -> Plain:
        """Allocator.Describe."""
        fleet = self.swept(request["fleet"])
        instances = list(fleet.instances.values())
        return given(
            fleet=fleet.name,
            revision=fleet.revision,
            totals=given(
                instances=len(instances),
                total_blocks=sum(i.total_blocks for i in instances),
                busy_blocks=sum(len(i.holders) for i in instances),
                idle_blocks=sum(len(i.idle) for i in instances),
                acquirable_blocks=sum(len(i.acquirable) for i in instances),
            ),
            instances=[
                given(
                    instance=i.name,
                    state=i.state,
                    total_blocks=i.total_blocks,
                    busy_blocks=len(i.holders),
                    idle_blocks=len(i.idle),
                    holds=[
                        given(
                            allocation=fleet.allocations[number].name,
                            holder=fleet.allocations[number].holder,
                            blocks=sorted(block for block, who in i.holders.items() if who == number),
                        )
                        for number in sorted(set(i.holders.values()))
                        if request.get("view") == "FULL"
                    ],
                )
                for i in instances
            ],
            server_time=self.now,
        )

    def get_allocation(self, request: Plain) -> Plain:
        """Allocator.GetAllocation."""
        _, fleet_id, _, number = request["name"].split("/")
        fleet = self.swept(f"fleets/{fleet_id}")
        return fleet.shown(fleet.allocation(int(number)))

    def list_allocations(self, request: Plain) -> Plain:
        """Allocator.ListAllocations."""
        fleet = self.swept(request["parent"])
        found = [
            fleet.shown(allocation)
            for allocation in fleet.allocations.values()
            if request.get("holder", allocation.holder) == allocation.holder
            and request.get("state", allocation.state) == allocation.state
            and ("instance" not in request or request["instance"].split("/")[3] in allocation.held)
        ]
        return given(allocations=found, revision=fleet.revision)

    def verify(self, request: Plain) -> Plain:
        """Ledger.Verify: always clean. It does not sweep: what has run out is compared as it is."""
        fleet = self.existing(request["fleet"])
        return given(
            clean=True,
            revision=fleet.revision,
            instances_checked=len(fleet.instances),
            held_blocks_checked=sum(len(i.holders) for i in fleet.instances.values()),
            allocations_checked=len(list(fleet.live())),
            events_replayed=len(fleet.events),
        )

    def list_events(self, request: Plain) -> Plain:
        """Ledger.ListEvents, also of a deleted fleet."""
        fleet = self.known(request["parent"])
        first, oldest = request.get("from_revision", 0), fleet.events[0]["revision"]
        if 0 < first < oldest:
            raise Refusal("COMPACTED", fleet=fleet.name, from_revision=first, oldest_revision=oldest)
        kinds, instance = request.get("kinds", []), request.get("instance")
        events = [
            event
            for event in fleet.events
            if event["revision"] >= first
            and (not kinds or event["kind"] in kinds or "KIND_UNSPECIFIED" in kinds)
            and request.get("holder", event.get("holder")) == event.get("holder")
            and (instance is None or instance in [event.get("instance"), *_instances_of(event)])
        ]
        return given(events=events, revision=fleet.revision)

    def restart(self) -> None:
        """The server stops and starts: it renews every lease that is not known to have ended, up to its grace."""
        until = self.now + self.grace
        for fleet in self.fleets.values():
            fleet.looked = None
            short = [a for a in fleet.live() if a.expire_time is not None and a.expire_time < until]
            if short:
                fleet.record(self.now, "LEASES_EXTENDED", expire_time=until)
            for allocation in short:
                assert allocation.expire_time is not None
                assert allocation.ttl is not None
                allocation.expire_time = max(allocation.expire_time, min(self.now + allocation.ttl, until))

    def sweep_round(self) -> None:
        """Two rounds of the sweeper: it ends what has run out, and forgets what it has watched for its retention."""
        retentions = (self.retention, self.journal_retention)
        for _ in range(2):
            with_past = [fleet for fleet in self.fleets.values() if fleet.has_past]
            for fleet in self.fleets.values():
                fleet.sweep(self.now)
            for fleet in with_past:
                fleet.grow_older(self.now, retentions)
                fleet.forget(fleet.old(self.retention), fleet.old(self.journal_retention))


def _check_guards(request: Plain, allocation: Allocation) -> None:
    if request.get("holder", allocation.holder) != allocation.holder:
        raise Refusal("NOT_HOLDER", allocation=allocation.name)
    if request.get("fencing_token", allocation.allocation) != allocation.allocation:
        raise Refusal("STALE_FENCING_TOKEN", allocation=allocation.name, fencing_token=allocation.allocation)


def _check_granted(wanted: dict[str, list[int]], allocation: Allocation) -> None:
    for instance, blocks in wanted.items():
        for block in sorted(blocks):
            if block not in allocation.granted.get(instance, []):
                name = f"fleets/{allocation.fleet}/instances/{instance}"
                raise Refusal("BLOCK_NOT_GRANTED", allocation=allocation.name, instance=name, block=block)


def _instances_of(event: Plain) -> list[str]:
    return [placement["instance"] for placement in event.get("placements", [])]


def _rfc3339(time_us: int) -> str:
    time = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
