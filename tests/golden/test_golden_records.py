"""What earlier releases wrote is read by this one: rows of the journal, and whole databases with data in them."""

import dataclasses
import json
import lzma
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from blockyard import (
    AllocationEnded,
    AllocationState,
    AsyncClient,
    Client,
    InvariantViolated,
    PlacementStrategy,
    TokenCancelled,
    TokenMismatch,
)
from blockyard_server.domain.events import KINDS, Granted
from blockyard_server.engine.store_protocol import InvariantBroken
from blockyard_server.store.codec import decode_journal, encode_journal
from tests.conftest import PostgresOf
from tests.golden.story import CANCELLED, FLEETS, HELD, OVER, answers
from tests.harness.postgres import RELEASES
from tests.harness.process import ServerProcess

FOLDER: Final = Path(__file__).parent / "0.1.0"
ROWS: Final = [json.loads(line) for line in (FOLDER / "journal.jsonl").read_text("utf-8").splitlines()]
DATABASES: Final = {"sqlite": None} | {str(release): release for release in RELEASES}


def contains(actual: Any, expected: Any) -> bool:
    """Whether all that is expected is there. There may be more fields: a later release may have them."""
    if isinstance(expected, dict):
        return isinstance(actual, dict) and all(contains(actual.get(key), value) for key, value in expected.items())
    if isinstance(expected, list):
        return len(actual) == len(expected) and all(map(contains, actual, expected))
    return bool(actual == expected)


def plain(event: object) -> Any:
    """An event's fields as the golden file has them."""
    assert dataclasses.is_dataclass(event)
    assert not isinstance(event, type)
    return json.loads(
        json.dumps(dataclasses.asdict(event), default=lambda it: it.hex() if isinstance(it, bytes) else str(it))
    )


def test_there_is_a_row_of_every_kind() -> None:
    assert {row["row"][2] for row in ROWS} == KINDS_OF_0_1_0 <= set(KINDS)


KINDS_OF_0_1_0: Final = {
    "FLEET_CREATED", "FLEET_UPDATED", "FLEET_DELETED", "INSTANCE_CREATED", "INSTANCE_UPDATED", "INSTANCE_DELETED",
    "GRANTED", "RELEASED", "RENEWED", "EXPIRED", "TOKEN_CANCELLED", "LEASES_EXTENDED", "REPAIRED",
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["row"][2])
def test_a_row_of_the_journal_is_the_event_that_it_was(row: dict[str, Any]) -> None:
    event = decode_journal(row["row"])

    assert contains(plain(event), row["event"])
    assert decode_journal(encode_journal(event)) == event


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["row"][2])
def test_servers_of_that_release_read_the_same_row_out_of_what_this_one_writes(row: dict[str, Any]) -> None:
    """Every key that it asks for is there, in the form that it knows. (Server beside server: tests/upgrade.)"""
    written = encode_journal(decode_journal(row["row"]))

    assert written[:-1] == tuple(row["row"][:-1])
    assert contains(without_null(json.loads(written[-1])), without_null(json.loads(row["row"][-1])))


def without_null(body: Any) -> Any:
    """That release left out what a correction does not set, and reads null as that."""
    if isinstance(body, dict):
        return {key: without_null(value) for key, value in body.items() if value is not None}
    return [without_null(each) for each in body] if isinstance(body, list) else body


def granted() -> tuple[list[Any], dict[str, Any]]:
    """A golden grant: its row, and its body."""
    row = next(row["row"] for row in ROWS if row["row"][2] == "GRANTED" and "exclusive" in row["row"][-1])
    return row, json.loads(row[-1])


@pytest.mark.parametrize("field", ["exclusive", "annotations"])
def test_a_field_that_an_older_release_did_not_write_has_its_default(field: str) -> None:
    row, body = granted()
    del body[field]

    event = decode_journal([*row[:-1], json.dumps(body)])

    assert isinstance(event, Granted)
    defaults: dict[str, Any] = {"exclusive": (), "annotations": {}}
    assert event == replace(_event(row), **{field: defaults[field]})


def test_a_field_that_a_newer_release_added_is_ignored() -> None:
    row, body = granted()

    assert decode_journal([*row[:-1], json.dumps(body | {"reviewer": {"name": "who"}, "zone": 7})]) == _event(row)


def test_a_field_that_was_there_from_the_beginning_is_missed() -> None:
    row, body = granted()
    del body["placements"]

    with pytest.raises(InvariantBroken):
        decode_journal([*row[:-1], json.dumps(body)])


def _event(row: list[Any]) -> Granted:
    event = decode_journal(row)
    assert isinstance(event, Granted)
    return event


