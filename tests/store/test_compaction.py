"""Old history is forgotten in bounded steps, on every store: never the last event, and nothing that is held."""

import pytest

from blockyard_server.domain.answers import EventFilter
from blockyard_server.domain.events import Event
from blockyard_server.domain.journal import JournalBounds
from tests.store.conftest import ALSO_IN_MEMORY
from tests.store.story import Story

pytestmark = ALSO_IN_MEMORY

MANY = 1000


async def with_past(story: Story) -> list[str]:
    async with story.store.reader() as reader:
        return await reader.fleets_with_past("", 10)


def compact(story: Story, upto_revision: int, limit: int = MANY) -> int:
    with story.store.transaction(story.fleet) as transaction:
        return transaction.compact(upto_revision, limit)


def kept(story: Story) -> list[Event]:
    with story.store.transaction(story.fleet) as transaction:
        return transaction.events_after(0, MANY)


async def bounds(story: Story) -> JournalBounds | None:
    async with story.store.reader() as reader:
        return await reader.journal_bounds(story.fleet)


async def test_only_what_happened_before_goes(story: Story) -> None:
    held = story.grant(("node-1", (0,)))
    story.release(story.grant(("node-1", (1,))))
    story.commit()

    assert compact(story, held) == held
    assert kept(story) == story.events[held:]
    assert await bounds(story) == JournalBounds(story.revision, held)
    assert compact(story, held) == 0


async def test_the_last_event_is_never_forgotten(story: Story) -> None:
    assert await with_past(story) == ["gpu"]
    assert compact(story, story.revision + 1) == story.revision - 1
    assert kept(story) == story.events[-1:]
    assert await with_past(story) == []
    assert compact(story, story.revision + 1) == 0


async def test_one_step_takes_at_most_so_many_the_oldest_first(story: Story) -> None:
    for _ in range(4):
        story.release(story.grant(("node-1", (0,))))
    story.commit()

    assert [compact(story, story.revision, limit=4) for _ in range(4)] == [4, 4, 2, 0]
    assert kept(story) == story.events[-1:]


async def test_what_goes_is_told_by_revisions_whatever_times_the_events_say(story: Story) -> None:
    story.now_us += 1_000_000
    old = story.grant(("node-1", (0,)))
    story.now_us -= 1_000_000
    story.grant(("node-1", (1,)))
    story.grant(("node-1", (2,)))
    story.commit()

    assert compact(story, old) == old


async def test_what_is_held_and_its_tokens_stay(story: Story) -> None:
    numbers = [story.grant(("node-1", (block,))) for block in range(3)]
    story.release(numbers[1])
    story.commit()
    compact(story, story.revision)

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
    compact(story, story.revision, limit=numbers[1])

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
    compact(story, story.revision, limit=2)
    evidence = story.store.open_evidence("gpu")

    assert (evidence.compacted_revision, evidence.revision) == (2, story.revision)
    assert list(evidence.events()) == story.events[2:]
    evidence.close()


async def test_a_deleted_fleet_is_compacted_too_and_its_revision_goes_on(story: Story) -> None:
    story.delete_fleet()
    story.commit()

    assert await with_past(story) == ["gpu"]
    assert compact(story, story.revision) == story.revision - 1
    story.create_fleet()
    story.commit()
    assert await bounds(story) == JournalBounds(story.revision, story.revision - 2)


async def test_a_fleet_that_never_was_has_nothing_to_forget(story: Story) -> None:
    with story.store.transaction("nope") as transaction:
        assert transaction.compact(story.revision, MANY) == 0


async def test_a_compaction_that_is_not_committed_leaves_everything(story: Story) -> None:
    def compact_and_fail() -> None:
        with story.store.transaction("gpu") as transaction:
            assert transaction.compact(story.revision, MANY)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        compact_and_fail()

    assert kept(story) == story.events


async def test_revisions_of_many_fleets_are_one_answer(story: Story) -> None:
    other = Story(story.store, "other").begin(node_1=8)
    async with story.store.reader() as reader:
        found = await reader.revisions(["gpu", "other", "nope"])

    assert found == {"gpu": story.revision, "other": other.revision}
