"""Readers and evidence: each shows one moment, on every store."""

import asyncio
import threading

import pytest

from blockyard_server.domain.answers import AllocationFilter, EventFilter, Hold
from blockyard_server.domain.requests import InstanceState
from blockyard_server.engine.store_protocol import Store
from tests.store.story import Story


async def test_a_reader_does_not_see_what_is_committed_after_its_first_look(story: Story) -> None:
    first = story.grant(("node-1", (0,)))
    story.commit()
    async with story.store.reader() as reader:
        assert await reader.revision("gpu") == first
        story.release(first)
        second = story.grant(("node-1", (0, 1)))
        story.add("node-3")
        story.commit()
        assert await reader.revision("gpu") == first
        snapshot = await reader.snapshot("gpu", full=True, after=0, limit=10, now_us=7)
        assert (snapshot.revision, snapshot.totals.busy_blocks, snapshot.totals.instances) == (first, 1, 2)
        assert snapshot.instances[0].holds == (Hold(first, "job", (0,)),)
        assert await reader.allocation("gpu", second) is None
        listed = await reader.allocations("gpu", AllocationFilter(), after=0, limit=10)
        assert [view.allocation.allocation for view in listed.views] == [first]
        assert len((await reader.events("gpu", EventFilter(), after=0, limit=10)).events) == first
    async with story.store.reader() as reader:
        assert await reader.revision("gpu") == story.revision
        assert (await reader.snapshot("gpu", full=False, after=0, limit=10, now_us=7)).totals.busy_blocks == 2


async def test_a_reader_does_not_see_what_is_not_committed(story: Story) -> None:
    story.grant(("node-1", (0,)))
    with story.writing():
        async with story.store.reader() as reader:
            assert await reader.revision("gpu") == 3
            assert (await reader.snapshot("gpu", full=False, after=0, limit=1, now_us=7)).totals.busy_blocks == 0


async def test_evidence_shows_the_moment_it_was_pinned_also_in_another_thread(story: Story) -> None:
    kept = story.grant(("node-1", (0, 1)), ttl_us=1_000_000)
    ended = story.grant(("node-2", (3,)))
    story.release(ended)
    story.commit()
    evidence = story.store.open_evidence("gpu")
    revision, events = story.revision, list(story.events)
    held = story.allocation(kept)
    story.release(kept)
    story.remove("node-1")
    story.commit()

    def look() -> None:
        assert (evidence.revision, evidence.exists) == (revision, True)
        assert sorted(evidence.instances()) == [("node-1", 8, 2), ("node-2", 8, 0)]
        assert sorted(evidence.held_blocks()) == [("node-1", 0, kept), ("node-1", 1, kept)]
        assert list(evidence.live_allocations()) == [held]
        assert list(evidence.tokens_of_live_allocations()) == [(kept, kept)]
        assert list(evidence.events()) == events
        evidence.close()

    await asyncio.to_thread(look)


def test_evidence_of_a_deleted_and_of_an_unknown_fleet(story: Story) -> None:
    story.delete_fleet()
    story.commit()
    evidence = story.store.open_evidence("gpu")
    assert (evidence.exists, evidence.revision) == (False, 4)
    assert list(evidence.events()) == story.events
    evidence.close()
    unknown = story.store.open_evidence("cpu")
    assert (unknown.exists, unknown.revision) == (False, 0)
    unknown.close()


async def test_more_readers_than_there_may_be_wait_their_turn(story: Story) -> None:
    inside = 0
    most = 0

    async def read() -> int | None:
        nonlocal inside, most
        async with story.store.reader() as reader:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.001)
            found = await reader.revision("gpu")
            inside -= 1
            return found

    assert await asyncio.gather(*(read() for _ in range(40))) == [3] * 40
    assert 1 <= most <= 4


@pytest.mark.slow
async def test_readers_that_are_cancelled_give_their_place_back(story: Story) -> None:
    async def read() -> None:
        async with story.store.reader() as reader:
            for _ in range(100):
                await reader.snapshot("gpu", full=True, after=0, limit=10, now_us=7)

    threads = threading.active_count()
    for turn in range(30):
        task = asyncio.create_task(read())
        await asyncio.sleep(0.0003 * turn)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(30):
        for _ in range(8):
            async with story.store.reader() as reader:
                assert await reader.revision("gpu") == 3
    assert threading.active_count() <= threads + 8


async def test_an_unknown_fleet_has_nothing(store: Store) -> None:
    async with store.reader() as reader:
        assert await reader.revision("gpu") is None
        assert await reader.fleet("gpu") is None
        assert await reader.instance("gpu", "node-1") is None
        assert await reader.allocation("gpu", 1) is None
        assert not await reader.has_due_leases("gpu", 10**15)
        assert await reader.fleets_with_due_leases(10**15, 10) == []
        assert (await reader.instances("gpu", after=0, limit=10)).instances == ()


async def test_a_deleted_fleet_is_not_shown_but_has_its_revision_and_journal(story: Story) -> None:
    story.delete_fleet()
    story.commit()
    async with story.store.reader() as reader:
        assert await reader.fleet("gpu") is None
        assert await reader.revision("gpu") == 4
        assert (await reader.fleets(after="", limit=10)).fleets == ()
        assert (await reader.events("gpu", EventFilter(), after=0, limit=10)).events == tuple(story.events)


async def test_one_fleet_one_instance_one_allocation(story: Story) -> None:
    number = story.grant(("node-2", (0,)), ("node-1", (1, 2)), ttl_us=1_000_000)
    story.change("node-1", 8, InstanceState.OFFLINE)
    story.commit()
    async with story.store.reader() as reader:
        fleet = await reader.fleet("gpu")
        assert fleet is not None
        assert (fleet.fleet, fleet.revision, fleet.config_revision) == ("gpu", 5, 1)
        instance = await reader.instance("gpu", "node-1")
        assert instance is not None
        assert (instance.busy_blocks, instance.fields.state, instance.config_revision) == (2, "OFFLINE", 5)
        view = await reader.allocation("gpu", number)
        assert view is not None
        assert view.allocation == story.allocation(number)
        assert view.offline_instances == ("node-1",)
        totals = (await reader.snapshot("gpu", full=False, after=0, limit=10, now_us=7)).totals
        assert (totals.total_blocks, totals.busy_blocks, totals.idle_blocks) == (16, 3, 13)
        assert totals.acquirable_blocks == 7
    story.release(number)
    story.commit()
    async with story.store.reader() as reader:
        ended = await reader.allocation("gpu", number)
        assert ended is not None
        assert ended.offline_instances == ()


async def test_due_leases_are_found_by_fleet_and_for_all_fleets(story: Story) -> None:
    number = story.grant(("node-1", (0,)), ttl_us=1_000_000)
    story.commit()
    Story(story.store, "cpu").begin(node_1=8)
    expire_time_us = story.allocation(number).expire_time_us
    assert expire_time_us is not None
    async with story.store.reader() as reader:
        assert not await reader.has_due_leases("gpu", expire_time_us - 1)
        assert await reader.has_due_leases("gpu", expire_time_us)
        assert not await reader.has_due_leases("cpu", expire_time_us)
        assert await reader.fleets_with_due_leases(expire_time_us, 10) == ["gpu"]
        assert await reader.fleets_with_due_leases(expire_time_us - 1, 10) == []
    story.expire(number)
    story.commit()
    async with story.store.reader() as reader:
        assert not await reader.has_due_leases("gpu", expire_time_us)