@pytest.fixture(params=DATABASES)
def restored(
    request: pytest.FixtureRequest, tmp_path: Path, postgres_of: PostgresOf
) -> Iterator[tuple[dict[str, Any], Any]]:
    """A golden database, with the settings of a server on it, and what the release that wrote it answered."""
    release = DATABASES[request.param]
    if release is None:
        data = tmp_path / "blockyard.db"
        data.write_bytes(lzma.decompress((FOLDER / "data.db.xz").read_bytes()))
        yield {"data": data}, _answered("sqlite")
        return
    running = postgres_of(release)
    url = running.fresh_database()
    dump = lzma.decompress((FOLDER / "postgres.sql.xz").read_bytes()).decode()
    with psycopg.connect(url, autocommit=True) as db:
        # What begins with a backslash is for psql alone.
        db.execute("\n".join(line for line in dump.splitlines() if not line.startswith("\\")).encode())
    yield {"database": url}, _answered("postgres")
    running.drop(url)


def _answered(database: str) -> Any:
    return json.loads(lzma.decompress((FOLDER / f"{database}.json.xz").read_bytes()))


OTHERWISE: Final[dict[str, dict[str, Any]]] = {
    "demands": {"blocks": 2},
    "ttl": {"ttl": 61},
    "annotations": {"annotations": {"a": "b"}},
    "placement_strategy": {"strategy": PlacementStrategy.WORST_FIT},
    "holder": {"holder": "another"},
}
"""What a repeated call may not change, by the field that the refusal names."""


@asynccontextmanager
async def upgraded(settings: dict[str, Any], folder: Path) -> AsyncIterator[str]:
    """The address of a server of this release on it."""
    with ServerProcess(folder / "server", audit_interval_s=0, **settings) as server:
        server.start()
        yield server.address
        assert server.terminate() == 0


def as_it_was(seen: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """What a start changes is left out: it extends leases, with one event for a fleet that has some."""
    for fleet, known in before.items():
        if fleet == "fleets":
            continue
        seen[fleet]["events"] = seen[fleet]["events"][: len(known["events"])]
    left: dict[str, Any] = _without_times_of_leases(seen)
    return left


def _without_times_of_leases(seen: Any) -> Any:
    if isinstance(seen, dict):
        left_out = {"expire_time", "revision"}
        return {
            key: _without_times_of_leases(value) for key, value in seen.items() if key not in left_out or "kind" in seen
        }
    return [_without_times_of_leases(each) for each in seen] if isinstance(seen, list) else seen


async def test_a_database_of_that_release_is_upgraded_and_answers_the_same(
    restored: tuple[dict[str, Any], Any], tmp_path: Path
) -> None:
    settings, before = restored
    async with upgraded(settings, tmp_path) as address:
        with Client(address) as client:
            seen = answers(client)

    assert seen["halted"]["clean"] is False
    assert all(seen[fleet]["clean"] for fleet in FLEETS if fleet != "halted")
    assert contains(as_it_was(seen, before), _without_times_of_leases(before))


async def test_its_tokens_are_replayed_and_its_allocations_go_on(
    restored: tuple[dict[str, Any], Any], tmp_path: Path
) -> None:
    settings, before = restored
    async with upgraded(settings, tmp_path) as address, AsyncClient(address) as client:
        for token, asked in HELD.items():
            known = next(a for a in before[asked["fleet"]]["allocations"] if a["holder"] == asked["holder"])
            again = await client.acquire(**asked, token=token)
            assert again.replayed
            assert again.allocation.name == known["name"]
            with pytest.raises(TokenMismatch) as refused:
                await client.acquire(**(asked | {"holder": "another"}), token=token)
            assert refused.value.metadata["fields"] == "holder"
            if again.allocation.ttl is not None:
                renewed = await client.renew(again.allocation, ttl=timedelta(days=360))
                assert renewed.allocation.name == known["name"]
            assert (await client.release(again.allocation)).allocation is not None
        for token, asked in OVER.items():
            (known,) = (a for a in before[asked["fleet"]]["allocations"] if a["holder"] == asked["holder"])
            if known["state"] == AllocationState.HELD:
                again = await client.acquire(**asked, token=token)
                assert again.replayed
                assert again.allocation.name == known["name"]
            else:
                with pytest.raises(AllocationEnded, match=known["name"]):
                    await client.acquire(**asked, token=token)
            for field, other in OTHERWISE.items():
                with pytest.raises(TokenMismatch) as refused:
                    await client.acquire(**(asked | other), token=token)
                assert refused.value.metadata["fields"] == field
        with pytest.raises(TokenCancelled):
            await client.acquire("gpu", blocks=1, holder="too late", token=CANCELLED)
        for fleet in sorted({asked["fleet"] for asked in HELD.values()}):
            grant = await client.acquire(fleet, blocks=1, holder="after the upgrade")
            assert not grant.replayed
            assert (await client.verify(fleet)).clean
        with pytest.raises(InvariantViolated):
            await client.acquire("halted", blocks=1, holder="after the upgrade")
