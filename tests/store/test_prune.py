"""What has ended long ago is forgotten in bounded steps, on every store."""

from blockyard_server.domain.answers import AllocationFilter
from tests.store.story import Story


async def to_prune(story: Story, ended_before_us: int) -> list[str]:
    async with story.store.reader() as reader:
        return await reader.fleets_to_prune(ended_before_us, 10)


def prune(story: Story, ended_before_us: int, limit: int = 100) -> int:
    with story.store.transaction(story.fleet) as transaction:
        return transaction.prune(ended_before_us, limit)


async def test_only_what_ended_before_goes_and_its_token_with_it(story: Story) -> None:
    kept = story.grant(("node-1", (0,)))
    old = story.grant(("node-1", (1,)))
    story.release(old)
    young = story.grant(("node-1", (2,)))
    story.release(young)
    story.commit()
    young_end_us = story.allocation(young).end_time_us
    assert young_end_us is not None
    assert await to_prune(story, young_end_us) == ["gpu"]
    assert prune(story, young_end_us) == 2
    with story.store.transaction("gpu") as transaction:
        assert set(transaction.allocations([kept, old, young])) == {kept, young}
        keys = [("default", f"token-{number}") for number in (kept, old, young)]
        assert {record.allocation for record in transaction.tokens(keys).values()} == {kept, young}
    assert await to_prune(story, young_end_us) == []
    assert prune(story, young_end_us) == 0


async def test_cancelled_tokens_go_when_they_are_old(story: Story) -> None:
    story.cancel("old")
    then_us = story.now_us
    story.cancel("young")
    story.commit()
    assert await to_prune(story, then_us) == ["gpu"]
    assert prune(story, then_us) == 1
    with story.store.transaction("gpu") as transaction:
        assert set(transaction.tokens([("default", "old"), ("default", "young")])) == {("default", "young")}


def test_one_step_takes_at_most_so_many_the_oldest_first(story: Story) -> None:
    numbers = []
    for _ in range(5):
        numbers.append(story.grant(("node-1", (0,))))
        story.release(numbers[-1])
    story.commit()
    assert prune(story, story.now_us, limit=2) == 4
    with story.store.transaction("gpu") as transaction:
        assert sorted(transaction.allocations(numbers)) == numbers[2:]
    assert prune(story, story.now_us, limit=2) == 4
    assert prune(story, story.now_us, limit=2) == 2


async def test_a_deleted_fleet_is_pruned_too_and_the_journal_stays(story: Story) -> None:
    story.release(story.grant(("node-1", (0,))))
    story.delete_fleet()
    story.commit()
    assert await to_prune(story, story.now_us) == ["gpu"]
    assert prune(story, story.now_us) == 2
    with story.store.transaction("gpu") as transaction:
        assert transaction.events_after(0, 100) == story.events
    async with story.store.reader() as reader:
        assert (await reader.allocations("gpu", AllocationFilter(), after=0, limit=9)).views == ()


def test_a_token_may_be_used_again_once_it_is_forgotten(story: Story) -> None:
    story.release(story.grant(("node-1", (0,)), token="again"))
    story.commit()
    prune(story, story.now_us)
    number = story.grant(("node-1", (0,)), token="again")
    story.commit()
    with story.store.transaction("gpu") as transaction:
        assert transaction.tokens([("default", "again")])["default", "again"].allocation == number
