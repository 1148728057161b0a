"""What has ended long ago is forgotten in bounded steps, on every store."""

import pytest

from blockyard_server.domain.answers import AllocationFilter
from blockyard_server.domain.retention import FleetAge, Mark
from blockyard_server.engine.store_protocol import InvariantBroken
from tests.store.conftest import ALSO_IN_MEMORY
from tests.store.story import Story

pytestmark = ALSO_IN_MEMORY


def prune(story: Story, upto_revision: int, limit: int = 100) -> int:
    with story.store.transaction(story.fleet) as transaction:
        return transaction.prune(upto_revision, limit)


def test_only_what_ended_by_then_goes_and_its_token_with_it_whatever_times_they_say(story: Story) -> None:
    kept = story.grant(("node-1", (0,)))
    old = story.grant(("node-1", (1,)))
    young = story.grant(("node-1", (2,)))
    story.now_us += 1_000_000_000_000
    story.release(old)
    story.now_us -= 1_000_000_000_000
    ended = story.revision
    story.release(young)
    story.commit()
    assert prune(story, ended - 1) == 0
    assert prune(story, ended) == 2
    with story.store.transaction("gpu") as transaction:
        assert set(transaction.allocations([kept, old, young])) == {kept, young}
        keys = [("default", f"token-{number}") for number in (kept, old, young)]
        assert {record.allocation for record in transaction.tokens(keys).values()} == {kept, young}
    assert prune(story, ended) == 0


def test_cancelled_tokens_go_when_they_are_old(story: Story) -> None:
    story.cancel("old")
    cancelled = story.revision
    story.cancel("young")
    story.commit()
    assert prune(story, cancelled - 1) == 0
    assert prune(story, cancelled) == 1
    with story.store.transaction("gpu") as transaction:
        assert set(transaction.tokens([("default", "old"), ("default", "young")])) == {("default", "young")}


def test_one_step_takes_at_most_so_many_the_oldest_first(story: Story) -> None:
    numbers = []
    for _ in range(5):
        numbers.append(story.grant(("node-1", (0,))))
        story.release(numbers[-1])
    story.commit()
    assert prune(story, story.revision, limit=2) == 4
    with story.store.transaction("gpu") as transaction:
        assert sorted(transaction.allocations(numbers)) == numbers[2:]
    assert prune(story, story.revision, limit=2) == 4
    assert prune(story, story.revision, limit=2) == 2


async def test_a_deleted_fleet_is_pruned_too_and_the_journal_stays(story: Story) -> None:
    story.release(story.grant(("node-1", (0,))))
    story.delete_fleet()
    story.commit()
    assert prune(story, story.revision) == 2
    with story.store.transaction("gpu") as transaction:
        assert transaction.events_after(0, 100) == story.events
    async with story.store.reader() as reader:
        assert (await reader.allocations("gpu", AllocationFilter(), after=0, limit=9)).views == ()


def test_a_token_may_be_used_again_once_it_is_forgotten(story: Story) -> None:
    story.release(story.grant(("node-1", (0,)), token="again"))
    story.commit()
    prune(story, story.revision)
    number = story.grant(("node-1", (0,)), token="again")
    story.commit()
    with story.store.transaction("gpu") as transaction:
        assert transaction.tokens([("default", "again")])["default", "again"].allocation == number


def test_an_age_and_its_marks_are_read_as_they_were_written_and_only_ever_grow(story: Story) -> None:
    ages = [FleetAge(5, (Mark(5, 1),)), FleetAge(2**62, (Mark(5, 1), Mark(2**61, 2**60)))]
    with story.store.transaction("gpu") as transaction:
        assert transaction.age() == FleetAge()
    for age in ages:
        with story.store.transaction("gpu") as transaction:
            transaction.set_age(age)
        with story.store.transaction("gpu") as transaction:
            assert transaction.age() == age
    for age in ages:
        with pytest.raises(InvariantBroken), story.store.transaction("gpu") as transaction:
            transaction.set_age(age)


async def test_fleets_with_a_past_are_those_with_something_to_forget(story: Story) -> None:
    for name, past in (("cancelled", True), ("ended", True), ("events", True), ("young", False)):
        other = Story(story.store, name).begin(node_1=8) if past else Story(story.store, name)
        if not past:
            other.create_fleet()
        elif name == "cancelled":
            other.cancel("token")
        elif name == "ended":
            other.release(other.grant(("node-1", (0,))))
        if other.pending:
            other.commit()
        if name in {"cancelled", "ended"}:
            with story.store.transaction(name) as transaction:
                transaction.compact(other.revision, 100)

    async with story.store.reader() as reader:
        assert await reader.fleets_with_past("", 10) == ["cancelled", "ended", "events", "gpu"]
        assert await reader.fleets_with_past("cancelled", 2) == ["ended", "events"]
