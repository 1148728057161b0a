"""An instance that is held exclusively, on every store: in the rows, in what is read, and in what is refused."""

import pytest

from blockyard_server.domain.corrections import Correction, CorrectionKind
from blockyard_server.domain.events import Repaired
from blockyard_server.engine.store_protocol import InvariantBroken
from tests.store.conftest import ALSO_IN_MEMORY
from tests.store.story import Story

pytestmark = ALSO_IN_MEMORY


def owners(story: Story) -> dict[str, int | None]:
    """Who holds each instance exclusively, by its row."""
    with story.store.transaction(story.fleet) as transaction:
        return {row.record.instance: row.record.exclusive_to for row in transaction.load_instances()}


def owned(story: Story) -> int:
    """All of node-2 is granted exclusively, beside a grant that is not, and then it grows."""
    number = story.grant(("node-1", (0,)), ("node-2", tuple(range(8))), exclusive=("node-2",))
    story.change("node-2", 16)
    story.commit()
    return number


async def test_it_is_read_as_it_was_written_and_its_idle_blocks_are_not_acquirable(story: Story) -> None:
    number = owned(story)

    assert owners(story) == {"node-1": None, "node-2": number}
    with story.store.transaction("gpu") as transaction:
        assert transaction.allocations([number])[number].exclusive == ("node-2",)
    async with story.store.reader() as reader:
        totals = (await reader.snapshot("gpu", full=False, after=0, limit=9, now_us=1)).totals
        view = await reader.allocation("gpu", number)
    assert (totals.busy_blocks, totals.idle_blocks, totals.acquirable_blocks) == (9, 15, 7)
    assert view is not None
    assert view.allocation.exclusive == ("node-2",)
    evidence = story.store.open_evidence("gpu")
    assert list(evidence.exclusive_instances()) == [("node-2", number)]
    evidence.close()


def test_nobody_else_gets_a_block_of_it_until_its_last_one_is_released(story: Story) -> None:
    number = owned(story)
    story.release(number, (("node-2", tuple(range(7))),))
    story.commit()
    assert owners(story) == {"node-1": None, "node-2": number}

    story.grant(("node-2", (9,)))
    with pytest.raises(InvariantBroken, match="exclusively"):
        story.commit()
    assert owners(story) == {"node-1": None, "node-2": number}


def test_with_its_last_block_it_is_free(story: Story) -> None:
    number = owned(story)
    story.release(number, (("node-2", tuple(range(8))),))
    story.commit()

    assert owners(story) == {"node-1": None, "node-2": None}
    story.grant(("node-2", (9,)))
    story.commit()


def test_an_instance_with_a_block_of_somebody_else_cannot_be_held_exclusively(story: Story) -> None:
    story.grant(("node-2", (0,)))
    story.commit()
    story.grant(("node-2", tuple(range(1, 8))), exclusive=("node-2",))

    with pytest.raises(InvariantBroken, match="exclusively"):
        story.commit()


def test_what_is_released_and_granted_exclusively_in_one_batch_is_its_last_holders(story: Story) -> None:
    first = story.grant(("node-2", tuple(range(8))), exclusive=("node-2",))
    story.commit()
    story.release(first)
    second = story.grant(("node-2", tuple(range(8))), exclusive=("node-2",))
    story.release(second, (("node-2", (0, 1)),))
    story.commit()

    assert owners(story) == {"node-1": None, "node-2": second}


def test_a_repair_says_again_who_holds_it_exclusively_out_of_the_allocations(story: Story) -> None:
    number = owned(story)
    freed = Correction(CorrectionKind.BLOCK_FREED, "node-2", number, 0)
    held = Correction(CorrectionKind.BLOCK_HELD, "node-2", number, 0)
    counted = Correction(CorrectionKind.COUNTER_SET, "node-1", before=1, after=1)
    with story.store.transaction("gpu") as transaction:
        transaction.repair(Repaired(story.revision + 1, story.now_us, (freed, held, counted)), ())

    assert owners(story) == {"node-1": None, "node-2": number}
