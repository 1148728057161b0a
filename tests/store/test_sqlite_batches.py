"""However a history is cut into batches, the rows are the same in the end; and loading them takes little memory."""

import random
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest

from blockyard_server.domain.allocation import AllocationState
from blockyard_server.domain.blocks import to_blocks
from blockyard_server.domain.events import KINDS
from blockyard_server.domain.requests import FleetFields
from blockyard_server.store.sqlite.store import SqliteStore
from tests.store.story import Story

STEPS = 150
SEEDS = range(8)


class Rambler:
    """Makes a random history that keeps the rules, with its own idea of which blocks are idle."""

    def __init__(self, story: Story, seed: int) -> None:
        self.story = story
        self.chance = random.Random(seed)
        self.idle: dict[str, set[int]] = {}
        self.held: list[int] = []
        self.there = False

    def step(self) -> None:
        """One event."""
        if not self.there:
            self.story.create_fleet()
            self.there = True
        elif not self.held and self.chance.random() < 0.1:
            self.story.delete_fleet()
            self.idle, self.there = {}, False
        else:
            acts = [self.grant, self.free, self.renew, self.cancel, self.extend, self.instance, self.update]
            self.chance.choices(acts, [8, 6, 2, 1, 1, 3, 1])[0]()

    def grant(self) -> None:
        free = [name for name, blocks in self.idle.items() if blocks]
        if not free:
            return self.cancel()
        placements = []
        for name in self.chance.sample(free, self.chance.randint(1, min(2, len(free)))):
            blocks = sorted(self.chance.sample(sorted(self.idle[name]), self.chance.randint(1, len(self.idle[name]))))
            self.idle[name].difference_update(blocks)
            placements.append((name, tuple(blocks)))
        ttl_us = self.chance.choice([None, 5_000_000])
        self.held.append(self.story.grant(*placements, holder=self.chance.choice("ab"), ttl_us=ttl_us))
        return None

    def free(self) -> None:
        if not self.held:
            return self.grant()
        number = self.chance.choice(self.held)
        allocation = self.story.allocation(number)
        freed = allocation.placements
        if self.chance.random() < 0.4:
            freed = freed[:1]
            self.story.release(number, freed)
        elif allocation.ttl_us is not None:
            self.story.expire(number)
        else:
            self.story.release(number)
        for name, blocks in freed:
            self.idle[name].update(blocks)
        if freed == allocation.placements:
            self.held.remove(number)
        return None

    def renew(self) -> None:
        leases = [number for number in self.held if self.story.allocation(number).ttl_us is not None]
        if leases:
            self.story.renew(self.chance.choice(leases), 9_000_000)
        else:
            self.cancel()

    def cancel(self) -> None:
        self.story.cancel(f"cancelled-{self.story.revision}")

    def extend(self) -> None:
        self.story.extend_leases(self.story.now_us + 3_000_000)

    def update(self) -> None:
        self.story.update_fleet(FleetFields({"revision": str(self.story.revision)}))

    def instance(self) -> None:
        name = f"node-{self.chance.randint(1, 4)}"
        if name not in self.idle:
            self.story.add(name, 8)
            self.idle[name] = set(range(8))
        elif self.chance.random() < 0.5:
            total = max({7, *(block + 1 for block in range(16) if block in self._held_on(name))})
            known = self.idle[name] | self._held_on(name)
            self.story.change(name, total)
            self.idle[name] = (self.idle[name] | set(range(total)) - known) & set(range(total))
        elif not self._held_on(name):
            self.story.remove(name)
            del self.idle[name]
        else:
            self.cancel()

    def _held_on(self, name: str) -> set[int]:
        held = [self.story.allocation(number).placements for number in self.held]
        return {block for placements in held for instance, blocks in placements if instance == name for block in blocks}


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with closing(sqlite3.connect(path)) as db:
        tables = ("fleets", "instances", "allocations", "held_blocks", "tokens", "journal")
        return {table: db.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3").fetchall() for table in tables}  # noqa: S608 - names from above


async def written(path: Path, seed: int, most: int) -> Story:
    """A history of STEPS steps, written in batches of 1 to `most` events."""
    store = SqliteStore(path)
    store.open()
    store._connected().execute("PRAGMA synchronous = OFF")
    story = Story(store)
    rambler = Rambler(story, seed)
    cuts = random.Random(most)
    until = cuts.randint(1, most)
    for _ in range(STEPS):
        rambler.step()
        if len(story.pending) >= until:
            story.commit()
            until = cuts.randint(1, most)
    story.commit()
    with store.transaction("gpu") as transaction:
        found = transaction.allocations(list(story.records.allocations))
        assert found == story.records.allocations
        for row in transaction.load_instances():
            assert row.record.busy_blocks == row.busy.bit_count()
            assert set(to_blocks(row.busy)) == rambler._held_on(row.record.instance)
    await store.close()
    return story


def test_the_histories_have_everything_in_them(sqlite: SqliteStore) -> None:
    kinds: set[str] = set()
    states: set[AllocationState] = set()
    for seed in SEEDS:
        rambler = Rambler(Story(sqlite), seed)
        for _ in range(STEPS):
            rambler.step()
        kinds |= {event.kind for event in rambler.story.events}
        states |= {allocation.state for allocation in rambler.story.records.allocations.values()}
    assert kinds == set(KINDS) - {"REPAIRED", "RESTORED"}, "a repair and a restore have stories of their own"
    assert states == set(AllocationState)


@pytest.mark.parametrize("seed", SEEDS)
async def test_one_event_at_a_time_or_many_the_rows_are_the_same(tmp_path: Path, seed: int) -> None:
    story = await written(tmp_path / "one.db", seed, 1)
    assert len(story.events) == STEPS
    expected = rows(tmp_path / "one.db")
    for most in (7, 60, 1000):
        await written(tmp_path / f"{most}.db", seed, most)
        assert rows(tmp_path / f"{most}.db") == expected


def test_loading_takes_memory_by_the_instance_and_not_by_the_held_block(sqlite: SqliteStore) -> None:
    story = Story(sqlite).begin(**{f"node_{index}": 4096 for index in range(12)})
    everything = tuple((f"node-{index}", tuple(range(4096))) for index in range(12))
    for part in (everything[:4], everything[4:8], everything[8:]):
        story.grant(*part)
    story.commit()
    with sqlite.transaction("gpu") as transaction:
        transaction.load_instances()
        tracemalloc.start()
        loaded = transaction.load_instances()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert [row.busy for row in loaded] == [(1 << 4096) - 1] * 12
    # 49,152 rows in a list would be 6 MB and more; one instance's blocks at a time are less than half of one.
    assert peak < 1_000_000
