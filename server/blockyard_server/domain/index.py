"""Finds the instances that a demand fits, by bitmaps over all instances of a fleet.

Each instance has a position, in the order of registration. There is a bitmap for each label, and bit slices for the
numbers of blocks. So a selector is a few ANDs, ORs and NOTs of integers, and so are "has room for this" and "has the
fewest idle blocks": nothing is built for a selector, and a grant changes a few bits (docs/adr/0016).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Final

from blockyard_server.domain.bitmaps import NEVER, BitSlices, bitmap_of, positions_in
from blockyard_server.domain.requests import InstanceFields, InstanceState, PlacementStrategy, Selector, Term

MAX_TERMS: Final = 256
"""Of so many terms of selectors the bitmaps are kept, until labels change."""
MAX_REQUIREMENTS: Final = 64
"""Of so many different requirements the needs are kept."""
MIN_GONE: Final = 16
"""Positions of instances that have gone are used again once they are so many more than half of all."""
MIN_DENSE: Final = 16
DENSE_SHARE: Final = 2048
"""A label that at least MIN_DENSE instances have, and one in so many, has a bitmap; else a set of their positions."""

Requirements = tuple[tuple[str, int], ...]
Covering = Callable[[Requirements, int, Mapping[str, int]], int | None]
"""How many of an instance's blocks (it has so many, and these resources) cover the requirements; None: not all do."""


class Instance:
    """An instance in memory: its own fields and the set of its held blocks (bit i is block i)."""

    __slots__ = (
        "busy",
        "config_revision",
        "create_time_us",
        "exclusive_to",
        "fields",
        "full",
        "idle_count",
        "labels",
        "name",
        "order",
        "position",
        "total_blocks",
        "update_time_us",
    )

    def __init__(
        self, name: str, order: int, fields: InstanceFields, busy: int, config_revision: int, create_time_us: int
    ) -> None:
        self.name = name
        self.order = order
        self.create_time_us = create_time_us
        self.position = -1
        """In the index of its fleet."""
        self.busy = busy
        self.exclusive_to: int | None = None
        """The allocation that holds it exclusively: nobody else gets a block here, not even one that is idle."""
        self.set_fields(fields, config_revision, create_time_us)

    def set_fields(self, fields: InstanceFields, config_revision: int, update_time_us: int) -> None:
        """Takes on new fields. Only its index calls this, once the instance is in one."""
        self.fields = fields
        self.labels = dict(fields.labels)
        self.total_blocks = fields.total_blocks
        self.full = (1 << fields.total_blocks) - 1
        self.idle_count = fields.total_blocks - self.busy.bit_count()
        self.config_revision = config_revision
        self.update_time_us = update_time_us

    @property
    def active(self) -> bool:
        """Whether it takes new grants."""
        return self.fields.state is InstanceState.ACTIVE

    @property
    def acquirable(self) -> int:
        """How many blocks an Acquire may get here."""
        return self.idle_count if self.active and self.exclusive_to is None else 0

    @property
    def idle(self) -> int:
        """The set of its idle blocks."""
        return self.full & ~self.busy


