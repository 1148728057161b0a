"""Rows that no event and no correction may make, on every store."""

import pytest

from blockyard_server.domain.allocation import AllocationState
from blockyard_server.domain.corrections import Correction, CorrectionKind
from blockyard_server.domain.events import Repaired
from blockyard_server.engine.store_protocol import InvariantBroken
from tests.store.conftest import ALSO_IN_MEMORY
from tests.store.story import Story

pytestmark = ALSO_IN_MEMORY


def test_registering_an_instance_that_is_there_is_refused(story: Story) -> None:
    story.add("node-1", 4)
    with pytest.raises(InvariantBroken):
        story.commit()


def test_a_held_allocation_with_an_end_is_refused(story: Story) -> None:
    number = story.grant(("node-1", (0,)))
    story.records.touched[number] = story.allocation(number)._replace(end_time_us=story.now_us)
    with pytest.raises(InvariantBroken):
        story.commit()


def test_an_ended_allocation_without_an_end_is_refused(story: Story) -> None:
    number = story.grant(("node-1", (0,)))
    story.commit()
    story.release(number)
    story.records.touched[number] = story.allocation(number)._replace(end_time_us=None)
    assert story.records.touched[number].state is AllocationState.RELEASED
    with pytest.raises(InvariantBroken):
        story.commit()


def test_a_lease_without_an_end_is_refused(story: Story) -> None:
    number = story.grant(("node-1", (0,)), ttl_us=1_000_000)
    story.records.touched[number] = story.allocation(number)._replace(expire_time_us=None)
    with pytest.raises(InvariantBroken):
        story.commit()


@pytest.mark.parametrize(
    ("kind", "block"),
    [(CorrectionKind.BLOCK_FREED, 1), (CorrectionKind.BLOCK_HELD, 0)],
    ids=["a block is freed that is not held", "a held block is held"],
)
def test_a_correction_of_other_rows_than_were_planned_is_refused(
    story: Story, kind: CorrectionKind, block: int
) -> None:
    number = story.grant(("node-1", (0,)))
    story.commit()
    correction = Correction(kind, instance="node-1", allocation=number, block=block)
    with pytest.raises(InvariantBroken), story.store.transaction("gpu") as transaction:
        transaction.repair(Repaired(story.revision + 1, story.now_us, (correction,)), [])
    with story.store.transaction("gpu") as transaction:
        assert [(row.busy, row.record.busy_blocks) for row in transaction.load_instances()] == [(1, 1), (0, 0)]
