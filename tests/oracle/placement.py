"""Which instances and which blocks a request gets, or why none: what the contract says, and nothing of the server.

Every instance is looked at, every time. The oracle has its own plain types. Whoever compares something with it
translates: the state machine of the domain, the model of the service, the checker of histories, the simulation.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Generic, TypeAlias, TypeVar

Name = TypeVar("Name", bound=Hashable)
"""What an instance is called: a name, or a number."""
Term: TypeAlias = tuple[str, str, Collection[str]]
"""A requirement of a selector: (key, operator, values)."""

FIRST_FIT: Final = "FIRST_FIT"
BEST_FIT: Final = "BEST_FIT"
WORST_FIT: Final = "WORST_FIT"


@dataclass(slots=True)
class Instance(Generic[Name]):
    """A machine as it is now."""

    name: Name
    order: int
    """Of its registration."""
    total_blocks: int
    busy: int = 0
    """The mask of its held blocks."""
    labels: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, int] = field(default_factory=dict)
    active: bool = True
    """Neither cordoned nor offline."""
    exclusive: bool = False
    """An allocation that was granted it exclusively still holds a block of it."""

    def acquirable(self) -> int:
        """How many blocks somebody may get."""
        return self.total_blocks - self.busy.bit_count() if self.active and not self.exclusive else 0


@dataclass(frozen=True, slots=True)
class Demand(Generic[Name]):
    """So many instances, with so many blocks on each, or the share of each that covers the requirements."""

    instances: int = 1
    blocks: int = 0
    """On each instance; of an exclusive demand, at least."""
    requirements: Mapping[str, int] = field(default_factory=dict)
    exclusive: bool = False
    selector: Sequence[Term] = ()
    only: Collection[Name] = ()
    """Only these instances. Empty: any."""


@dataclass(frozen=True, slots=True)
class Placed(Generic[Name]):
    """The mask of the blocks on each instance, in the order of the choice."""

    blocks: dict[Name, int]
    exclusive: tuple[Name, ...]
    """The instances that are taken exclusively."""


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    """A demand would not even fit an idle fleet. The first such demand is named."""

    demand: int
    instances_needed: int
    instances_fitting: int


@dataclass(frozen=True, slots=True)
class NoCapacity:
    """A demand does not fit now. The first such demand is named."""

    demand: int
    instances_needed: int
    instances_found: int
    idle_blocks: int
    """That somebody may get, after the demands before it."""


def place(
    fleet: Sequence[Instance[Name]], demands: Sequence[Demand[Name]], strategy: str
) -> Placed[Name] | Unsatisfiable | NoCapacity:
    """The blocks for all demands, or the refusal. The fleet stays as it is."""
    fitting = [_fitting(fleet, demand) for demand in demands]
    for number, (demand, fits) in enumerate(zip(demands, fitting, strict=True)):
        if len(fits) < demand.instances:
            return Unsatisfiable(number, demand.instances, len(fits))
    taken: dict[Name, int] = {}
    exclusive: list[Name] = []
    for number, (demand, fits) in enumerate(zip(demands, fitting, strict=True)):
        chosen: dict[Name, int] = {}
        for _ in range(demand.instances):
            # A demand never takes an instance twice, and sees what the demands before it took.
            room = [
                (_rank(strategy, idle), instance.order, instance, count)
                for instance, count in fits
                if instance.name not in chosen
                and (idle := instance.acquirable() - taken.get(instance.name, 0).bit_count()) >= count
            ]
            if not room:
                free = sum(i.acquirable() - taken.get(i.name, 0).bit_count() for i in fleet if i.acquirable())
                return NoCapacity(number, demand.instances, len(chosen), free)
            _, _, instance, count = min(room)
            busy = instance.busy | taken.get(instance.name, 0)
            chosen[instance.name] = choose_blocks(instance.total_blocks, busy, count)
        for name, blocks in chosen.items():
            taken[name] = taken.get(name, 0) | blocks
        exclusive += chosen if demand.exclusive else ()
    return Placed(taken, tuple(exclusive))


def fits_now(fleet: Sequence[Instance[Name]], demands: Sequence[Demand[Name]], strategy: str) -> bool:
    """Whether `place` would find blocks; quick for a single demand, for which the strategy makes no difference."""
    if len(demands) > 1:
        return isinstance(place(fleet, demands, strategy), Placed)
    (demand,) = demands
    wanted = demand.instances
    for instance in fleet:
        count = blocks_needed(instance, demand)
        if count is not None and instance.acquirable() >= count:
            wanted -= 1
            if not wanted:
                return True
    return False


def matches(selector: Iterable[Term], labels: Mapping[str, str]) -> bool:
    """Whether labels meet all terms. The rules are those of Kubernetes, as its documentation words them."""
    return all(_holds(term, labels) for term in selector)


def blocks_needed(instance: Instance[Name], demand: Demand[Name]) -> int | None:
    """How many blocks a demand takes on an instance; None if not even an idle one would do."""
    if demand.only and instance.name not in demand.only:
        return None
    if demand.selector and not matches(demand.selector, instance.labels):
        return None
    total = instance.total_blocks
    least = total if demand.exclusive else max(demand.blocks, 1)
    if max(least, demand.blocks) > total:
        return None
    if not demand.requirements:
        return least
    covering = (count for count in range(least, total + 1) if _covers(instance, count, demand.requirements))
    return next(covering, None)


@lru_cache(maxsize=1 << 16)
def choose_blocks(total: int, busy: int, count: int) -> int:
    """The smallest run of neighbouring idle blocks that fits, lowest first; else the lowest idle ones. A mask."""
    idle = blocks_of(~busy & (1 << total) - 1)
    fitting = [run for run in _runs(idle) if len(run) >= count]
    # `min` takes the first of the smallest, which is the lowest.
    blocks = min(fitting, key=len) if fitting else idle
    return mask_of(blocks[:count])


def blocks_of(mask: int) -> list[int]:
    """The blocks of a mask, in ascending order."""
    return [block for block in range(mask.bit_length()) if mask >> block & 1]


def mask_of(blocks: Iterable[int]) -> int:
    """The mask of blocks."""
    return sum(1 << block for block in blocks)


def _fitting(fleet: Iterable[Instance[Name]], demand: Demand[Name]) -> list[tuple[Instance[Name], int]]:
    return [(instance, count) for instance in fleet if (count := blocks_needed(instance, demand)) is not None]


def _holds(term: Term, labels: Mapping[str, str]) -> bool:
    key, operator, values = term
    match operator:
        case "IN":
            return key in labels and labels[key] in values
        case "NOT_IN":
            return key not in labels or labels[key] not in values
        case "EXISTS":
            return key in labels
        case _:
            assert operator == "DOES_NOT_EXIST"
            return key not in labels


def _covers(instance: Instance[Name], count: int, requirements: Mapping[str, int]) -> bool:
    """Whether the share of so many blocks covers the requirements, in whole numbers."""
    total, there = instance.total_blocks, instance.resources
    return all(there.get(name, 0) * count >= quantity * total for name, quantity in requirements.items())


def _rank(strategy: str, idle: int) -> int:
    """What comes first, before the order of registration decides."""
    return {FIRST_FIT: 0, BEST_FIT: idle, WORST_FIT: -idle}[strategy]


def _runs(idle: Iterable[int]) -> Iterator[list[int]]:
    """The runs of neighbouring blocks."""
    run: list[int] = []
    for block in idle:
        if run and run[-1] != block - 1:
            yield run
            run = []
        run.append(block)
    if run:
        yield run
