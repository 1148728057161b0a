"""Chooses instances and blocks for demands: pure, exact to the tie, all or nothing.

A demand for k instances makes the strategy's choice k times, never twice the same instance. Later demands of a
request see what earlier ones took. Whatever happens, the fleet's memory is afterwards as it was before.
"""

from collections.abc import Mapping

from blockyard_server.domain import limits
from blockyard_server.domain.bitmaps import BitSlices
from blockyard_server.domain.blocks import Placements, choose_blocks, to_blocks
from blockyard_server.domain.errors import LimitExceeded, NoCapacity, Unsatisfiable
from blockyard_server.domain.index import Instance, InstanceIndex, Requirements
from blockyard_server.domain.requests import Demand, InstanceFields, PlacementStrategy

Choice = tuple[Instance, int]
"""An instance and the set of blocks to take there."""


def blocks_needed(demand: Demand, fields: InstanceFields) -> int | None:
    """How many blocks the demand takes on an instance with these fields; None if it never fits."""
    total = fields.total_blocks
    if demand.requirements:
        return blocks_covering(demand.requirements, total, fields.resources)
    return (total if demand.exclusive else demand.blocks) if demand.blocks <= total else None


def blocks_covering(requirements: Requirements, total: int, resources: Mapping[str, int]) -> int | None:
    """The smallest n whose share n/total of the resources covers every requirement; None if all of it does not.

    It is dstack's rule, in whole numbers.
    """
    need = 1
    for name, quantity in requirements:
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
    _check_work(index, demands)
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
        # A client that is told NO_CAPACITY waits, and should never wait for what can never be.
        for number, demand in enumerate(demands[1:], start=1):
            fitting = _fitting(index, demand, _candidates(index, demand))
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


def _check_work(index: InstanceIndex, demands: tuple[Demand, ...]) -> None:
    """Bounds how long the request holds up the fleets' other requests, before anything is begun."""
    requirements = {demand.requirements for demand in demands if demand.requirements}
    most = limits.MAX_SHAPES_PER_REQUEST
    if len(requirements) > 1 and index.unknown_needs(requirements) > most:
        message = (
            "so many different requirements on a fleet of so many different instances take too long at once; "
            "send the demands in several requests, or give instances of a kind the same resources"
        )
        raise LimitExceeded(message, limit="shapes_per_request", maximum=most)


def _choose(index: InstanceIndex, number: int, demand: Demand, strategy: PlacementStrategy) -> list[Choice]:
    """The demand's choices. Raises Unsatisfiable or NoCapacity."""
    candidates = _candidates(index, demand)
    if demand.exclusive:
        room = index.fitting(_need(index, demand), index.wholly_idle(candidates))
    else:
        room = index.with_room(_need(index, demand), candidates)
    found = room.bit_count()
    if found < demand.instances:
        fitting = _fitting(index, demand, candidates)
        if fitting < demand.instances:
            raise _unsatisfiable(number, demand, fitting)
        raise NoCapacity(
            f"demand {number} needs {demand.instances} instance(s), and {found} have room now; try again later",
            demand=number,
            instances_needed=demand.instances,
            instances_found=found,
            idle_blocks=index.acquirable_blocks,
        )
    return [
        (instance, choose_blocks(instance.idle, blocks_needed(demand, instance.fields) or 0))
        for instance in index.chosen(room, strategy, demand.instances)
    ]


def _candidates(index: InstanceIndex, demand: Demand) -> int:
    return index.matching(demand.selector, demand.instance_names)


def _need(index: InstanceIndex, demand: Demand) -> int | BitSlices:
    """How many blocks an instance must have, idle or not: the same everywhere, or a number for each instance."""
    if demand.requirements:
        return index.needs(demand.requirements, blocks_covering)
    return max(1, demand.blocks)


def _fitting(index: InstanceIndex, demand: Demand, candidates: int) -> int:
    """How many instances, of any state, the demand would fit if they were idle."""
    return index.fitting(_need(index, demand), candidates).bit_count()


def _unsatisfiable(number: int, demand: Demand, fitting: int) -> Unsatisfiable:
    return Unsatisfiable(
        f"demand {number} needs {demand.instances} instance(s), and only {fitting} of this fleet would fit it "
        "even if all were idle; ask for less, relax the selector, or add instances",
        demand=number,
        instances_needed=demand.instances,
        instances_fitting=fitting,
    )
