"""The net effect of a batch of events, without a database."""

import pytest

from blockyard_server.domain.events import Event, FleetDeleted, Granted, InstanceCreated, InstanceDeleted, Released
from blockyard_server.domain.requests import InstanceFields
from blockyard_server.engine.store_protocol import InvariantBroken
from blockyard_server.store.rows import Run, allocations_changed, allocations_inserted, net_changes


def granted(revision: int, *blocks: int) -> Granted:
    return Granted(
        revision,
        0,
        holder="job",
        caller="default",
        token=f"token-{revision}",
        fingerprint=b"1",
        placements=(("node-1", blocks),),
        ttl_us=None,
        expire_time_us=None,
        annotations={},
    )


def released(revision: int, allocation: int, *blocks: int, left: tuple[int, ...] = ()) -> Released:
    kept = (("node-1", left),) if left else ()
    return Released(revision, 0, allocation, "job", (("node-1", blocks),), kept)


def test_a_block_freed_and_granted_again_goes_from_one_allocation_to_the_other() -> None:
    changes = net_changes("gpu", 10, [released(11, 5, 3), granted(12, 3)])
    assert changes.held_deleted() == [Run("gpu", "node-1", 5, 3, 3)]
    assert changes.held_inserted() == [Run("gpu", "node-1", 12, 3, 3)]
    assert list(changes.changed) == [5]


def test_a_block_granted_and_freed_in_one_batch_is_never_written() -> None:
    changes = net_changes("gpu", 10, [granted(11, 3), released(12, 11, 3)])
    assert changes.held_deleted() == []
    assert changes.held_inserted() == []
    assert list(changes.granted) == [11]
    assert not changes.changed


def test_a_block_may_pass_through_many_hands_in_one_batch() -> None:
    events: list[Event] = [released(11, 5, 3), granted(12, 3), released(13, 12, 3), granted(14, 3, 4)]
    changes = net_changes("gpu", 10, events)
    assert changes.held_deleted() == [Run("gpu", "node-1", 5, 3, 3)]
    assert changes.held_inserted() == [Run("gpu", "node-1", 14, 3, 4)]


def test_a_partial_release_of_a_grant_of_the_same_batch_leaves_the_rest() -> None:
    changes = net_changes("gpu", 10, [granted(11, 3, 4), released(12, 11, 4, left=(3,))])
    assert changes.held_inserted() == [Run("gpu", "node-1", 11, 3, 3)]


def test_an_allocation_that_ends_in_the_batch_it_begins_in_has_one_row_in_its_final_state() -> None:
    begun = granted(11, 3)
    changes = net_changes("gpu", 10, [begun, released(12, 11, 3)])
    final = begun.allocation()
    [row] = allocations_inserted(changes, {11: final})
    assert row[:3] == ("gpu", 11, 1)
    assert allocations_changed(changes, {11: final}) == ([], [])


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([granted(11, 3), granted(12, 3)], id="granted twice"),
        pytest.param([released(11, 5, 3), released(12, 5, 3)], id="freed twice"),
        pytest.param([granted(11, 3), released(12, 5, 3)], id="freed by a stranger"),
        pytest.param([granted(12, 3)], id="a gap"),
        pytest.param([granted(11, 3), granted(11, 4)], id="a revision twice"),
        pytest.param(
            [InstanceCreated(11, 0, "a", 1, InstanceFields(8)), InstanceCreated(12, 0, "a", 2, InstanceFields(8))],
            id="registered twice",
        ),
    ],
)
def test_events_that_contradict_each_other_are_refused(events: list[Event]) -> None:
    with pytest.raises(InvariantBroken):
        net_changes("gpu", 10, events)


def test_the_final_state_of_every_touched_allocation_must_be_there() -> None:
    changes = net_changes("gpu", 10, [granted(11, 3), released(12, 5, 4)])
    with pytest.raises(InvariantBroken, match="allocation 11 is missing"):
        allocations_inserted(changes, {})
    with pytest.raises(InvariantBroken, match="allocation 5 is missing"):
        allocations_changed(changes, {})


def test_an_instance_that_comes_and_goes_in_one_batch_leaves_only_its_order_behind() -> None:
    events: list[Event] = [InstanceCreated(11, 0, "a", 7, InstanceFields(8)), InstanceDeleted(12, 0, "a")]
    changes = net_changes("gpu", 10, events)
    assert changes.instances_inserted() == []
    assert changes.instances_deleted == []
    assert changes.next_order == 8


def test_an_instance_deleted_and_registered_again_is_deleted_and_inserted() -> None:
    events: list[Event] = [InstanceDeleted(11, 0, "a"), InstanceCreated(12, 0, "a", 7, InstanceFields(4))]
    changes = net_changes("gpu", 10, events)
    assert changes.instances_deleted == ["a"]
    assert [row[:4] for row in changes.instances_inserted()] == [("gpu", "a", 7, 4)]


def test_deleting_the_fleet_forgets_what_the_batch_did_to_its_instances() -> None:
    events: list[Event] = [InstanceCreated(11, 0, "a", 7, InstanceFields(8)), FleetDeleted(12, 0)]
    changes = net_changes("gpu", 10, events)
    assert changes.all_instances_deleted
    assert changes.instances_inserted() == []
    assert changes.next_order == 8