class _Key:
    """The instances that have a label of one key."""

    __slots__ = ("present", "values")

    def __init__(self) -> None:
        self.present = 0
        self.values: dict[str, int | set[int]] = {}
        """By value: their bitmap or, where they are few, their positions."""

    def add(self, positions: dict[str, list[int]], size: int) -> None:
        """The instances at these positions have these values from now on."""
        self.present |= bitmap_of(chain.from_iterable(positions.values()), size)
        dense = max(MIN_DENSE, size // DENSE_SHARE)
        for value, new in positions.items():
            there = self.values.get(value)
            if isinstance(there, int):
                self.values[value] = there | bitmap_of(new, size)
            elif len(few := {*new, *(there or ())}) >= dense:
                self.values[value] = bitmap_of(few, size)
            else:
                self.values[value] = few

    def remove(self, value: str, position: int) -> None:
        """The instance at this position does not have it any more."""
        bit = 1 << position
        self.present ^= bit
        there = self.values[value]
        if isinstance(there, int):
            there ^= bit
            self.values[value] = there
        else:
            there.discard(position)
        if not there:
            del self.values[value]

    def with_any(self, values: Iterable[str], size: int) -> int:
        """The instances that have one of these values."""
        found, few = 0, []
        for value in values:
            there = self.values.get(value, 0)
            if isinstance(there, int):
                found |= there
            else:
                few.append(there)
        return found | bitmap_of(chain.from_iterable(few), size) if few else found


class InstanceIndex:
    """All instances of a fleet. The bitmaps are brought up to date when they are needed: many instances at once."""

    def __init__(self) -> None:
        self.by_name: dict[str, Instance] = {}
        self.by_order: dict[int, Instance] = {}
        self.total_blocks = self.idle_blocks = 0
        """Of all instances."""
        self.acquirable_blocks = 0
        """The idle blocks of all ACTIVE instances that nobody holds exclusively."""
        self._clear()

    def _clear(self) -> None:
        """Nothing is in the bitmaps; positions are those of the present instances."""
        self._at: list[Instance | None] = list(self.by_order.values())
        """By position; None for one that has gone."""
        for position, instance in enumerate(self.by_order.values()):
            instance.position = position
        self._ready = 0
        """The bitmaps have the positions below this one."""
        self._everyone = 0
        self._keys: dict[str, _Key] = {}
        self._total, self._acquirable = BitSlices(), BitSlices()
        self._shapes: dict[tuple[int, Requirements], int] = {}
        """Numbers of the different (total_blocks, resources)."""
        self._shape_resources: list[tuple[int, dict[str, int]]] = []
        self._shape_at: list[int] = []
        self._terms: OrderedDict[Term, int] = OrderedDict()
        self._needs: OrderedDict[Requirements, BitSlices] = OrderedDict()

    def add(self, instance: Instance) -> None:
        """An instance comes in, behind all others in the order of registration."""
        assert instance.order > next(reversed(self.by_order), 0), "an instance comes out of order"
        instance.position = len(self._at)
        self._at.append(instance)
        self.by_name[instance.name] = instance
        self.by_order[instance.order] = instance
        self._count(instance, 1)

    def remove(self, instance: Instance) -> None:
        """An instance goes out."""
        self._take_out(instance)
        self._at[instance.position] = None
        del self.by_name[instance.name]
        del self.by_order[instance.order]
        self._count(instance, -1)
        if len(self._at) > 2 * len(self.by_order) + MIN_GONE:
            self._clear()

    def update(self, instance: Instance, fields: InstanceFields, config_revision: int, update_time_us: int) -> None:
        """An instance takes on new fields; its place in the order stays."""
        was_ready = self._take_out(instance)
        self._count(instance, -1)
        instance.set_fields(fields, config_revision, update_time_us)
        self._count(instance, 1)
        if was_ready:
            self._put_in([instance], instance.position)
        if len(self._shapes) > 2 * len(self.by_order) + MIN_GONE:
            self._clear()

    def _count(self, instance: Instance, times: int) -> None:
        self.total_blocks += times * instance.total_blocks
        self.idle_blocks += times * instance.idle_count
        self.acquirable_blocks += times * instance.acquirable

    def set_busy(self, instance: Instance, busy: int) -> None:
        """An instance's set of held blocks changes."""
        before = instance.acquirable
        instance.busy = busy
        self.idle_blocks -= instance.idle_count
        instance.idle_count = instance.total_blocks - busy.bit_count()
        self.idle_blocks += instance.idle_count
        if not busy:
            instance.exclusive_to = None
        self._note_acquirable(instance, before)

    def set_exclusive(self, instance: Instance, allocation: int) -> None:
        """An allocation holds an instance exclusively, for as long as it has a block there."""
        before = instance.acquirable
        instance.exclusive_to = allocation
        self._note_acquirable(instance, before)

    def matching(self, selector: Selector, names: tuple[str, ...] = ()) -> int:
        """The instances that the selector matches, among those of these names if there are any names."""
        self.prepare()
        found = self._everyone
        if names:
            named = (self.by_name[name].position for name in names if name in self.by_name)
            found &= bitmap_of(named, len(self._at))
        for term in selector:
            found &= self._matching_term(term)
        return found

    def fitting(self, need: int | BitSlices, among: int) -> int:
        """Those of these instances that have as many blocks as are needed, idle or not."""
        return self._total.at_least(need, among)

    def with_room(self, need: int | BitSlices, among: int) -> int:
        """Those of these instances where as many blocks may be acquired now as are needed."""
        return self._acquirable.at_least(need, among)

    def wholly_idle(self, among: int) -> int:
        """Those of these instances of which all blocks may be acquired now."""
        return self._acquirable.at_least(self._total, among)

    def unknown_needs(self, requirements: set[Requirements]) -> int:
        """How many shapes of instances have to be looked at to know what these need."""
        self.prepare()
        return len(requirements - self._needs.keys()) * len(self._shapes)

    def needs(self, requirements: Requirements, covering: Covering) -> BitSlices:
        """How many blocks the requirements need on each instance, as `covering` says; NEVER where it says None."""
        self.prepare()
        known = self._needs.get(requirements)
        if known is None:
            known = self._needs[requirements] = BitSlices()
            shapes = self._shape_resources
            of_shape = [covering(requirements, total, resources) or NEVER for total, resources in shapes] or [NEVER]
            known.append([of_shape[shape] for shape in self._shape_at], 0)
            if len(self._needs) > MAX_REQUIREMENTS:
                self._needs.popitem(last=False)
        self._needs.move_to_end(requirements)
        return known

    def chosen(self, among: int, strategy: PlacementStrategy, count: int) -> Iterator[Instance]:
        """The first `count` of these instances in the order in which the strategy takes them."""
        while count and among:
            level = self._first_level(among, strategy)
            for position in positions_in(level):
                instance = self._at[position]
                assert instance is not None, "a bitmap has an instance that has gone"
                yield instance
                count -= 1
                if not count:
                    return
            among ^= level

    def _first_level(self, among: int, strategy: PlacementStrategy) -> int:
        """Those of these instances that the strategy takes before all others, in their order."""
        match strategy:
            case PlacementStrategy.FIRST_FIT:
                return among
            case PlacementStrategy.BEST_FIT:
                return self._acquirable.smallest(among)
            case PlacementStrategy.WORST_FIT:
                return self._acquirable.largest(among)

    def _matching_term(self, term: Term) -> int:
        found = self._terms.get(term)
        if found is None:
            key = self._keys.get(term.key, _Key())
            found = key.with_any(term.values, len(self._at)) if term.values else key.present
            if term.operator in {"NOT_IN", "DOES_NOT_EXIST"}:
                found = self._everyone ^ (self._everyone & found)
            self._terms[term] = found
            if len(self._terms) > MAX_TERMS:
                self._terms.popitem(last=False)
        else:
            self._terms.move_to_end(term)
        return found

    def _note_acquirable(self, instance: Instance, before: int) -> None:
        after = instance.acquirable
        self.acquirable_blocks += after - before
        if instance.position < self._ready:
            self._acquirable.change(instance.position, before, after)

    def prepare(self) -> None:
        """Brings the bitmaps up to date with the instances that have come. Done by every search, if it has to be."""
        base = self._ready
        if base < len(self._at):
            self._ready = len(self._at)
            self._put_in(self._at[base:], base)

    def _put_in(self, instances: list[Instance | None], base: int) -> None:
        """Enters the instances of the positions from `base` on, of which the bitmaps have nothing."""
        size = len(self._at)
        there = [instance for instance in instances if instance is not None]
        self._terms.clear()
        self._everyone |= bitmap_of((instance.position for instance in there), size)
        self._total.append([0 if i is None else i.total_blocks for i in instances], base)
        self._acquirable.append([0 if i is None else i.acquirable for i in instances], base)
        labels: dict[str, dict[str, list[int]]] = {}
        for instance in there:
            for key, value in instance.labels.items():
                labels.setdefault(key, {}).setdefault(value, []).append(instance.position)
        for key, values in labels.items():
            self._keys.setdefault(key, _Key()).add(values, size)
        shapes = [0 if instance is None else self._shape_of(instance.fields) for instance in instances]
        self._shape_at[base : base + len(shapes)] = shapes
        self._needs.clear()

    def _take_out(self, instance: Instance) -> bool:
        """Takes an instance out of the bitmaps; answers whether it was there."""
        position = instance.position
        if position >= self._ready:
            return False
        self._terms.clear()
        self._everyone ^= 1 << position
        self._total.change(position, instance.total_blocks, 0)
        self._acquirable.change(position, instance.acquirable, 0)
        for key, value in instance.labels.items():
            self._keys[key].remove(value, position)
            if not self._keys[key].values:
                del self._keys[key]
        return True

    def _shape_of(self, fields: InstanceFields) -> int:
        shape = (fields.total_blocks, tuple(sorted(fields.resources.items())))
        if shape not in self._shapes:
            self._shapes[shape] = len(self._shape_resources)
            self._shape_resources.append((fields.total_blocks, dict(fields.resources)))
        return self._shapes[shape]
