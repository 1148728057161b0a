"""Lists, page by page, on every store."""

import pytest

from blockyard_server.domain import limits
from blockyard_server.domain.answers import AllocationFilter, DescribePage, EventFilter, Hold
from blockyard_server.domain.events import Event
from blockyard_server.domain.requests import InstanceState
from blockyard_server.engine.store_protocol import Store
from tests.store.story import Story


async def listed(story: Story, where: AllocationFilter, limit: int = 2) -> list[int]:
    """Every page of ListAllocations, one after the other."""
    numbers: list[int] = []
    after: int | None = 0
    while after is not None:
        async with story.store.reader() as reader:
            page = await reader.allocations(story.fleet, where, after=after, limit=limit)
        assert len(page.views) <= limit
        assert page.revision == story.revision
        assert [view.allocation for view in page.views] == [
            story.allocation(v.allocation.allocation) for v in page.views
        ]
        numbers += [view.allocation.allocation for view in page.views]
        assert page.next_after is None or page.next_after > after
        after = page.next_after
    return numbers


async def events(story: Story, where: EventFilter, limit: int = 3) -> list[Event]:
    """Every page of ListEvents, one after the other."""
    found: list[Event] = []
    after: int | None = 0
    while after is not None:
        async with story.store.reader() as reader:
            page = await reader.events(story.fleet, where, after=after, limit=limit)
        assert len(page.events) <= limit
        found += page.events
        assert page.next_after is None or page.next_after > after
        after = page.next_after
    return found


@pytest.fixture
def busy(story: Story) -> tuple[Story, dict[str, int]]:
    """Allocations of two holders in all states on three instances, two of which one allocation spans."""
    story.add("node_1", 8)  # for SQL's LIKE, `_` is any character: it must not be taken for node-1
    ids = {
        "held": story.grant(("node-1", (0,)), holder="a"),
        "spans": story.grant(("node-2", (0,)), ("node-1", (1,)), holder="b"),
        "released": story.grant(("node-1", (2,)), holder="a"),
        "expired": story.grant(("node-1", (3,)), holder="b", ttl_us=1_000),
        "moved off": story.grant(("node-1", (4,)), ("node-2", (4,)), holder="a"),
        "elsewhere": story.grant(("node_1", (0,)), holder="a", annotations={"k": '["node-1",[0]]'}),
        "ended elsewhere": story.grant(("node_1", (1,)), holder="a", annotations={"k": '["node-1",[0]]'}),
    }
    story.release(ids["released"])
    story.expire(ids["expired"])
    story.release(ids["moved off"], (("node-1", (4,)),))
    story.release(ids["ended elsewhere"])
    story.commit()
    return story, ids


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (AllocationFilter(), ["held", "spans", "released", "expired", "moved off", "elsewhere", "ended elsewhere"]),
        (AllocationFilter(state="HELD"), ["held", "spans", "moved off", "elsewhere"]),
        (AllocationFilter(state="RELEASED"), ["released", "ended elsewhere"]),
        (AllocationFilter(state="EXPIRED"), ["expired"]),
        (AllocationFilter(holder="a"), ["held", "released", "moved off", "elsewhere", "ended elsewhere"]),
        (AllocationFilter(holder="a", state="HELD"), ["held", "moved off", "elsewhere"]),
        (AllocationFilter(holder="a", state="RELEASED"), ["released", "ended elsewhere"]),
        (AllocationFilter(holder="nobody"), []),
        (AllocationFilter(instance="node-1"), ["held", "spans", "released", "expired"]),
        (AllocationFilter(instance="node-2"), ["spans", "moved off"]),
        (AllocationFilter(instance="node-1", state="HELD"), ["held", "spans"]),
        (AllocationFilter(instance="node-1", state="EXPIRED"), ["expired"]),
        (AllocationFilter(instance="node-1", holder="a"), ["held", "released"]),
        (AllocationFilter(instance="node-1", holder="b", state="HELD"), ["spans"]),
        (AllocationFilter(instance="node_1"), ["elsewhere", "ended elsewhere"]),
        (AllocationFilter(instance="node-9"), []),
    ],
)
async def test_a_filter_finds_exactly_its_allocations_in_order(
    busy: tuple[Story, dict[str, int]], where: AllocationFilter, expected: list[str]
) -> None:
    story, ids = busy
    names = {number: name for name, number in ids.items()}
    for limit in (1, 2, 100):
        assert [names[number] for number in await listed(story, where, limit)] == expected


