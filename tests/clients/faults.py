"""How a client comes by each failure of the server's own: what is done to a real server process from outside.

Nothing in the server is replaced: somebody else locks its file, writes into it, asks too much of it, or stops it.
"""

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from blockyard import Client
from blockyard.reasons import Reason
from tests.clients.real_client import PATIENCE_S, Refusal
from tests.clients.refusals import Seen, Story
from tests.clients.stage import BLOCKS, Stage

SETTINGS: Final[dict[Reason, dict[str, int]]] = {Reason.OVERLOADED: {"max_waiting": 1}}
"""What the server of a story is started with."""
COMPANY: Final = 4
"""One request that the writer has taken, one that may wait, and more."""
LARGE_EVENTS: Final = 1500
LARGE_LABELS: Final = {f"key-{number:02}": "x" * 250 for number in range(63)}
"""An event with these has 16 KiB."""
PAGE_BYTES: Final = 4096
UNREAD_S: Final = 15
"""The server gives up after 10 seconds."""


def more_requests_than_may_wait(stage: Stage) -> Seen:
    while True:
        with locked(stage.server.data):
            company = [
                stage.client.submit("Allocator/Acquire", stage.acquiring(1, validate_only=True)) for _ in range(COMPANY)
            ]
            first = next(as_completed(company, PATIENCE_S)).exception(0)
        for late in as_completed(company, PATIENCE_S):
            late.exception(0)
        assert isinstance(first, Refusal), f"with the file locked, an Acquire came to {first!r}"
        # The lock is given up on after a while: on a very slow machine, before the queue was full.
        if first.reason != Reason.STORE_UNAVAILABLE:
            return Seen(first, {"maximum": "1"}, "google.rpc.RetryInfo")


def a_stop_while_a_stream_is_open(stage: Stage) -> Seen:
    watch = stage.client.watch_health()
    assert watch.first_state() == "SERVING"
    assert stage.server.terminate() == 0
    ended = watch.ended()
    assert ended.states == ["SERVING", "NOT_SERVING"], ended
    return Seen(ended.refusal, {}, "google.rpc.RetryInfo")


def a_file_that_somebody_else_has_locked(stage: Stage) -> Seen:
    request = stage.acquiring(1)
    with locked(stage.server.data):
        refusal = stage.client.refusal("Allocator/Acquire", request)
    assert "replayed" not in stage.client.call("Allocator/Acquire", request), "it was granted though it was refused"
    return Seen(refusal, {}, "google.rpc.RetryInfo")


def a_block_that_is_held_by_nobody_the_server_knows(stage: Stage) -> Seen:
    with database(stage.server.data) as db:
        db.execute(
            "INSERT INTO held_blocks (fleet, instance, block, allocation) VALUES (?, 'node-1', 0, 999)",
            (stage.fleet_id,),
        )
    refusal = stage.client.refusal("Allocator/Acquire", stage.acquiring(1))
    # From now on the fleet refuses every write, also one that the database would take.
    again = stage.client.refusal("Allocator/Acquire", stage.acquiring(BLOCKS - 1))
    assert (again.status, again.reason) == (refusal.status, refusal.reason)
    return Seen(refusal, {"fleet": stage.fleet})


def a_record_that_cannot_be_sent(stage: Stage) -> Seen:
    secret = "neither this nor its cause reaches a client"
    with database(stage.server.data) as db:
        # It can be read, but no int64 holds it.
        db.execute("UPDATE instances SET resources = ? WHERE fleet = ?", (f'{{"{secret}": {2**64}}}', stage.fleet_id))
    refusal = stage.client.refusal("FleetAdmin/GetInstance", {"name": f"{stage.fleet}/instances/node-1"})
    shown = str(refusal)
    assert not [word for word in (secret, "out of range", "Error(", "Traceback", str(2**64)) if word in shown]
    incident = refusal.error_info["metadata"]["incident"]
    assert f"incident {incident}" in stage.server.errors()
    return Seen(refusal, {"incident": incident})


