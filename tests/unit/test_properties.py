"""Random histories: placement by the index against the oracle, memory against the journal's replay."""

from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from blockyard_server.domain import index as index_module
from blockyard_server.domain.allocation import AllocationState
from blockyard_server.domain.answers import Grant, ReleaseAnswer
from blockyard_server.domain.audit import Replay
from blockyard_server.domain.blocks import to_blocks
from blockyard_server.domain.decide import decide
from blockyard_server.domain.errors import Refused
from blockyard_server.domain.requests import (
    Acquire,
    CreateFleet,
    CreateInstance,
    DeleteFleet,
    DeleteInstance,
    Demand,
    FleetFields,
    InstanceFields,
    InstanceState,
    PlacementStrategy,
    Release,
    Renew,
    Request,
    Selector,
    Term,
    UpdateInstance,
)
from tests.oracle import placement
from tests.oracle.domain_types import placements, plain_demand, plain_instance
from tests.unit.pure_fleet import PureFleet

KEYS, VALUES, NAMES = ("zone", "old"), ("a", "b", "c"), tuple(f"n{n}" for n in range(9))

values = st.sets(st.sampled_from(VALUES), min_size=1).map(lambda found: tuple(sorted(found)))
keys = st.sampled_from(KEYS)
terms = st.one_of(
    st.builds(Term, keys, st.sampled_from(["IN", "NOT_IN"]), values),
    st.builds(Term, keys, st.sampled_from(["EXISTS", "DOES_NOT_EXIST"])),
)
selectors: st.SearchStrategy[Selector] = st.just(()) | st.lists(terms, min_size=1, max_size=2).map(tuple)
pairs = st.dictionaries(keys, st.sampled_from(VALUES))
resources = st.dictionaries(st.sampled_from(["gpu", "mem"]), st.integers(0, 9))
states = st.sampled_from([InstanceState.ACTIVE] * 4 + [InstanceState.CORDONED, InstanceState.OFFLINE])
shapes = st.builds(InstanceFields, st.sampled_from([1, 2, 4, 4, 8, 8, 13]), pairs, resources, states)
names = st.sampled_from(NAMES)


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    """One of the three forms, as the edge would decode it."""
    instances = draw(st.sampled_from([1, 1, 1, 2, 3]))
    selector = draw(selectors)
    named = tuple(draw(st.sets(names, min_size=3))) if draw(st.integers(0, 3)) == 0 else ()
    match draw(st.sampled_from(["blocks", "blocks", "requirements", "exclusive"])):
        case "blocks":
            return Demand(
                instances, draw(st.sampled_from([1, 1, 2, 2, 3, 4, 6, 8, 9])), selector=selector, instance_names=named
            )
        case "requirements":
            wanted = draw(st.dictionaries(st.sampled_from(["gpu", "mem"]), st.integers(1, 6), min_size=1))
            return Demand(instances, 0, tuple(sorted(wanted.items())), selector=selector, instance_names=named)
        case _:
            blocks = draw(st.sampled_from([0, 0, 3, 8]))
            return Demand(instances, blocks, exclusive=True, selector=selector, instance_names=named)


@dataclass
class Known:
    """An instance, with the allocation that has each held block."""

    order: int
    fields: InstanceFields
    held: dict[int, int] = field(default_factory=dict)
    exclusive_to: int | None = None
    """The last allocation that was granted it exclusively: it is its own as long as it has any of its blocks."""

    @property
    def owned(self) -> bool:
        """Whether an allocation has it exclusively."""
        return self.exclusive_to in self.held.values()


