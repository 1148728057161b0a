"""The domain's requests and records as the oracle's plain types, and its choice as the domain says it."""

from functools import lru_cache

from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.requests import Demand, InstanceFields, InstanceState, Selector
from tests.oracle import placement


def plain_instance(
    name: str, order: int, fields: InstanceFields, *, busy: int, exclusive: bool
) -> placement.Instance[str]:
    """An instance as it is now. `busy` is the mask of its held blocks."""
    active = fields.state is InstanceState.ACTIVE
    return placement.Instance(
        name, order, fields.total_blocks, busy, fields.labels, fields.resources, active=active, exclusive=exclusive
    )


@lru_cache(maxsize=1 << 12)
def plain_demand(demand: Demand) -> placement.Demand[str]:
    """One demand of a request."""
    return placement.Demand(
        demand.instances,
        demand.blocks,
        dict(demand.requirements),
        demand.exclusive,
        plain_terms(demand.selector),
        demand.instance_names,
    )


def plain_terms(selector: Selector) -> list[placement.Term]:
    """The terms of a selector."""
    return [(term.key, term.operator, term.values) for term in selector]


def placements(placed: placement.Placed[str]) -> Placements:
    """The choice, as a grant says it."""
    return tuple((name, tuple(placement.blocks_of(mask))) for name, mask in placed.blocks.items())