def a_journal_whose_beginning_was_forgotten(stage: Stage) -> Seen:
    with database(stage.server.data) as db:
        db.execute("UPDATE fleets SET compacted_revision = 1 WHERE fleet = ?", (stage.fleet_id,))
        db.execute("DELETE FROM journal WHERE fleet = ? AND revision = 1", (stage.fleet_id,))
    listed = stage.refused("Ledger/ListEvents", parent=stage.fleet, from_revision="1")
    _, refusal = stage.client.watch({"fleet": stage.fleet, "from_revision": "1"}).rest()
    assert (listed.reason, listed.details) == (refusal.reason, refusal.details)
    kept = stage.client.watch({"fleet": stage.fleet, "from_revision": "2"})
    assert kept.next()["revision"] == "1"
    kept.close()
    metadata = {"fleet": stage.fleet, "from_revision": "1", "oldest_revision": "2"}
    return Seen(refusal, metadata, "google.rpc.ResourceInfo")


def a_watch_that_is_not_read(stage: Stage) -> Seen:
    """More than any client takes unread: gRPC lets the window of one grow to 16 MiB."""
    with Client(stage.server.address) as ours:
        for number in range(LARGE_EVENTS):
            ours.update_instance(stage.fleet_id, "node-1", labels={**LARGE_LABELS, "number": str(number)})
    watch = stage.client.watch({"fleet": stage.fleet, "from_revision": "1"})
    # A mark without events; grpcurl leaves a revision of 0 out.
    assert "events" not in watch.next()
    watch.stop_reading()
    time.sleep(UNREAD_S)
    answers, refusal = watch.rest()

    revisions = [int(event["revision"]) for answer in answers for event in answer["events"]]
    last = answers[-1]["revision"]
    assert revisions == list(range(1, int(last) + 1))
    assert int(last) < LARGE_EVENTS, "it was sent everything"
    return Seen(refusal, {"fleet": stage.fleet, "revision": last})


def a_file_of_which_only_the_first_page_is_left(stage: Stage) -> Seen:
    with database(stage.server.data) as db:
        assert db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    with stage.server.data.open("r+b") as file:
        pages = file.read()[PAGE_BYTES:]
        file.seek(PAGE_BYTES)
        file.write(bytes(len(pages)))
    refusal = stage.client.refusal("Ledger/Verify", {"fleet": stage.fleet})
    again = stage.client.refusal("Allocator/Acquire", stage.acquiring(1))
    assert (again.status, again.reason) == (refusal.status, refusal.reason)
    return Seen(refusal, {})


def a_fleet_that_a_newer_server_has_raised(stage: Stage) -> Seen:
    with database(stage.server.data) as db:
        db.execute("UPDATE fleets SET format = 1000000")
    refusal = stage.client.refusal("Allocator/Acquire", stage.acquiring(1))
    for method in ("Ledger/Verify", "Allocator/Describe"):
        again = stage.client.refusal(method, {"fleet": stage.fleet})
        assert (again.status, again.reason) == (refusal.status, refusal.reason)
    return Seen(refusal, {"fleet": stage.fleet, "format": "1000000"}, "google.rpc.RetryInfo")


@contextmanager
def database(data: Path) -> Iterator[sqlite3.Connection]:
    """The server's file, open for somebody who is not the server. Committed at the end."""
    with closing(sqlite3.connect(data, isolation_level=None, timeout=PATIENCE_S)) as db:
        yield db


@contextmanager
def locked(data: Path) -> Iterator[None]:
    """Nobody else can write to the file while the block runs."""
    with database(data) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


FAULTS: Final[dict[Reason, Story]] = {
    Reason.OVERLOADED: more_requests_than_may_wait,
    Reason.SHUTTING_DOWN: a_stop_while_a_stream_is_open,
    Reason.STORE_UNAVAILABLE: a_file_that_somebody_else_has_locked,
    Reason.INVARIANT_VIOLATED: a_block_that_is_held_by_nobody_the_server_knows,
    Reason.INTERNAL_ERROR: a_record_that_cannot_be_sent,
    Reason.COMPACTED: a_journal_whose_beginning_was_forgotten,
    Reason.WATCHER_TOO_SLOW: a_watch_that_is_not_read,
    Reason.FLEET_FORMAT_TOO_NEW: a_fleet_that_a_newer_server_has_raised,
    Reason.STORE_DAMAGED: a_file_of_which_only_the_first_page_is_left,
}
"""Reasons that are the server's own trouble. Each story spoils its server: it needs one of its own."""