class History(RuleBasedStateMachine):
    """The fleet under test, and beside it what the design says."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = PureFleet()
        self.model: dict[str, Known] = {}
        self.replay = Replay()
        self.replay.apply(self.fleet.events[0])
        self.grants: list[int] = []

    def do(self, request: Request) -> Any:
        """Decides, proves that this alone changed nothing, then applies. The refusal is returned."""
        fleet = self.fleet
        before = fleet.picture()
        try:
            answer, event = decide(fleet.state, fleet.records, request, fleet.now_us)
        except Refused as refused:
            assert fleet.picture() == before
            return refused
        assert fleet.picture() == before
        if event is not None:
            fleet.state.apply(event)
            fleet.records.apply(event)
            self.replay.apply(event)
        return answer

    @initialize(fields=st.lists(shapes, min_size=4, max_size=len(NAMES)))
    def fill(self, fields: list[InstanceFields]) -> None:
        for name, each in zip(NAMES, fields, strict=False):
            self.register(name, each)

    @rule(name=names, fields=shapes)
    def register(self, name: str, fields: InstanceFields) -> None:
        if not isinstance(self.do(CreateInstance("gpu", name, fields)), Refused) and name not in self.model:
            self.model[name] = Known(self.fleet.state.index.by_name[name].order, fields)

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(),
        fields=shapes,
        only=st.sets(st.sampled_from(["total_blocks", "labels", "resources", "state"]), min_size=1),
    )
    def update(self, data: st.DataObject, fields: InstanceFields, only: set[str]) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        changes = {key: getattr(fields, key) for key in only}
        if not isinstance(self.do(UpdateInstance("gpu", name, changes)), Refused):
            self.model[name].fields = self.fleet.state.index.by_name[name].fields
            assert all(getattr(self.model[name].fields, key) == value for key, value in changes.items())

    @precondition(lambda self: len(self.model) > 3)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        refused = isinstance(self.do(DeleteInstance("gpu", name)), Refused)
        assert refused is bool(self.model[name].held)
        if not refused:
            del self.model[name]

    @rule(wanted=demands(), strategy=st.sampled_from(PlacementStrategy), ttl_us=st.none() | st.integers(1, 5))
    def acquire_one(self, wanted: Demand, strategy: PlacementStrategy, ttl_us: int | None) -> None:
        self.acquire([wanted], strategy, ttl_us, validate_only=False)

    @rule(
        wanted=st.lists(demands(), min_size=2, max_size=3),
        strategy=st.sampled_from(PlacementStrategy),
        ttl_us=st.none() | st.integers(1, 5),
        validate_only=st.booleans(),
    )
    def acquire_many(
        self, wanted: list[Demand], strategy: PlacementStrategy, ttl_us: int | None, *, validate_only: bool
    ) -> None:
        self.acquire(wanted, strategy, ttl_us, validate_only=validate_only)

    def acquire(
        self, wanted: list[Demand], strategy: PlacementStrategy, ttl_us: int | None, *, validate_only: bool
    ) -> None:
        token = f"t{len(self.grants)}"
        request = Acquire("gpu", "slurm", token, "job", tuple(wanted), strategy, ttl_us, validate_only=validate_only)
        expected = placement.place(self.plain_fleet(), [plain_demand(each) for each in wanted], strategy)

        answer = self.do(request)

        if isinstance(answer, Refused):
            self.compare(answer, expected)
            return
        assert isinstance(answer, Grant)
        assert isinstance(expected, placement.Placed)
        assert answer.view.allocation.placements == placements(expected)
        assert answer.view.allocation.exclusive == expected.exclusive
        if not validate_only:
            self.grants.append(answer.revision)
            for name, blocks in answer.view.allocation.placements:
                assert not set(blocks) & self.model[name].held.keys()
                self.model[name].held.update(dict.fromkeys(blocks, answer.revision))
            for name in answer.view.allocation.exclusive:
                self.model[name].exclusive_to = answer.revision

    def plain_fleet(self) -> list[placement.Instance[str]]:
        """The fleet as the oracle sees it."""
        return [
            plain_instance(name, i.order, i.fields, busy=placement.mask_of(i.held), exclusive=i.owned)
            for name, i in self.model.items()
        ]

    def compare(self, refused: Refused, expected: object) -> None:
        """The refusal is that of the oracle, with its figures."""
        assert isinstance(expected, placement.Unsatisfiable | placement.NoCapacity)
        reason = {placement.Unsatisfiable: "UNSATISFIABLE", placement.NoCapacity: "NO_CAPACITY"}[type(expected)]
        assert refused.reason == reason
        assert refused.metadata == {name: str(value) for name, value in asdict(expected).items()}

    @precondition(lambda self: self.grants)
    @rule(data=st.data(), partly=st.booleans())
    def release(self, data: st.DataObject, *, partly: bool) -> None:
        allocation = data.draw(st.sampled_from(self.grants))
        held = [(n, b) for n, i in self.model.items() for b, holder in i.held.items() if holder == allocation]
        some = set(data.draw(st.lists(st.sampled_from(held), unique=True))) if held and partly else set()
        ended = self.fleet.records.allocations[allocation].is_held(self.fleet.now_us) is False
        chosen = {name: tuple(sorted(b for n, b in some if n == name)) for name in sorted({n for n, _ in some})}

        answer = self.do(Release("gpu", "slurm", allocation, placements=tuple(chosen.items())))

        assert isinstance(answer, ReleaseAnswer)
        for name, block in held if ended or not some else some:
            del self.model[name].held[block]

    @precondition(lambda self: self.grants)
    @rule(data=st.data(), ttl_us=st.none() | st.integers(1, 5))
    def renew(self, data: st.DataObject, ttl_us: int | None) -> None:
        allocation = data.draw(st.sampled_from(self.grants))
        before = self.fleet.records.allocations[allocation]

        refused = isinstance(self.do(Renew("gpu", allocation, ttl_us)), Refused)

        after = self.fleet.records.allocations[allocation]
        assert refused is not before.is_held(self.fleet.now_us)
        assert (after.expire_time_us or 0) >= (before.expire_time_us or 0)

    @rule(by_us=st.integers(1, 3))
    def time_passes(self, by_us: int) -> None:
        self.fleet.now_us += by_us

    @precondition(lambda self: len(self.grants) > 3 and not any(i.held for i in self.model.values()))
    @rule(fields=st.lists(shapes, min_size=2, max_size=4))
    def begin_anew(self, fields: list[InstanceFields]) -> None:
        revision = self.fleet.state.revision
        self.do(DeleteFleet("gpu", force=True))
        self.model.clear()
        assert self.do(CreateFleet("gpu", FleetFields())).revision == revision + 2
        self.fill(fields)

    @invariant()
    def busy_and_idle_come_to_the_total(self) -> None:
        index = self.fleet.state.index
        assert set(index.by_name) == set(self.model)
        for name, instance in index.by_name.items():
            assert instance.busy.bit_count() + instance.idle_count == instance.total_blocks
            assert instance.busy | instance.idle == instance.full
            assert not instance.busy & instance.idle
            assert instance.busy == placement.mask_of(self.model[name].held)
            assert (instance.exclusive_to is not None) is self.model[name].owned
        free = [i for i in index.by_name.values() if i.exclusive_to is None]
        assert index.acquirable_blocks == sum(i.idle_count for i in free if i.active)

    @invariant()
    def the_replay_of_the_journal_is_what_memory_and_records_say(self) -> None:
        assert not self.replay.findings.discrepancies
        assert self.replay.revision == self.fleet.state.revision
        assert self.replay.totals == {name: i.total_blocks for name, i in self.fleet.state.index.by_name.items()}
        assert {name: held for name, held in self.replay.held.items() if held} == {
            name: instance.held for name, instance in self.model.items() if instance.held
        }
        live = [a for a in self.fleet.records.allocations.values() if a.state is AllocationState.HELD]
        recorded = {(n, b): a.allocation for a in live for n, blocks in a.placements for b in blocks}
        assert recorded == {(n, b): holder for n, i in self.model.items() for b, holder in i.held.items()}


BOUNDS = pytest.mark.parametrize(
    ("min_dense", "min_gone", "kept"),
    [
        pytest.param(1, 0, 64, id="bitmaps alone", marks=pytest.mark.slow),
        pytest.param(10**9, 10**9, 64, id="positions alone", marks=pytest.mark.slow),
        pytest.param(2, 1, 1, id="both, and nothing kept for long"),
        pytest.param(index_module.MIN_DENSE, index_module.MIN_GONE, 64, id="as served", marks=pytest.mark.slow),
    ],
)


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch, min_dense: int, min_gone: int, kept: int) -> None:
    monkeypatch.setattr(index_module, "MIN_DENSE", min_dense)
    monkeypatch.setattr(index_module, "MIN_GONE", min_gone)
    monkeypatch.setattr(index_module, "MAX_TERMS", kept)
    monkeypatch.setattr(index_module, "MAX_REQUIREMENTS", kept)


HEALTH = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.function_scoped_fixture]


@BOUNDS
@pytest.mark.usefixtures("bounds")
def test_every_history_of_a_fleet_agrees_with_the_design() -> None:
    run_state_machine_as_test(
        History,
        settings=settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=HEALTH),
    )


@BOUNDS
@pytest.mark.usefixtures("bounds")
@settings(max_examples=100, deadline=None, suppress_health_check=HEALTH)
@given(
    stock=st.lists(st.tuples(shapes, st.integers(0, 2**13 - 1)), min_size=3, max_size=len(NAMES)),
    asked=st.lists(
        st.tuples(st.lists(demands(), min_size=1, max_size=2), st.sampled_from(PlacementStrategy)), min_size=3
    ),
)
def test_every_placement_agrees_with_the_design(
    stock: list[tuple[InstanceFields, int]], asked: list[tuple[list[Demand], PlacementStrategy]]
) -> None:
    history = History()
    history.fill([fields for fields, _ in stock])
    for instance, (_, busy) in zip(history.fleet.state.index.by_order.values(), stock, strict=True):
        history.fleet.state.index.set_busy(instance, busy & instance.full)
        history.model[instance.name].held = dict.fromkeys(to_blocks(instance.busy), 0)
    for wanted, strategy in asked:
        history.acquire(wanted, strategy, None, validate_only=False)
