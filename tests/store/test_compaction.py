"""Old history is forgotten in bounded steps, on every store: never the last event, and nothing that is held."""

import pytest

from blockyard_server.domain.answers import EventFilter
from blockyard_server.domain.events import Event
from blockyard_server.domain.journal import JournalBounds
from tests.store.story import Story

MANY = 1000


async def to_compact(story: Story, before_us: int) -> list[str]:
    async with story.store.reader() as reader:
        return await reader.fleets_to_compact(before_us, 10)


def compact(story: Story, before_us: int, limit: int = MANY) -> int:
    with story.store.transaction(story.fleet) as transaction:
        return transaction.compact(before_us, limit)


def kept(story: Story) -> list[Event]:
    with story.store.transaction(story.fleet) as transaction:
        return transaction.events_after(0, MANY)


async def bounds(story: Story) -> JournalBounds | None:
    async with story.store.reader() as reader:
        return await reader.journal_bounds(story.fleet)


async def test_only_what_happened_before_goes(story: Story) -> None:
    held = story.grant(("node-1", (0,)))
    then_us = story.now_us
    story.release(story.grant(("node-1", (1,))))
    story.commit()

    assert await to_compact(story, then_us) == ["gpu"]
    assert compact(story, then_us) == held
    assert kept(story) == story.events[held:]
    assert await bounds(story) == JournalBounds(story.revision, held)
    assert await to_compact(story, then_us) == []
    assert compact(story, then_us) == 0


async def test_the_last_event_is_never_forgotten(story: Story) -> None:
    after_us = story.now_us + 1

    assert compact(story, after_us) == story.revision - 1
    assert kept(story) == story.events[-1:]
    assert await to_compact(story, after_us) == []
    assert compact(story, after_us) == 0


async def test_one_step_takes_at_most_so_many_the_oldest_first(story: Story) -> None:
    for _ in range(4):
        story.release(story.grant(("node-1", (0,))))
    story.commit()

    assert [compact(story, story.now_us, limit=4) for _ in range(4)] == [4, 4, 2, 0]
    assert kept(story) == story.events[-1:]


async def test_a_young_event_protects_what_comes_after_it_however_old_that_says_it_is(story: Story) -> None:
    story.now_us += 1_000_000
    young = story.grant(("node-1", (0,)))
    story.now_us -= 1_000_000
    story.grant(("node-1", (1,)))
    story.grant(("node-1", (2,)))
    story.commit()

    assert compact(story, story.now_us) == young - 1


async def test_what_is_held_and_its_tokens_stay(story: Story) -> None:
    numbers = [story.grant(("node-1", (block,))) for block in range(3)]
    story.release(numbers[1])
    story.commit()
    compact(story, story.now_us)

    with story.store.transaction("gpu") as transaction:
        assert set(transaction.allocations(numbers)) == set(numbers)
        assert {
            record.allocation for record in transaction.tokens([("default", f"token-{n}") for n in numbers]).values()
        }
        assert [row.busy for row in transaction.load_instances()] == [0b101, 0]
    story.release(numbers[0])
    story.grant(("node-1", (0, 1)))
    story.commit()
    assert kept(story) == story.events[-3:]


async def test_pages_begin_with_what_is_kept_and_say_so(story: Story) -> None:
    numbers = [story.grant(("node-1", (block,)), holder=f"job-{block}") for block in range(4)]
    story.commit()
    compact(story, story.now_us, limit=numbers[1])

    async with story.store.reader() as reader:
        everything = await reader.events("gpu", EventFilter(), after=-1, limit=MANY)
        of_one = await reader.events("gpu", EventFilter(holder="job-3"), after=-1, limit=MANY)
        behind = await reader.events("gpu", EventFilter(), after=numbers[0], limit=MANY)

    assert everything.events == tuple(story.events[numbers[1] :])
    assert [event.revision for event in of_one.events] == numbers[3:]
    assert {page.compacted_revision for page in (everything, of_one, behind)} == {numbers[1]}


async def test_the_evidence_begins_where_the_journal_does(story: Story) -> None:
    story.grant(("node-1", (0,)))
    story.commit()
    compact(story, story.now_us, limit=2)
    evidence = story.store.pin_evidence("gpu")

    assert (evidence.compacted_revision, evidence.revision) == (2, story.revision)
    assert list(evidence.events()) == story.events[2:]
    evidence.close()


async def test_a_deleted_fleet_is_compacted_too_and_its_revision_goes_on(story: Story) -> None:
    story.delete_fleet()
    story.commit()

    assert await to_compact(story, story.now_us) == ["gpu"]
    assert compact(story, story.now_us) == story.revision - 1
    story.create_fleet()
    story.commit()
    assert await bounds(story) == JournalBounds(story.revision, story.revision - 2)


async def test_a_fleet_that_never_was_has_nothing_to_forget(story: Story) -> None:
    with story.store.transaction("nope") as transaction:
        assert transaction.compact(story.now_us, MANY) == 0


async def test_a_compaction_that_is_not_committed_leaves_everything(story: Story) -> None:
    def compact_and_fail() -> None:
        with story.store.transaction("gpu") as transaction:
            assert transaction.compact(story.now_us, MANY)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        compact_and_fail()

    assert kept(story) == story.events


async def test_revisions_of_many_fleets_are_one_answer(story: Story) -> None:
    other = Story(story.store, "other").begin(node_1=8)
    async with story.store.reader() as reader:
        found = await reader.revisions(["gpu", "other", "nope"])

    assert found == {"gpu": story.revision, "other": other.revision}
