"""What a transaction writes and reads back, on every store."""

from dataclasses import replace

import pytest

from blockyard_server.domain.allocation import AllocationState, TokenRecord
from blockyard_server.domain.events import Released
from blockyard_server.domain.requests import FleetFields, InstanceState, PlacementStrategy
from blockyard_server.engine.store_protocol import InvariantBroken, Store
from tests.store.conftest import ALSO_IN_MEMORY
from tests.store.story import FINGERPRINT, Story

pytestmark = ALSO_IN_MEMORY


def busy(story: Story) -> dict[str, tuple[int, int]]:
    """(set of held blocks, counter) by instance."""
    with story.store.transaction(story.fleet) as transaction:
        return {row.record.instance: (row.busy, row.record.busy_blocks) for row in transaction.load_instances()}


def test_a_fleet_that_never_was_has_no_head(store: Store) -> None:
    with store.transaction("gpu") as transaction:
        assert transaction.head is None
        assert transaction.load_instances() == []
        assert transaction.fleet_count() == 0


def test_a_fleet_is_read_back_as_it_was_made(store: Store) -> None:
    story = Story(store)
    fields = FleetFields({"a": "b", "team": "ä"}, PlacementStrategy.WORST_FIT, 60_000_000, 2**40)
    story.create_fleet(fields)
    story.add("node-1", 8, labels={"host": "one"})
    story.commit()
    with store.transaction("gpu") as transaction:
        assert transaction.head is not None
        assert (transaction.head.revision, transaction.head.next_order) == (2, 2)
        assert transaction.head.record is not None
        assert transaction.head.record.fields == fields
        assert transaction.head.record.config_revision == 1
        [row] = transaction.load_instances()
        assert row.record.fields.labels == {"host": "one"}
        assert (row.record.order, row.record.config_revision, row.busy) == (1, 2, 0)
        assert transaction.fleet_count() == 1


def test_a_grant_is_read_back_as_it_was_granted(story: Story) -> None:
    number = story.grant(
        ("node-2", (0, 7)), ("node-1", (3,)), holder='an "odd" ☃', ttl_us=5_000_000, annotations={"k": '["node-9",['}
    )
    story.commit()
    with story.store.transaction("gpu") as transaction:
        assert transaction.allocations([number, 999]) == {number: story.allocation(number)}
        assert transaction.allocations([number])[number].revision == number
        known = transaction.tokens([("default", f"token-{number}"), ("default", "other"), ("other", f"token-{number}")])
    assert known == {
        ("default", f"token-{number}"): TokenRecord("default", f"token-{number}", number, FINGERPRINT, number)
    }
    assert busy(story) == {"node-1": (0b1000, 1), "node-2": (0b10000001, 2)}


def test_a_partial_release_keeps_what_is_left_and_what_was_granted(story: Story) -> None:
    number = story.grant(("node-1", (0, 1, 2)))
    story.commit()
    story.release(number, (("node-1", (1,)),))
    story.commit()
    with story.store.transaction("gpu") as transaction:
        found = transaction.allocations([number])[number]
    assert found == story.allocation(number)
    assert found.placements == (("node-1", (0, 2)),)
    assert found.granted == (("node-1", (0, 1, 2)),)
    assert busy(story)["node-1"] == (0b101, 2)


def test_an_ended_allocation_remembers_what_it_had_at_its_end(story: Story) -> None:
    number = story.grant(("node-1", (0, 1, 2)), ttl_us=1_000_000)
    story.release(number, (("node-1", (1,)),))
    story.commit()
    story.expire(number)
    story.commit()
    with story.store.transaction("gpu") as transaction:
        found = transaction.allocations([number])[number]
    assert found == story.allocation(number)
    assert found.state is AllocationState.EXPIRED
    assert found.placements == (("node-1", (0, 2)),)
    assert busy(story)["node-1"] == (0, 0)


