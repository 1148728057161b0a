"""Finds the instance that a strategy takes, at a cost that does not grow with the number of instances.

A `View` holds the instances that one selector matches, in groups of the same size (and, for demands with
`requirements`, of the same resources). Each `Group` keeps its ACTIVE instances by their number of idle blocks:
a heap of orders for each level, and a bit for each level that has any. Views are made on first use and kept
up to date by every change of an instance; the least recently used ones are dropped.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from typing import Final

from blockyard_server.domain.requests import InstanceFields, InstanceState, PlacementStrategy, Selector

MAX_VIEWS: Final = 256
"""How many selectors have a view at a time."""
MAX_VIEW_SHARE: Final = 8
"""All views together have at most this many entries for each instance of the fleet."""
MAX_SCANNED: Final = 64
"""A selector whose rarest term matches at most this many instances is answered by looking at each of them."""


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
        "total_blocks",
        "update_time_us",
        "views",
    )

    def __init__(
        self, name: str, order: int, fields: InstanceFields, busy: int, config_revision: int, create_time_us: int
    ) -> None:
        self.name = name
        self.order = order
        self.create_time_us = create_time_us
        self.views: list[View] = []
        self.busy = busy
        self.exclusive_to: int | None = None
        """The allocation that holds it exclusively: nobody else gets a block here, not even one that is idle."""
        self.set_fields(fields, config_revision, create_time_us)

    def set_fields(self, fields: InstanceFields, config_revision: int, update_time_us: int) -> None:
        """Takes on new fields. The caller takes the instance out of the index before, and puts it in after."""
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


class Group:
    """Instances of the same size: which of them have how many idle blocks.

    An entry in a heap counts only while `level_of` agrees with it, so a change costs one push; `queued` keeps
    an order from being in a heap twice, so that the heaps stay as small as the group.
    """

    __slots__ = ("_count", "_heaps", "_level_of", "_levels", "_queued", "fields", "members")

    def __init__(self, fields: InstanceFields) -> None:
        self.fields = fields
        self.members = 0
        """How many instances, of any state: what there would be if all were idle and ACTIVE."""
        self._levels = 0
        self._level_of: dict[int, int] = {}
        self._count = [0] * (fields.total_blocks + 1)
        self._heaps: dict[int, list[int]] = {}
        self._queued: dict[int, set[int]] = {}

    def put(self, order: int, level: int) -> None:
        """The instance of this order now has `level` idle blocks; with 0 it cannot be found."""
        old = self._level_of.get(order)
        if old == level:
            return
        if old is not None:
            self._leave(old)
        if level == 0:
            self._level_of.pop(order, None)
            return
        self._level_of[order] = level
        self._count[level] += 1
        self._levels |= 1 << level
        queued = self._queued.setdefault(level, set())
        if order not in queued:
            queued.add(order)
            heappush(self._heaps.setdefault(level, []), order)

    def drop(self, order: int) -> None:
        """The instance of this order cannot be found any more."""
        self.put(order, 0)

    def _leave(self, level: int) -> None:
        self._count[level] -= 1
        if not self._count[level]:
            self._levels &= ~(1 << level)

    def _lowest(self, level: int) -> int:
        heap = self._heaps[level]
        while self._level_of.get(heap[0]) != level:
            self._queued[level].discard(heappop(heap))
        return heap[0]

    def best(self, need: int, strategy: PlacementStrategy) -> tuple[int, int] | None:
        """(idle blocks, order) of the instance that the strategy takes among those with `need` idle blocks."""
        levels = self._levels >> need << need
        if not levels:
            return None
        match strategy:
            case PlacementStrategy.BEST_FIT:
                level = (levels & -levels).bit_length() - 1
                return level, self._lowest(level)
            case PlacementStrategy.WORST_FIT:
                level = levels.bit_length() - 1
                return level, self._lowest(level)
            case PlacementStrategy.FIRST_FIT:
                return min(((level, self._lowest(level)) for level in _bits(levels)), key=lambda found: found[1])


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


GroupKey = tuple[int, tuple[tuple[str, int], ...]]


class View:
    """The instances that one selector matches, in groups."""

    __slots__ = ("_by_resources", "_selector", "groups", "members")

    def __init__(self, selector: Selector, *, by_resources: bool) -> None:
        self._selector = selector
        self._by_resources = by_resources
        self.groups: dict[GroupKey, Group] = {}
        self.members: dict[int, Instance] = {}

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an instance with these labels belongs here."""
        return all(term.matches(labels) for term in self._selector)

    def _key(self, instance: Instance) -> GroupKey:
        return (instance.total_blocks, instance.fields.resources if self._by_resources else ())

    def add(self, instance: Instance) -> None:
        """An instance that matches comes in."""
        key = self._key(instance)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group(instance.fields)
        group.members += 1
        self.members[instance.order] = instance
        instance.views.append(self)
        self.refresh(instance)

    def remove(self, instance: Instance) -> None:
        """An instance goes out; its fields are still those it came in with."""
        key = self._key(instance)
        group = self.groups[key]
        group.drop(instance.order)
        group.members -= 1
        del self.members[instance.order]
        instance.views.remove(self)
        if not group.members:
            del self.groups[key]

    def refresh(self, instance: Instance) -> None:
        """The instance's number of idle blocks has changed."""
        self.groups[self._key(instance)].put(instance.order, instance.acquirable)

    def hide(self, instance: Instance) -> None:
        """The instance is not found until it is refreshed: a demand never takes it twice."""
        self.groups[self._key(instance)].drop(instance.order)


