"""Two writers on one database. The lock file keeps them apart on SQLite; without it nothing may be lost all the same.

Servers that share a database will meet like this, and memory must be exact whenever a writer has the fleet's lock.
"""

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from blockyard_server.domain.answers import Grant
from blockyard_server.domain.requests import Acquire, CreateFleet, CreateInstance, Demand, FleetFields, InstanceFields
from blockyard_server.engine.batch import Outcome
from blockyard_server.engine.clock import SystemClock
from blockyard_server.engine.failures import StoreUnavailable
from blockyard_server.engine.transactor import Transactor
from blockyard_server.engine.verify import audit
from blockyard_server.store.sqlite.data_file import DataFile
from tests.harness.disturbed_store import Disturbance, DisturbedStore

FLEET = "gpu"
TURNS = 20


class SharedFile(DataFile):
    """A data file that two stores of one process may have."""

    def _take_lock_file(self) -> None:
        pass

    def _locked_descriptor(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT)


class SharedStore(DisturbedStore):
    """The store without its locks."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file = SharedFile(self.path)


@dataclass
class Writer:
    """One of the two: a connection and a memory of its own."""

    store: SharedStore
    transactor: Transactor

    def acquire(self, token: str, *, blocks: int = 1, instance: str | None = None) -> Outcome:
        demand = Demand(blocks=blocks, instance_names=(instance,) if instance else ())
        (outcome,) = self.transactor.carry_out(FLEET, [Acquire(FLEET, "default", token, "job", (demand,))])
        return outcome

    def verified(self) -> bool:
        return audit(FLEET, self.transactor.snapshot(FLEET)).clean


@pytest.fixture
async def writers(tmp_path: Path) -> AsyncIterator[tuple[Writer, Writer]]:
    """Two writers that both know a fleet of two instances with twenty blocks each."""
    stores = [SharedStore(tmp_path / "blockyard.db") for _ in range(2)]
    for store in stores:
        store.open()
    first, second = (Writer(store, Transactor(store, SystemClock())) for store in stores)
    fields = InstanceFields(TURNS)
    first.transactor.carry_out(FLEET, [CreateFleet(FLEET, FleetFields())])
    first.transactor.carry_out(FLEET, [CreateInstance(FLEET, name, fields) for name in ("node-1", "node-2")])
    second.transactor.load(FLEET)
    yield first, second
    for store in stores:
        await store.close()


async def test_two_writers_at_once_grant_every_block_once_and_are_never_kept_out(
    writers: tuple[Writer, Writer],
) -> None:
    def grant_all(writer: Writer, name: str) -> list[Outcome]:
        return [writer.acquire(f"{name}-{turn}") for turn in range(TURNS)]

    both = (asyncio.to_thread(grant_all, writer, name) for writer, name in zip(writers, "ab", strict=True))
    # Both end before either store is closed, also when one fails.
    parts = await asyncio.gather(*both, return_exceptions=True)
    outcomes = [outcome for part in parts if not isinstance(part, BaseException) for outcome in part]
    grants = [outcome for outcome in outcomes if isinstance(outcome, Grant)]
    assert len(grants) == 2 * TURNS, parts
    assert len({grant.view.allocation.placements for grant in grants}) == 2 * TURNS
    assert all(writer.verified() for writer in writers)


def test_from_its_first_look_on_a_transaction_has_the_fleet_for_itself(writers: tuple[Writer, Writer]) -> None:
    first, _ = writers
    with first.store.transaction(FLEET) as transaction, closing(_another_program(first.store.path)) as other:
        assert transaction.head is not None, "it has looked, and written nothing yet"
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
    with closing(_another_program(first.store.path)) as other:
        other.execute("BEGIN IMMEDIATE")


def _another_program(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=0)


def test_a_token_that_one_writer_granted_is_a_replay_at_the_other(writers: tuple[Writer, Writer]) -> None:
    first, second = writers
    granted = first.acquire("intent")
    again = second.acquire("intent")
    assert isinstance(granted, Grant)
    assert isinstance(again, Grant)
    assert again.replayed
    assert again.view == granted.view


def test_what_a_failed_commit_left_in_memory_is_not_taken_for_what_the_other_committed(
    writers: tuple[Writer, Writer],
) -> None:
    """The failed grant and the other writer's grant have the same revision, and are not the same."""
    first, second = writers
    first.acquire("before")
    first.store.disturbances.append(Disturbance.FAILS)
    with pytest.raises(StoreUnavailable):
        first.acquire("fails", instance="node-2", blocks=TURNS)
    assert isinstance(second.acquire("other", instance="node-1"), Grant)

    assert isinstance(first.acquire("after", instance="node-2", blocks=TURNS), Grant), "node-2 is idle"
    assert all(writer.verified() for writer in writers)