def test_a_cancelled_token_is_remembered_without_an_allocation(story: Story) -> None:
    story.cancel("late")
    story.commit()
    with story.store.transaction("gpu") as transaction:
        assert transaction.tokens([("default", "late")]) == {
            ("default", "late"): TokenRecord("default", "late", None, b"", story.revision)
        }


def test_many_records_are_looked_up_at_once(story: Story) -> None:
    numbers = [story.grant(("node-1", (block,)), token=f'a "{block}" \\') for block in range(8)]
    story.commit()
    with story.store.transaction("gpu") as transaction:
        keys = [("default", f'a "{block}" \\') for block in range(8)]
        assert {record.allocation for record in transaction.tokens(keys).values()} == set(numbers)
        assert set(transaction.allocations(numbers)) == set(numbers)
        assert transaction.tokens([]) == {}
        assert transaction.allocations([]) == {}


def test_the_journal_gives_back_every_event(story: Story) -> None:
    number = story.grant(("node-1", (0, 1)), ttl_us=1_000_000, annotations={"k": "v"})
    story.renew(number, 2_000_000)
    story.extend_leases(10_000_000)
    story.release(number, (("node-1", (0,)),))
    story.expire(number)
    story.cancel("late")
    story.change("node-1", 4, InstanceState.CORDONED)
    story.remove("node-1")
    story.update_fleet(FleetFields({"a": "b"}, PlacementStrategy.FIRST_FIT, None, 1_000_000))
    story.delete_fleet()
    story.commit()
    with story.store.transaction("gpu") as transaction:
        assert transaction.events_after(0, 100) == story.events
        assert transaction.events_after(5, 3) == story.events[5:8]
        assert transaction.events_after(story.revision, 3) == []


def test_leases_are_due_the_longest_overdue_first(story: Story) -> None:
    late = story.grant(("node-1", (0,)), ttl_us=3_000_000)
    soon = story.grant(("node-1", (1,)), ttl_us=1_000_000)
    ended = story.grant(("node-1", (2,)), ttl_us=1_000_000)
    story.grant(("node-1", (3,)))
    story.release(ended)
    story.commit()
    soon_us, late_us = story.allocation(soon).expire_time_us, story.allocation(late).expire_time_us
    assert soon_us is not None
    assert late_us is not None
    with story.store.transaction("gpu") as transaction:
        assert transaction.due_leases(soon_us - 1, 10) == []
        assert [a.allocation for a in transaction.due_leases(soon_us, 10)] == [soon]
        assert [a.allocation for a in transaction.due_leases(late_us, 10)] == [soon, late]
        assert [a.allocation for a in transaction.due_leases(late_us, 1)] == [soon]
        assert transaction.next_expire_time_us(-1) == soon_us
        assert transaction.next_expire_time_us(soon_us) == late_us
        assert transaction.next_expire_time_us(late_us) is None


def test_extending_leases_moves_only_those_that_would_end_before(story: Story) -> None:
    short = story.grant(("node-1", (0,)), ttl_us=10_000_000)
    worn = story.grant(("node-1", (1,)), ttl_us=200_000_000)
    long = story.grant(("node-1", (2,)), ttl_us=900_000_000)
    none = story.grant(("node-1", (3,)))
    story.commit()
    long_until_us = story.allocation(long).expire_time_us
    story.now_us = 400_000_000
    story.extend_leases(500_000_000)
    story.commit()
    with story.store.transaction("gpu") as transaction:
        found = transaction.allocations([short, worn, long, none])
    assert found == {number: story.allocation(number) for number in (short, worn, long, none)}
    assert found[short].expire_time_us == 410_000_000, "no longer than its TTL"
    assert found[worn].expire_time_us == 500_000_000, "no longer than the grace"
    assert found[long].expire_time_us == long_until_us, "never shortened"
    assert found[short].revision == short