async def test_only_held_allocations_are_flagged_with_their_offline_instances(story: Story) -> None:
    ended = story.grant(("node-1", (0,)))
    story.release(ended)
    held = story.grant(("node-2", (0,)), ("node-1", (0,)))
    story.change("node-1", 8, InstanceState.OFFLINE)
    story.commit()
    async with story.store.reader() as reader:
        page = await reader.allocations("gpu", AllocationFilter(), after=0, limit=10)
    flags = {view.allocation.allocation: view.offline_instances for view in page.views}
    assert flags == {ended: (), held: ("node-1",)}


@pytest.mark.parametrize(
    "where",
    [
        AllocationFilter(state="EXPIRED"),
        AllocationFilter(holder="job", state="EXPIRED"),
        AllocationFilter(instance="node-2"),
        AllocationFilter(instance="node-2", state="EXPIRED"),
    ],
)
async def test_a_filter_that_finds_little_looks_at_a_bounded_number_of_rows_for_a_page(
    story: Story, monkeypatch: pytest.MonkeyPatch, where: AllocationFilter
) -> None:
    monkeypatch.setattr("blockyard_server.store.allocation_search.SCANNED_ROWS", 10)
    for _ in range(25):
        story.release(story.grant(("node-1", (0,))))
    wanted = story.grant(("node-2", (0,)), ttl_us=1_000)
    story.expire(wanted)
    held = story.grant(("node-2", (1,)), holder="other")
    story.commit()
    async with story.store.reader() as reader:
        page = await reader.allocations("gpu", where, after=0, limit=100)
    assert page.views == ()
    assert page.next_after is not None
    of_any_state = where == AllocationFilter(instance="node-2")
    assert await listed(story, where, 100) == [wanted, *([held] if of_any_state else [])]


@pytest.mark.parametrize(
    ("where", "kinds"),
    [
        (EventFilter(kinds=("GRANTED",)), ["GRANTED"] * 7),
        (EventFilter(kinds=("EXPIRED", "FLEET_CREATED")), ["FLEET_CREATED", "EXPIRED"]),
        (EventFilter(holder="b"), ["GRANTED", "GRANTED", "EXPIRED"]),
        (EventFilter(instance="node-2"), ["INSTANCE_CREATED", "GRANTED", "GRANTED"]),
        (EventFilter(instance="node-1", holder="a"), ["GRANTED", "GRANTED", "GRANTED", "RELEASED", "RELEASED"]),
        (EventFilter(instance="node_1", kinds=("RELEASED",)), ["RELEASED"]),
        (EventFilter(instance="node-9"), []),
    ],
)
async def test_a_filter_finds_exactly_its_events_in_order(
    busy: tuple[Story, dict[str, int]], where: EventFilter, kinds: list[str]
) -> None:
    story, _ = busy
    for limit in (1, 3, 100):
        found = await events(story, where, limit)
        assert [event.kind for event in found] == kinds
        assert found == sorted(found, key=lambda event: event.revision)


async def test_all_events_are_listed_without_a_filter(busy: tuple[Story, dict[str, int]]) -> None:
    story, _ = busy
    assert await events(story, EventFilter()) == story.events


