"""What the rows in memory refuse, where a damaged database has to be made first."""

import pytest

from blockyard_server.engine.store_protocol import InvariantBroken
from tests.memory.store import MemoryStore
from tests.store.story import Story


@pytest.mark.parametrize(("counter", "take"), [(8, True), (0, False)], ids=["above", "below"])
def test_a_damaged_counter_never_leaves_its_range(counter: int, *, take: bool) -> None:
    store = MemoryStore()
    story = Story(store).begin(node_1=8)
    number = story.grant(("node-1", (0,)))
    story.commit()
    store.rows["gpu"].busy_blocks["node-1"] = counter

    if take:
        story.grant(("node-1", (1,)))
    else:
        story.release(number)
    with pytest.raises(InvariantBroken):
        story.commit()