def test_leases_extended_and_renewed_in_one_batch_have_their_final_end(story: Story) -> None:
    first = story.grant(("node-1", (0,)), ttl_us=200_000_000)
    story.commit()
    second = story.grant(("node-1", (1,)), ttl_us=200_000_000)
    story.now_us = 400_000_000
    story.extend_leases(500_000_000)
    story.renew(first, 900_000_000)
    story.commit()
    with story.store.transaction("gpu") as transaction:
        found = transaction.allocations([first, second])
    assert found == {number: story.allocation(number) for number in (first, second)}


def test_a_fleet_made_again_goes_on_from_its_revision_and_order(story: Story) -> None:
    story.delete_fleet()
    story.commit()
    with story.store.transaction("gpu") as transaction:
        assert transaction.head is not None
        assert transaction.head.record is None
        assert (transaction.head.revision, transaction.head.next_order) == (4, 3)
        assert transaction.load_instances() == []
        assert transaction.fleet_count() == 0
    assert list(story.store.fleet_sizes()) == []
    story.create_fleet(FleetFields({"again": "yes"}))
    story.add("node-1", 4)
    story.commit()
    with story.store.transaction("gpu") as transaction:
        assert transaction.head is not None
        assert transaction.head.record is not None
        assert transaction.head.record.fields.labels == {"again": "yes"}
        assert [row.record.order for row in transaction.load_instances()] == [3]
    assert list(story.store.fleet_sizes()) == ["gpu"]


def test_a_fleet_may_be_deleted_and_made_again_in_one_batch(story: Story) -> None:
    number = story.grant(("node-1", (0,)))
    story.commit()
    story.release(number)
    story.delete_fleet()
    story.create_fleet()
    story.add("node-1", 2)
    other = story.grant(("node-1", (0,)))
    story.commit()
    assert busy(story) == {"node-1": (1, 1)}
    with story.store.transaction("gpu") as transaction:
        assert transaction.allocations([other])[other].state is AllocationState.HELD


def test_what_is_freed_makes_room_for_a_smaller_instance_in_the_same_batch(story: Story) -> None:
    number = story.grant(("node-1", (7,)))
    story.commit()
    story.release(number)
    story.change("node-1", 4)
    story.grant(("node-1", (3,)))
    story.change("node-2", 16)
    story.grant(("node-2", (15,)))
    story.commit()
    assert busy(story) == {"node-1": (0b1000, 1), "node-2": (1 << 15, 1)}


def test_fleets_do_not_see_each_other(story: Story) -> None:
    other = Story(story.store, "cpu").begin(node_1=8)
    mine = story.grant(("node-1", (0,)), token="same")
    theirs = other.grant(("node-1", (0,)), token="same", holder="other")
    story.commit()
    other.commit()
    with story.store.transaction("cpu") as transaction:
        assert set(transaction.allocations([mine, theirs])) == {theirs}
        assert transaction.tokens([("default", "same")])["default", "same"].allocation == theirs
    assert list(story.store.fleet_sizes()) == ["cpu", "gpu"]


def test_a_fleet_is_as_large_as_its_instances_and_a_fifth_of_its_live_allocations(story: Story) -> None:
    Story(story.store, "cpu").begin(node_1=8).commit()
    before = story.store.fleet_sizes()
    granted = [story.grant(("node-1", (block,)), token=f"t-{block}") for block in range(6)]
    story.commit()
    held = story.store.fleet_sizes()
    for allocation in granted:
        story.release(allocation)
    story.commit()

    assert held == {**before, "gpu": before["gpu"] + 1}
    assert story.store.fleet_sizes() == before
    assert before["cpu"] == 1


def test_a_block_that_raises_leaves_nothing_behind(story: Story) -> None:
    story.grant(("node-1", (0,)))
    with pytest.raises(RuntimeError, match="stop"), story.writing():
        raise RuntimeError("stop")
    assert busy(story)["node-1"] == (0, 0)


