"""What the design says about placement, and nothing else: every instance is looked at, every time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from blockyard_server.domain.blocks import Placements
from blockyard_server.domain.requests import Demand, InstanceFields, InstanceState, PlacementStrategy, Term


@dataclass
class NaiveInstance:
    """An instance, with the allocation that has each held block."""

    order: int
    fields: InstanceFields
    held: dict[int, int] = field(default_factory=dict)
    exclusive_to: int | None = None
    """The last allocation that was granted it exclusively: it is its own as long as it has any of its blocks."""


def holds(term: Term, labels: Mapping[str, str]) -> bool:
    """Kubernetes' rules, as its documentation words them."""
    if term.operator == "IN":
        return term.key in labels and labels[term.key] in term.values
    if term.operator == "NOT_IN":
        return term.key not in labels or labels[term.key] not in term.values
    return (term.key in labels) is (term.operator == "EXISTS")


def need(demand: Demand, fields: InstanceFields) -> int | None:
    """The smallest number of blocks that does, found by trying each."""
    for blocks in range(1, fields.total_blocks + 1):
        if demand.exclusive and blocks < fields.total_blocks:
            continue
        share = {name: quantity * blocks for name, quantity in fields.resources.items()}
        covered = all(share.get(name, 0) >= want * fields.total_blocks for name, want in demand.requirements)
        if blocks >= demand.blocks and covered:
            return blocks
    return None


def runs(idle: list[int]) -> Iterator[list[int]]:
    """The neighbouring idle blocks."""
    run: list[int] = []
    for block in idle:
        if run and run[-1] != block - 1:
            yield run
            run = []
        run.append(block)
    if run:
        yield run


def place_naively(
    fleet: Mapping[str, NaiveInstance], demands: tuple[Demand, ...], strategy: PlacementStrategy
) -> tuple[Placements, tuple[str, ...]] | str:
    """The blocks, by instance in the order chosen, with what is taken exclusively; or the reason of the refusal."""
    fitting = [
        {
            name: blocks
            for name, instance in fleet.items()
            if all(holds(term, dict(instance.fields.labels)) for term in demand.selector)
            and (not demand.instance_names or name in demand.instance_names)
            and (blocks := need(demand, instance.fields)) is not None
        }
        for demand in demands
    ]
    if any(len(fits) < demand.instances for fits, demand in zip(fitting, demands, strict=True)):
        return "UNSATISFIABLE"
    taken: dict[str, list[int]] = {}
    exclusive: list[str] = []
    for fits, demand in zip(fitting, demands, strict=True):
        chosen: set[str] = set()
        for _ in range(demand.instances):
            ranked = []
            for name, blocks in fits.items():
                instance = fleet[name]
                gone = instance.held.keys() | set(taken.get(name, ()))
                idle = [block for block in range(instance.fields.total_blocks) if block not in gone]
                if name in chosen or instance.fields.state is not InstanceState.ACTIVE or len(idle) < blocks:
                    continue
                if instance.exclusive_to in instance.held.values():
                    continue
                rank = {"FIRST_FIT": 0, "BEST_FIT": len(idle), "WORST_FIT": -len(idle)}[strategy]
                ranked.append((rank, instance.order, name, blocks, idle))
            if not ranked:
                return "NO_CAPACITY"
            _, _, name, blocks, idle = min(ranked)
            long_enough = [run for run in runs(idle) if len(run) >= blocks]
            best = min(long_enough, key=lambda run: (len(run), run[0]), default=idle)
            taken.setdefault(name, []).extend(best[:blocks])
            chosen.add(name)
            if demand.exclusive:
                exclusive.append(name)
    return tuple((name, tuple(sorted(blocks))) for name, blocks in taken.items()), tuple(exclusive)
