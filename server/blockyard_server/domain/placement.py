"""Chooses instances and blocks for demands: pure, exact to the tie, all or nothing.

A demand for k instances makes the strategy's choice k times, never twice the same instance. Later demands of a
request see what earlier ones took. Whatever happens, the fleet's memory is afterwards as it was before.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush, nsmallest

from blockyard_server.domain import limits
from blockyard_server.domain.blocks import Placements, choose_blocks, to_blocks
from blockyard_server.domain.errors import LimitExceeded, NoCapacity, Unsatisfiable
from blockyard_server.domain.index import Group, Instance, InstanceIndex, View
from blockyard_server.domain.requests import Demand, InstanceFields, PlacementStrategy

Choice = tuple[Instance, int]
"""An instance and the set of blocks to take there."""

Offer = tuple[tuple[int, int], int, Group, int]
"""A group's best instance: its rank, which no other has, its order; the group, and the blocks needed there.

Kept in a heap, so that a gang asks each group once, and then only the one it took from: where each instance has
resources of its own, there are as many groups as instances.
"""


def blocks_needed(demand: Demand, fields: InstanceFields) -> int | None:
    """How many blocks the demand takes on an instance with these fields; None if it never fits.

    With `requirements`: the smallest n whose share n/total_blocks of the resources covers every entry
    (dstack's rule, in whole numbers).
    """
    total = fields.total_blocks
    if demand.exclusive:
        return total if demand.blocks <= total else None
    if not demand.requirements:
        return demand.blocks if demand.blocks <= total else None
    resources = dict(fields.resources)
    need = 1
    for name, quantity in demand.requirements:
        available = resources.get(name, 0)
        if quantity > available:
            return None
        need = max(need, -(-quantity * total // available))
    return need


def place(
    index: InstanceIndex, demands: tuple[Demand, ...], strategy: PlacementStrategy
) -> tuple[Placements, tuple[str, ...]]:
    """The blocks for all demands, by instance in the order chosen, and the instances that are taken exclusively.

    Raises Unsatisfiable for a demand that would not fit an idle fleet, else NoCapacity for the first that cannot be met
    now, and LimitExceeded for a grant that would be too large.
    """
    taken: dict[str, int] = {}
    exclusive: list[str] = []
    before: list[Choice] = []
    try:
        for number, demand in enumerate(demands):
            for instance, blocks in _choose(index, number, demand, strategy):
                taken[instance.name] = taken.get(instance.name, 0) | blocks
                if demand.exclusive:
                    exclusive.append(instance.name)
                if len(demands) > 1:
                    before.append((instance, instance.busy))
                    index.set_busy(instance, instance.busy | blocks)
    except NoCapacity:
        # Whoever is told NO_CAPACITY waits. Nobody should wait for what can never be.
        for number, demand in enumerate(demands[1:], start=1):
            fitting = _count_fitting(index, demand)
            if fitting < demand.instances:
                raise _unsatisfiable(number, demand, fitting) from None
        raise
    finally:
        for instance, busy in reversed(before):
            index.set_busy(instance, busy)
    if len(taken) > 1 and sum(map(int.bit_count, taken.values())) > limits.MAX_BLOCKS_PER_REQUEST:
        most = limits.MAX_BLOCKS_PER_REQUEST
        message = f"the demands come to more than {most} blocks on this fleet; ask for less at a time"
        raise LimitExceeded(message, limit="blocks_per_request", maximum=most)
    return tuple((name, to_blocks(blocks)) for name, blocks in taken.items()), tuple(exclusive)


def _choose(index: InstanceIndex, number: int, demand: Demand, strategy: PlacementStrategy) -> list[Choice]:
    """The demand's choices. Raises Unsatisfiable or NoCapacity."""
    few = _few_candidates(index, demand)
    if few is not None:
        return _choose_among(index, few, number, demand, strategy)
    view = index.view(demand.selector, by_resources=bool(demand.requirements))
    return _choose_in_view(index, view, number, demand, strategy)


def _few_candidates(index: InstanceIndex, demand: Demand) -> list[Instance] | None:
    if demand.instance_names:
        named = (index.by_name.get(name) for name in dict.fromkeys(demand.instance_names))
        return [i for i in named if i is not None and all(term.matches(i.labels) for term in demand.selector)]
    return index.candidates(demand.selector) if demand.selector else None


_KEYS: dict[PlacementStrategy, Callable[[int, int], tuple[int, int]]] = {
    PlacementStrategy.FIRST_FIT: lambda _idle, order: (order, 0),
    PlacementStrategy.BEST_FIT: lambda idle, order: (idle, order),
    PlacementStrategy.WORST_FIT: lambda idle, order: (-idle, order),
}
"""What each strategy takes the least of, out of (idle blocks, order)."""


def _choose_among(
    index: InstanceIndex, candidates: list[Instance], number: int, demand: Demand, strategy: PlacementStrategy
) -> list[Choice]:
    key = _KEYS[strategy]
    fitting = 0
    open_now: list[tuple[tuple[int, int], Choice]] = []
    for instance in candidates:
        need = blocks_needed(demand, instance.fields)
        if need is None:
            continue
        fitting += 1
        if instance.acquirable >= need:
            open_now.append((key(instance.idle_count, instance.order), (instance, need)))
    if len(open_now) < demand.instances:
        raise _shortfall(index, number, demand, found=len(open_now), fitting=fitting)
    chosen = nsmallest(demand.instances, open_now, key=lambda entry: entry[0])
    return [(instance, choose_blocks(instance.idle, need)) for _, (instance, need) in chosen]


def _choose_in_view(
    index: InstanceIndex, view: View, number: int, demand: Demand, strategy: PlacementStrategy
) -> list[Choice]:
    groups = [
        (group, need) for group in view.groups.values() if (need := blocks_needed(demand, group.fields)) is not None
    ]
    offers = [offer for group, need in groups if (offer := _offer(group, need, strategy)) is not None]
    heapify(offers)
    choices: list[Choice] = []
    try:
        while len(choices) < demand.instances:
            if not offers:
                fitting = sum(group.members for group, _ in groups)
                raise _shortfall(index, number, demand, found=len(choices), fitting=fitting)
            _, order, group, need = heappop(offers)
            instance = index.by_order[order]
            choices.append((instance, choose_blocks(instance.idle, need)))
            if len(choices) < demand.instances:
                view.hide(instance)
                offer = _offer(group, need, strategy)
                if offer is not None:
                    heappush(offers, offer)
    finally:
        if demand.instances > 1:
            for instance, _ in choices:
                view.refresh(instance)
    return choices


def _offer(group: Group, need: int, strategy: PlacementStrategy) -> Offer | None:
    """What a group has for a demand that needs `need` blocks there."""
    found = group.best(need, strategy)
    return None if found is None else (_KEYS[strategy](*found), found[1], group, need)


def _shortfall(
    index: InstanceIndex, number: int, demand: Demand, *, found: int, fitting: int
) -> Unsatisfiable | NoCapacity:
    if fitting < demand.instances:
        return _unsatisfiable(number, demand, fitting)
    return NoCapacity(
        f"demand {number} needs {demand.instances} instance(s), and {found} have room now; try again later",
        demand=number,
        instances_needed=demand.instances,
        instances_found=found,
        idle_blocks=index.acquirable_blocks,
    )


def _unsatisfiable(number: int, demand: Demand, fitting: int) -> Unsatisfiable:
    return Unsatisfiable(
        f"demand {number} needs {demand.instances} instance(s), and only {fitting} of this fleet would fit it "
        "even if all were idle; ask for less, relax the selector, or add instances",
        demand=number,
        instances_needed=demand.instances,
        instances_fitting=fitting,
    )


def _count_fitting(index: InstanceIndex, demand: Demand) -> int:
    """How many instances, of any state, the demand would fit if they were idle."""
    few = _few_candidates(index, demand)
    if few is not None:
        return sum(blocks_needed(demand, instance.fields) is not None for instance in few)
    groups = index.view(demand.selector, by_resources=bool(demand.requirements)).groups.values()
    return sum(group.members for group in groups if blocks_needed(demand, group.fields) is not None)