def test_the_store_goes_on_after_a_refused_write(story: Story) -> None:
    first = story.grant(("node-1", (0,)))
    story.commit()
    with story.store.transaction("gpu") as transaction:
        assert transaction.head is not None
        revision = transaction.head.revision
    story.records.allocations.clear()
    story.grant(("node-1", (0,)))
    with pytest.raises(InvariantBroken):
        story.commit()
    assert busy(story)["node-1"] == (1, 1)
    story.revision = revision
    story.grant(("node-1", (1,)))
    story.commit()
    assert busy(story)["node-1"] == (0b11, 2)
    with story.store.transaction("gpu") as transaction:
        assert first in transaction.allocations([first])


def refused(story: Story) -> str:
    """The message with which the pending events are refused, after which nothing has changed."""
    before = busy(story)
    with pytest.raises(InvariantBroken) as broken:
        story.commit()
    assert busy(story) == before
    return str(broken.value)


def test_freeing_a_block_that_is_not_held_is_refused(story: Story) -> None:
    number = story.grant(("node-1", (0,)))
    story.commit()
    story.release(number, (("node-1", (0, 1)),))
    assert "not held" in refused(story)


def test_freeing_a_block_of_another_allocation_is_refused(story: Story) -> None:
    story.grant(("node-1", (0,)))
    number = story.grant(("node-1", (1,)))
    story.commit()
    story.release(number, (("node-1", (0,)),))
    assert "not held" in refused(story)


def test_ending_an_allocation_whose_blocks_are_still_held_is_refused(story: Story) -> None:
    number = story.grant(("node-1", (0, 1)))
    story.commit()
    story.release(number)
    [released] = story.pending
    assert isinstance(released, Released)
    story.pending = [replace(released, freed=(("node-1", (0,)),))]
    assert refused(story)


def test_ending_an_allocation_twice_is_refused(story: Story) -> None:
    number = story.grant(("node-1", (0,)))
    story.release(number)
    story.commit()
    story.release(number, ())
    assert "not live" in refused(story)


def test_renewing_an_ended_allocation_is_refused(story: Story) -> None:
    number = story.grant(("node-1", (0,)), ttl_us=1_000_000)
    held = story.allocation(number)
    story.release(number)
    story.commit()
    story.records.allocations[number] = held
    story.renew(number, 2_000_000)
    assert "not live" in refused(story)


def test_a_token_is_used_once(story: Story) -> None:
    story.grant(("node-1", (0,)), token="once")
    story.commit()
    story.grant(("node-1", (1,)), token="once")
    assert refused(story)


def test_granting_a_block_that_the_instance_does_not_have_is_refused(story: Story) -> None:
    story.grant(("node-1", (8,)))
    assert refused(story)


def test_granting_on_an_instance_that_is_not_there_is_refused(story: Story) -> None:
    story.grant(("node-3", (0,)))
    assert refused(story)


def test_deleting_an_instance_with_held_blocks_is_refused(story: Story) -> None:
    story.grant(("node-1", (0,)))
    story.commit()
    story.remove("node-1")
    assert refused(story)


def test_deleting_a_fleet_with_held_blocks_is_refused(story: Story) -> None:
    story.grant(("node-1", (0,)))
    story.commit()
    story.delete_fleet()
    assert refused(story)


def test_shrinking_an_instance_below_a_held_block_is_refused(story: Story) -> None:
    story.grant(("node-1", (7,)))
    story.commit()
    story.change("node-1", 7)
    assert refused(story)


def test_changing_an_instance_that_is_not_there_is_refused(story: Story) -> None:
    story.change("node-3", 7)
    assert "not there" in refused(story)


def test_making_a_fleet_that_is_there_is_refused(story: Story) -> None:
    story.create_fleet()
    assert "is there" in refused(story)


def test_updating_a_deleted_fleet_is_refused(story: Story) -> None:
    story.delete_fleet()
    story.commit()
    story.update_fleet(FleetFields())
    assert "not there" in refused(story)


def test_events_that_do_not_follow_the_fleets_revision_are_refused(story: Story) -> None:
    story.revision += 1
    story.grant(("node-1", (0,)))
    assert "does not follow" in refused(story)