async def test_a_page_of_events_says_how_far_it_looked(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockyard_server.store.event_search.SCANNED_ROWS", 10)
    for _ in range(20):
        story.release(story.grant(("node-1", (0,))))
    story.cancel("late")
    story.commit()
    where = EventFilter(kinds=("TOKEN_CANCELLED",))
    async with story.store.reader() as reader:
        page = await reader.events("gpu", where, after=0, limit=5)
    assert (page.events, page.next_after) == ((), 10)
    assert await events(story, where) == [story.events[-1]]


async def test_fleets_and_instances_are_listed_in_their_order(store: Store) -> None:
    for name in ("b", "a-1", "a.1", "c", "a1"):
        Story(store, name).begin()
    story = Story(store, "z").begin(node_3=1, node_1=2, node_2=3)
    gone = Story(store, "aa").begin()
    gone.delete_fleet()
    gone.commit()
    names: list[str] = []
    after: str | None = ""
    async with store.reader() as reader:
        while after is not None:
            fleets = await reader.fleets(after=after, limit=2)
            names += [fleet.fleet for fleet in fleets.fleets]
            after = fleets.next_after
        assert names == ["a-1", "a.1", "a1", "b", "c", "z"]
        first = await reader.instances(story.fleet, after=0, limit=2)
        assert ([i.instance for i in first.instances], first.next_after) == (["node-3", "node-1"], 2)
        second = await reader.instances(story.fleet, after=2, limit=2)
        assert ([i.instance for i in second.instances], second.next_after) == (["node-2"], None)


async def snapshots(story: Story, limit: int) -> list[DescribePage]:
    pages: list[DescribePage] = []
    after: int | None = 0
    while after is not None:
        async with story.store.reader() as reader:
            pages.append(await reader.snapshot(story.fleet, full=True, after=after, limit=limit, now_us=7))
        after = pages[-1].next_after
    return pages


async def test_a_snapshot_names_who_has_which_blocks(story: Story) -> None:
    first = story.grant(("node-2", (0, 5)), ("node-1", (3,)), holder="a")
    second = story.grant(("node-1", (1, 2)), holder="b")
    story.change("node-2", 8, InstanceState.CORDONED)
    story.commit()
    one, two = await snapshots(story, 1)
    assert (one.totals, one.revision, one.time_us) == (two.totals, story.revision, 7)
    assert (one.totals.acquirable_blocks, one.totals.idle_blocks) == (5, 11)
    [node] = one.instances
    assert node.holds == (Hold(first, "a", (3,)), Hold(second, "b", (1, 2)))
    assert (two.instances[0].state, two.instances[0].busy_blocks) == (InstanceState.CORDONED, 2)
    async with story.store.reader() as reader:
        basic = await reader.snapshot("gpu", full=False, after=0, limit=2, now_us=7)
    assert [(i.instance, i.busy_blocks, i.holds) for i in basic.instances] == [("node-1", 3, ()), ("node-2", 2, ())]
    assert basic.next_after is None


async def test_a_full_page_ends_once_it_has_named_enough_held_blocks(store: Store) -> None:
    story = Story(store).begin(node_1=4096, node_2=4096, node_3=4096)
    story.grant(*((f"node-{n}", tuple(range(3000))) for n in (1, 2, 3)))
    story.commit()
    pages = await snapshots(story, 100)
    assert [[i.instance for i in page.instances] for page in pages] == [["node-1", "node-2"], ["node-3"]]
    assert sum(i.busy_blocks for i in pages[0].instances) >= limits.MAX_PAGE_HELD_BLOCKS


async def test_a_page_ends_once_it_weighs_enough(story: Story) -> None:
    heavy = {f"key-{index}": "x" * 1000 for index in range(8)}
    count = limits.MAX_PAGE_BYTES // 8000 + 20
    numbers = [story.grant(("node-1", (0,)), token="t0", annotations=heavy)]
    for index in range(1, count):
        story.release(numbers[-1])
        numbers.append(story.grant(("node-1", (0,)), token=f"t{index}", annotations=heavy))
    story.commit()
    async with story.store.reader() as reader:
        page = await reader.allocations("gpu", AllocationFilter(), after=0, limit=1000)
    weight = sum(len(value) for view in page.views for value in view.allocation.annotations.values())
    assert page.next_after is not None
    assert 0.8 * limits.MAX_PAGE_BYTES < weight < 1.1 * limits.MAX_PAGE_BYTES
    assert await listed(story, AllocationFilter(), 1000) == numbers


async def test_instances_with_many_labels_fill_a_page_sooner(store: Store) -> None:
    story = Story(store)
    story.create_fleet()
    labels = {f"key-{index}": "x" * 253 for index in range(64)}
    for index in range(200):
        story.add(f"node-{index}", labels=labels)
    story.commit()
    found = 0
    after: int | None = 0
    async with store.reader() as reader:
        while after is not None:
            page = await reader.instances("gpu", after=after, limit=1000)
            assert len(page.instances) <= limits.MAX_PAGE_BYTES // (64 * 253) + 1
            found += len(page.instances)
            after = page.next_after
    assert found == 200
