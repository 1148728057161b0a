"""A fleet with nothing around it: requests are decided, and their events applied, as the engine does it."""

from collections.abc import Mapping
from typing import Any, TypeVar

import pytest

from blockyard_server.domain.answers import Grant, ReleaseAnswer, Renewal
from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.decide import decide
from blockyard_server.domain.errors import Refused
from blockyard_server.domain.events import Event
from blockyard_server.domain.fleet import FleetState
from blockyard_server.domain.records import Records
from blockyard_server.domain.requests import (
    Acquire,
    CreateFleet,
    CreateInstance,
    Demand,
    FleetFields,
    InstanceFields,
    InstanceState,
    Operator,
    PlacementStrategy,
    Release,
    Renew,
    Request,
    Term,
    UpdateInstance,
)

SECOND = 1_000_000
"""In microseconds."""
START = 1_700_000_000 * SECOND
"""When the stories begin."""

R = TypeVar("R", bound=Refused)

FIRST_FIT, BEST_FIT, WORST_FIT = PlacementStrategy.FIRST_FIT, PlacementStrategy.BEST_FIT, PlacementStrategy.WORST_FIT
ACTIVE, CORDONED, OFFLINE = InstanceState.ACTIVE, InstanceState.CORDONED, InstanceState.OFFLINE


def shape(
    total_blocks: int = 8,
    *,
    labels: Mapping[str, str] | None = None,
    resources: Mapping[str, int] | None = None,
    state: InstanceState = ACTIVE,
) -> InstanceFields:
    """An instance's fields, as the edge would decode them."""
    return InstanceFields(total_blocks, dict(labels or {}), dict(resources or {}), state)


def term(key: str, operator: Operator, *values: str) -> Term:
    """A term of a selector, as the edge would decode it."""
    return Term(key, operator, tuple(sorted(set(values))))


class PureFleet:
    """The fleet `gpu`, with its records and its history."""

    def __init__(self, *sizes: int, fields: FleetFields | None = None, created: bool = True) -> None:
        self.state = FleetState("gpu")
        self.records = Records()
        self.now_us = START
        self.events: list[Event] = []
        if created:
            self.do(CreateFleet("gpu", fields or FleetFields()))
        for number, size in enumerate(sizes, start=1):
            self.add(f"n{number}", shape(size))

    def do(self, request: Request) -> Any:
        """Decides the request and applies what follows. Raises Refused."""
        answer, event = decide(self.state, self.records, request, self.now_us)
        if event is not None:
            self.state.apply(event)
            self.records.apply(event)
            self.events.append(event)
        return answer

    def refusal(self, request: Request, kind: type[R]) -> R:
        """The refusal of a request that must be refused."""
        with pytest.raises(kind) as caught:
            self.do(request)
        return caught.value

    def add(self, name: str, fields: InstanceFields | None = None) -> None:
        """Registers an instance."""
        self.do(CreateInstance("gpu", name, fields or shape()))

    def change(self, name: str, **changes: object) -> None:
        """Updates an instance."""
        self.do(UpdateInstance("gpu", name, changes))

    def acquire(self, *demands: Demand, token: str | None = None, **fields: Any) -> Grant:
        """Acquires, with a token of its own unless one is given."""
        grant: Grant = self.do(self.wish(*demands, token=token, **fields))
        return grant

    def wish(self, *demands: Demand, token: str | None = None, **fields: Any) -> Acquire:
        """The request of `acquire`."""
        fields.setdefault("caller", "slurm")
        fields.setdefault("holder", "job")
        token = f"t{self.state.revision}" if token is None else token
        return Acquire("gpu", token=token, demands=demands or (Demand(blocks=1),), **fields)

    def take(self, *demands: Demand, strategy: PlacementStrategy | None = None) -> Placements:
        """Acquires, and answers the blocks."""
        return self.acquire(*demands, strategy=strategy).view.allocation.placements

    def release(self, allocation: int | None = None, **fields: Any) -> ReleaseAnswer:
        """Releases."""
        answer: ReleaseAnswer = self.do(Release("gpu", "slurm", allocation, **fields))
        return answer

    def renew(self, allocation: int, ttl_us: int | None = None, **fields: Any) -> Renewal:
        """Renews."""
        renewal: Renewal = self.do(Renew("gpu", allocation, ttl_us, **fields))
        return renewal

    @property
    def busy(self) -> dict[str, int]:
        """How many blocks of each instance are held."""
        return {name: instance.busy.bit_count() for name, instance in self.state.index.by_name.items()}

    def picture(self) -> dict[str, Any]:
        """All that memory and records say, for comparison by value; caches (views) apart."""
        index = self.state.index
        return {
            "revision": self.state.revision,
            "next_order": self.state.next_order,
            "record": self.state.record,
            "next_expire_time_us": self.state.next_expire_time_us,
            "acquirable": index.acquirable_blocks,
            "orders": {order: instance.name for order, instance in index.by_order.items()},
            "instances": {
                name: (i.order, i.fields, i.busy, i.idle_count, i.labels, i.config_revision, i.update_time_us)
                for name, i in index.by_name.items()
            },
            "tokens": dict(self.records.tokens),
            "allocations": dict(self.records.allocations),
            "touched": dict(self.records.touched),
        }
