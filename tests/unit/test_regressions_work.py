"""One test for each fault that was found in how much work is done at once; the number never changes."""

from collections.abc import Mapping

import pytest

from blockyard_server.domain import placement
from blockyard_server.domain.answers import Grant
from blockyard_server.domain.index import InstanceIndex, Requirements
from blockyard_server.domain.requests import Demand, InstanceFields, PlacementStrategy
from blockyard_server.engine import batch as batch_module
from blockyard_server.engine.batch import RETRY_NEXT_BATCH
from blockyard_server.engine.clock import ManualClock
from blockyard_server.engine.transactor import Transactor
from tests.unit.engine_stories import acquire, filled_store
from tests.unit.pure_fleet import PureFleet


def test_301_a_sweep_ends_by_the_blocks_it_frees_too(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    store = filled_store(8)
    transactor = Transactor(store, clock)
    transactor.carry_out("gpu", [acquire(f"lease-{n}", 2, ttl_us=1_000_000) for n in range(4)])
    clock.advance(1_000_000)
    monkeypatch.setattr(batch_module, "MAX_BLOCKS_AT_ONCE", 4)

    assert transactor.carry_out("gpu", [acquire("wide", 8)]) == [RETRY_NEXT_BATCH]
    assert len(store.rows["gpu"].held) == 4
    [answer] = transactor.carry_out("gpu", [acquire("wide", 8)])
    assert isinstance(answer, Grant)


@pytest.mark.parametrize("strategy", PlacementStrategy)
def test_302_a_gang_looks_at_each_shape_of_instances_once_and_at_each_level_of_idle_blocks_once(
    monkeypatch: pytest.MonkeyPatch, strategy: PlacementStrategy
) -> None:
    fleet = PureFleet()
    for n in range(50):
        fleet.add(f"n{n}", InstanceFields(2, resources={"gpu": 2, "memory_mib": 1000 + n}))
    shapes: list[int] = []
    levels: list[int] = []
    covering, first_level = placement.blocks_covering, InstanceIndex._first_level

    def counted_shape(requirements: Requirements, total: int, resources: Mapping[str, int]) -> int | None:
        shapes.append(total)
        return covering(requirements, total, resources)

    def counted_level(index: InstanceIndex, among: int, by: PlacementStrategy) -> int:
        levels.append(among)
        return first_level(index, among, by)

    monkeypatch.setattr(placement, "blocks_covering", counted_shape)
    monkeypatch.setattr(InstanceIndex, "_first_level", counted_level)

    placements = fleet.take(Demand(instances=40, requirements=(("gpu", 1),)), strategy=strategy)

    assert [instance for instance, _ in placements] == [f"n{n}" for n in range(40)]
    assert len(shapes) == 50 + 40
    assert len(levels) == 1
