"""What a fleet's journal says, event by event, with dictionaries and loops and nothing of the server's code."""

from blockyard_server.domain.allocation import Allocation, AllocationState
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.events import (
    Event,
    Expired,
    FleetCreated,
    FleetUpdated,
    Granted,
    InstanceCreated,
    InstanceDeleted,
    InstanceUpdated,
    LeasesExtended,
    Released,
    Renewed,
    TokenWasCancelled,
)
from blockyard_server.domain.requests import Acquire, FleetFields, InstanceFields, TokenKey
from tests.memory.rows import Block, Rows
from tests.oracle import placement
from tests.oracle.domain_types import plain_instance
from tests.simulation.kernel import Violation


class FleetRecords:
    """One fleet, at one revision."""

    def __init__(self) -> None:
        self.revision = 0
        self.fields: FleetFields | None = None
        self.instances: dict[str, InstanceFields] = {}
        self.held: dict[Block, int] = {}
        self.allocations: dict[int, Allocation] = {}
        self.tokens: dict[TokenKey, int | None] = {}
        self.asked: dict[TokenKey, Acquire] = {}
        """The request that each token was granted to."""
        self._used: set[TokenKey] = set()
        """Tokens that were ever granted or cancelled, also forgotten ones."""
        self._fences: dict[Block, int] = {}
        """The highest fencing token that ever went with a block."""

    def due(self, now_us: int) -> list[int]:
        """The allocations whose lease has ended, the longest overdue first."""
        due = [
            (a.expire_time_us, a.allocation)
            for a in self.allocations.values()
            if a.state is AllocationState.HELD and a.expire_time_us is not None and a.expire_time_us <= now_us
        ]
        return [allocation for _, allocation in sorted(due)]

    def fleet(self) -> list[placement.Instance[str]]:
        """The instances as the oracle of placement sees them. They are in the order of registration."""
        busy = dict.fromkeys(self.instances, 0)
        for instance, block in self.held:
            busy[instance] |= 1 << block
        owned = {
            instance
            for allocation in self.allocations.values()
            if allocation.exclusive and allocation.state is AllocationState.HELD
            for instance, _ in allocation.placements
            if instance in allocation.exclusive
        }
        return [
            plain_instance(name, order, fields, busy=busy[name], exclusive=name in owned)
            for order, (name, fields) in enumerate(self.instances.items())
        ]

    def apply(self, event: Event) -> None:
        """The next event. What cannot be is a Violation."""
        if event.revision != self.revision + 1:
            raise Violation(f"event {event.revision} follows revision {self.revision}")
        self.revision = event.revision
        match event:
            case Granted():
                self._grant(event)
            case Released() | Renewed() | Expired():
                self._change(event)
            case TokenWasCancelled():
                self._use((event.caller, event.token))
                self.tokens[event.caller, event.token] = None
            case LeasesExtended():
                self._extend(event)
            case FleetCreated() | FleetUpdated():
                self.fields = event.fields
            case InstanceCreated() | InstanceUpdated():
                self.instances[event.instance] = event.fields
            case InstanceDeleted():
                del self.instances[event.instance]
            case _:
                raise Violation(f"nobody asked for {event}")

    def _use(self, key: TokenKey) -> None:
        if key in self._used:
            raise Violation(f"token {key[1]} is granted or cancelled a second time")
        self._used.add(key)

    def _grant(self, event: Granted) -> None:
        self._use((event.caller, event.token))
        self.tokens[event.caller, event.token] = event.revision
        self.allocations[event.revision] = event.allocation()
        for instance, blocks in event.placements:
            for block in blocks:
                key = (instance, block)
                if key in self.held:
                    raise Violation(f"block {key} is granted, and allocation {self.held[key]} has it")
                if self._fences.get(key, 0) >= event.revision:
                    raise Violation(f"the fencing tokens of block {key} do not increase")
                self._fences[key] = self.held[key] = event.revision

    def _free(self, placements: Placements, allocation: int) -> None:
        for instance, blocks in placements:
            for block in blocks:
                if self.held.pop((instance, block), None) != allocation:
                    raise Violation(f"block {block} of {instance} is freed by {allocation}, which has it not")

    def _change(self, event: Released | Renewed | Expired) -> None:
        was = self.allocations.get(event.allocation)
        if was is None or was.state is not AllocationState.HELD:
            raise Violation(f"{event} is about an allocation that is not held")
        match event:
            case Renewed():
                if event.expire_time_us <= (was.expire_time_us or 0) or (was.expire_time_us or 0) <= event.time_us:
                    raise Violation(f"{event} shortens or revives a lease that ends at {was.expire_time_us}")
                now = was._replace(ttl_us=event.ttl_us, expire_time_us=event.expire_time_us)
            case Released(left=left):
                self._free(event.freed, event.allocation)
                ended = was._replace(state=AllocationState.RELEASED, end_time_us=event.time_us)
                now = was._replace(placements=left) if left else ended
            case _:
                if was.expire_time_us is None or was.expire_time_us > event.time_us or event.freed != was.placements:
                    raise Violation(f"{event} ends a lease that ends at {was.expire_time_us}")
                self._free(event.freed, event.allocation)
                now = was._replace(state=AllocationState.EXPIRED, end_time_us=was.expire_time_us)
        self.allocations[event.allocation] = now._replace(revision=event.revision)

    def _extend(self, event: LeasesExtended) -> None:
        for number, was in self.allocations.items():
            if was.state is AllocationState.HELD and was.expire_time_us is not None and was.ttl_us is not None:
                longest_us = min(event.time_us + was.ttl_us, event.expire_time_us)
                if was.expire_time_us < longest_us:
                    self.allocations[number] = was._replace(expire_time_us=longest_us)

    def forget(self, rows: Rows) -> None:
        """What the rows have no more is forgotten, if it may be."""
        for number in self.allocations.keys() - rows.allocations.keys():
            gone = self.allocations.pop(number)
            if gone.state is AllocationState.HELD:
                raise Violation(f"allocation {number} is held, and forgotten")
            del self.tokens[gone.caller, gone.token]
        for key in self.tokens.keys() - rows.tokens.keys():
            del self.tokens[key]

    def compare(self, rows: Rows) -> None:
        """The rows, against what the journal says."""
        tokens = {key: record.allocation for key, record in rows.tokens.items()}
        shapes = {name: record.fields for name, record in rows.instances.items()}
        for what, ours, theirs in (
            ("revision", self.revision, rows.revision),
            ("instances", self.instances, shapes),
            ("held blocks", self.held, rows.held),
            ("allocations", self.allocations, rows.allocations),
            ("tokens", self.tokens, tokens),
        ):
            if ours != theirs:
                raise Violation(f"the rows of {what} are {theirs}, and the journal says {ours}")
