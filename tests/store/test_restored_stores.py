"""What a restore does to the rows of each store, and what shows a database that was restored without it."""

import asyncio
from typing import Final

import psycopg

from blockyard_server.domain.events import FleetCreated, Restored
from blockyard_server.domain.requests import FleetFields
from blockyard_server.engine.restore import restore_alone, restored
from blockyard_server.engine.store_protocol import Store
from blockyard_server.store.postgres.store import PostgresStore
from tests.harness.postgres import Postgres
from tests.store.conftest import ALSO_IN_MEMORY, opened
from tests.store.story import Story

NOW_US: Final = 1_800_000_000_000_000


@ALSO_IN_MEMORY
def test_a_fleet_goes_on_behind_the_skip_with_the_event_alone_in_its_journal(store: Store, story: Story) -> None:
    story.grant(("node-1", (0, 1)))
    story.commit()
    before = story.revision

    report = restored(store, NOW_US, None)

    after = report.fleets["gpu"].revision
    with store.transaction("gpu") as tx:
        assert tx.head is not None
        assert (tx.head.revision, tx.head.format) == (after, 2)
        [event] = tx.events_after(0, 10)
        assert isinstance(event, Restored)
        assert (event.revision, event.backup_revision, event.epoch) == (after, before, 1)
    evidence = store.open_evidence("gpu")
    assert (evidence.revision, evidence.compacted_revision) == (after, after - 1)
    assert len(list(evidence.held_blocks())) == 2
    evidence.close()
    assert store.why_restored() is None


@ALSO_IN_MEMORY
def test_a_new_fleet_begins_behind_the_skip_and_its_journal_has_no_gap(store: Store) -> None:
    first = restored(store, NOW_US, None).first_revision
    with store.transaction("new") as tx:
        assert tx.first_revision() == first
        tx.write([FleetCreated(first + 1, NOW_US, FleetFields())], {})
    evidence = store.open_evidence("new")
    assert (evidence.revision, evidence.compacted_revision) == (first + 1, first)
    assert [event.revision for event in evidence.events()] == [first + 1]
    evidence.close()


async def test_a_database_that_was_used_in_another_postgresql_is_noticed(postgres: Postgres, database: str) -> None:
    async with opened(PostgresStore(database)) as store:
        assert await asyncio.to_thread(store.why_restored) is None
        with psycopg.connect(database) as db:
            [(system,)] = db.execute("SELECT system_identifier FROM origin").fetchall()
            assert system, f"{postgres} does not say which one it is"
            db.execute("UPDATE origin SET system_identifier = '1'")
        why = await asyncio.to_thread(store.why_restored)
        assert why is not None
        assert f"system_identifier 1, and this one's is {system}" in why

        await restore_alone(store, NOW_US, None)

        assert await asyncio.to_thread(store.why_restored) is None