class InstanceIndex:
    """All instances of a fleet, by name, by order and by label."""

    def __init__(self) -> None:
        self.by_name: dict[str, Instance] = {}
        self.by_order: dict[int, Instance] = {}
        self.acquirable_blocks = 0
        """The idle blocks of all ACTIVE instances that nobody holds exclusively."""
        self._by_label: dict[str, dict[str, dict[int, Instance]]] = {}
        self._views: OrderedDict[tuple[Selector, bool], View] = OrderedDict()

    def add(self, instance: Instance) -> None:
        """An instance comes in."""
        self.by_name[instance.name] = instance
        self.by_order[instance.order] = instance
        self.acquirable_blocks += instance.acquirable
        for key, value in instance.labels.items():
            self._by_label.setdefault(key, {}).setdefault(value, {})[instance.order] = instance
        for view in self._views.values():
            if view.matches(instance.labels):
                view.add(instance)
        self._drop_old_views()

    def remove(self, instance: Instance) -> None:
        """An instance goes out."""
        del self.by_name[instance.name]
        del self.by_order[instance.order]
        self.acquirable_blocks -= instance.acquirable
        for key, value in instance.labels.items():
            values = self._by_label[key]
            del values[value][instance.order]
            if not values[value]:
                del values[value]
        for view in list(instance.views):
            view.remove(instance)

    def set_busy(self, instance: Instance, busy: int) -> None:
        """An instance's set of held blocks changes."""
        self.acquirable_blocks -= instance.acquirable
        instance.busy = busy
        instance.idle_count = instance.total_blocks - busy.bit_count()
        if not busy:
            instance.exclusive_to = None
        self.acquirable_blocks += instance.acquirable
        for view in instance.views:
            view.refresh(instance)

    def set_exclusive(self, instance: Instance, allocation: int) -> None:
        """An allocation holds an instance exclusively, for as long as it has a block there."""
        self.acquirable_blocks -= instance.acquirable
        instance.exclusive_to = allocation
        for view in instance.views:
            view.refresh(instance)

    def candidates(self, selector: Selector) -> list[Instance] | None:
        """The instances that match, if they are few enough to look at each; else None: use a view."""
        rarest: list[dict[int, Instance]] | None = None
        smallest = MAX_SCANNED + 1
        for term in selector:
            if term.operator != "IN":
                continue
            values = self._by_label.get(term.key, {})
            postings = [values[value] for value in term.values if value in values]
            size = sum(map(len, postings))
            if size < smallest:
                rarest, smallest = postings, size
        if rarest is None:
            return None
        found = (instance for posting in rarest for instance in posting.values())
        return [instance for instance in found if all(term.matches(instance.labels) for term in selector)]

    def view(self, selector: Selector, *, by_resources: bool) -> View:
        """The view of a selector, made now if it is not there."""
        key = (selector, by_resources)
        view = self._views.get(key)
        if view is not None:
            self._views.move_to_end(key)
            return view
        view = View(selector, by_resources=by_resources)
        for instance in self._narrowed(selector):
            if view.matches(instance.labels):
                view.add(instance)
        self._views[key] = view
        self._drop_old_views()
        return view

    def _narrowed(self, selector: Selector) -> Iterable[Instance]:
        """Some instances among which all that match are: those of the rarest label that the selector names."""
        narrowed: list[list[dict[int, Instance]]] = []
        for term in selector:
            if term.operator == "IN":
                values = self._by_label.get(term.key, {})
                narrowed.append([values[value] for value in term.values if value in values])
        if not narrowed:
            return self.by_order.values()
        rarest = min(narrowed, key=lambda postings: sum(map(len, postings)))
        return (instance for posting in rarest for instance in posting.values())

    def _drop_old_views(self) -> None:
        room = MAX_VIEW_SHARE * len(self.by_order)
        entries = sum(len(view.members) for view in self._views.values())
        while len(self._views) > MAX_VIEWS or (entries > room and len(self._views) > 1):
            _, view = self._views.popitem(last=False)
            entries -= len(view.members)
            for instance in view.members.values():
                instance.views.remove(view)
