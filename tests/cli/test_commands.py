"""The commands for people and programs, against a real server."""

import json
import signal
import socket
import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blockyard import AllocationState, Client, Event, EventKind, InstanceState
from blockyard.cli.events import describe_event
from tests.cli.conftest import COMMAND, CommandLine, serving


def test_a_fleet_is_created_shown_changed_and_deleted(blockyard: CommandLine) -> None:
    made = blockyard("fleet", "create", "pool", "--label", "team=ml", "--default-ttl", "30s", "-o", "json").document
    again = blockyard("fleet", "create", "pool", "--label", "team=ml", "--default-ttl", "30s", "-o", "json").document
    assert (made["name"], made["labels"], made["default_ttl"]) == ("fleets/pool", {"team": "ml"}, "30s")
    assert made["default_placement_strategy"] == "BEST_FIT"
    assert again["etag"] == made["etag"]

    listed = blockyard("fleet", "list", "-o", "json").document["fleets"]
    assert made["name"] in [fleet["name"] for fleet in listed]

    changed = blockyard(
        *("fleet", "update", "pool", "--strategy", "worst_fit", "--default-ttl", "none", "-o", "json")
    ).document
    assert (changed["default_placement_strategy"], changed["default_ttl"]) == ("WORST_FIT", None)
    assert changed["labels"] == {"team": "ml"}
    stale = blockyard("fleet", "update", "pool", "--no-labels", "--etag", made["etag"])
    assert (stale.code, "ETAG_MISMATCH" in stale.err) == (1, True)
    assert "labels       -" in blockyard("fleet", "update", "pool", "--no-labels").out

    assert blockyard("fleet", "delete", "pool", "-o", "json").document == {"deleted": "pool"}
    gone = blockyard("fleet", "get", "pool")
    assert gone.code == 1
    assert gone.err.startswith("Error (FLEET_NOT_FOUND): ")
    assert "Next: `blockyard fleet list`" in gone.err


def test_a_fleet_says_what_an_acquire_without_a_lease_gets(blockyard: CommandLine) -> None:
    assert "default ttl  none: held until released\n" in blockyard("fleet", "create", "leases").out
    assert "default ttl  none: the max ttl\n" in blockyard("fleet", "update", "leases", "--max-ttl", "1h").out
    assert "default ttl  10m\n" in blockyard("fleet", "update", "leases", "--default-ttl", "10m").out


def test_an_instance_is_registered_changed_cordoned_and_deleted(blockyard: CommandLine, fleet: str) -> None:
    made = blockyard(
        *("instance", "create", fleet, "node-2", "--blocks", "4", "--label", "gpu=h100", "--resource", "gpu=4"),
        *("-o", "json"),
    ).document
    assert made["name"] == f"fleets/{fleet}/instances/node-2"
    assert (made["total_blocks"], made["idle_blocks"], made["busy_blocks"]) == (4, 4, 0)
    assert (made["labels"], made["resources"], made["state"]) == ({"gpu": "h100"}, {"gpu": 4}, "ACTIVE")

    assert "0 of 8 busy" in blockyard("instance", "update", fleet, "node-2", "-b", "8").out
    assert "is CORDONED" in blockyard("instance", "cordon", fleet, "node-2").out
    assert "is ACTIVE" in blockyard("instance", "uncordon", fleet, "node-2").out
    assert "is OFFLINE" in blockyard("instance", "update", fleet, "node-2", "--state", "offline").out

    table = blockyard("instance", "list", fleet).out.splitlines()
    assert table[0].split() == ["INSTANCE", "STATE", "BLOCKS", "BUSY", "IDLE", "LABELS", "RESOURCES"]
    assert table[2].split() == ["node-2", "OFFLINE", "8", "0", "8", "gpu=h100", "gpu=4"]

    assert blockyard("instance", "delete", fleet, "node-2").out == f"Deleted node-2 of {fleet}.\n"
    assert "INSTANCE_NOT_FOUND" in blockyard("instance", "get", fleet, "node-2").err


def test_an_update_that_changes_nothing_is_refused_before_it_is_sent(blockyard: CommandLine) -> None:
    for noun in (("fleet", "update", "f"), ("instance", "update", "f", "i")):
        refused = blockyard(*noun)
        assert (refused.code, refused.err.startswith("Error: Nothing to change")) == (2, True)


def test_blocks_are_acquired_renewed_and_released(blockyard: CommandLine, client: Client, fleet: str) -> None:
    acquire = ("acquire", "--fleet", fleet, "--blocks", "2", "--holder", "me", "--token", "t", "--ttl", "60s")
    grant = blockyard(*acquire, "--annotate", "why=test", "-o", "json").document
    allocation = grant["allocation"]
    assert set(grant) == {"allocation", "revision", "server_time", "replayed"}
    assert allocation["placements"] == [{"instance": "node-1", "blocks": [0, 1]}]
    assert (allocation["holder"], allocation["ttl"], allocation["annotations"]) == ("me", "60s", {"why": "test"})
    assert (allocation["fencing_token"], grant["replayed"]) == (grant["revision"], False)

    again = blockyard(*acquire, "--annotate", "why=test")
    assert "as recorded before" in again.out
    mismatch = blockyard(*acquire)
    assert (mismatch.code, "TOKEN_MISMATCH" in mismatch.err) == (1, True)

    renewal = blockyard("renew", allocation["name"], "--ttl", "2h", "-o", "json").document
    assert renewal["allocation"]["expire_time"] > allocation["expire_time"]
    assert "is held until" in blockyard("renew", allocation["name"]).out

    short_name = f"{fleet}/{allocation['fencing_token']}"
    assert "NOT_HOLDER" in blockyard("release", short_name, "--holder", "you").err
    assert "STALE_FENCING_TOKEN" in blockyard("release", short_name, "--fencing-token", "1").err
    part = blockyard("release", short_name, "--block", "node-1:1")
    assert part.out == f"Released a part of {allocation['name']}; still held: node-1:0.\n"
    assert blockyard("release", short_name, "-o", "json").document["outcome"] == "RELEASED"
    assert "had been released before" in blockyard("release", short_name).out
    assert client.describe(fleet).totals.busy_blocks == 0


def test_a_release_by_token_cancels_an_acquire(blockyard: CommandLine, fleet: str) -> None:
    closed = blockyard("release", "--fleet", fleet, "--token", "late")
    assert closed.code == 0
    assert "an acquire that arrives late with it is refused" in closed.out

    late = blockyard("acquire", "--fleet", fleet, "--token", "late")
    assert (late.code, "TOKEN_CANCELLED" in late.err) == (1, True)
    other_caller = blockyard("acquire", "--fleet", fleet, "--token", "late", "--caller", "somebody-else")
    assert other_caller.code == 0


@pytest.mark.parametrize(
    ("options", "blocks"),
    [
        ((), [0]),
        (("--require", "gpu=3"), [0, 1, 2]),
        (("--exclusive",), list(range(8))),
        (("--exclusive", "--blocks", "4"), list(range(8))),
        (("--blocks", "2", "--match", "gpu=a100"), [0, 1]),
        (("--blocks", "2", "--where", "gpu in (a100,h100), !spot", "--on", "node-1"), [0, 1]),
        (("--blocks", "1", "--strategy", "FIRST_FIT"), [0]),
    ],
)
def test_a_dry_run_says_what_would_be_granted_and_takes_nothing(
    blockyard: CommandLine, client: Client, fleet: str, options: tuple[str, ...], blocks: list[int]
) -> None:
    answer = blockyard("acquire", "--fleet", fleet, "--dry-run", "-o", "json", *options)

    assert answer.code == 0, answer.err
    assert answer.document["allocation"]["placements"] == [{"instance": "node-1", "blocks": blocks}]
    assert answer.document["allocation"]["name"] == ""
    assert client.describe(fleet).totals.busy_blocks == 0


def test_what_fits_but_not_now_has_an_exit_code_of_its_own(blockyard: CommandLine, client: Client, fleet: str) -> None:
    client.acquire(fleet, blocks=7, holder="x")

    refused = blockyard("acquire", "--fleet", fleet, "--blocks", "2", "-o", "json")

    assert (refused.code, refused.out) == (4, "")
    error = json.loads(refused.err)["error"]
    assert (error["reason"], error["status"], error["exit_code"]) == ("NO_CAPACITY", "RESOURCE_EXHAUSTED", 4)
    assert error["metadata"]["idle_blocks"] == "1"


def test_what_could_never_fit_says_so(blockyard: CommandLine, fleet: str) -> None:
    for options in (("--blocks", "9"), ("--match", "gpu=h100"), ("--on", "nowhere"), ("--require", "tpu=1")):
        refused = blockyard("acquire", "--fleet", fleet, *options)
        assert (refused.code, refused.err.startswith("Error (UNSATISFIABLE): ")) == (1, True)


def test_describe_draws_each_block_and_names_each_holder(blockyard: CommandLine, client: Client, fleet: str) -> None:
    client.acquire(fleet, blocks=2, holder="train")
    client.acquire(fleet, blocks=1, holder="eval")
    client.create_instance(fleet, "node-2", total_blocks=4, state=InstanceState.CORDONED)

    text = blockyard("describe", fleet).out

    revision = client.get_fleet(fleet).revision
    assert text.splitlines() == [
        f"{fleet} at revision {revision}: 3 of 12 blocks busy, 9 idle (4 of them not acquirable)",
        "",
        "node-1  AAB·····  3 of 8 busy",
        "node-2  ----      0 of 4 busy  CORDONED",
        "",
        "A train (2)  B eval (1)",
        "· idle  - idle, but takes no new grants",
    ]


def test_describe_as_json_has_the_totals_and_every_hold(blockyard: CommandLine, client: Client, fleet: str) -> None:
    grant = client.acquire(fleet, blocks=2, holder="train")

    snapshot = blockyard("describe", fleet, "--output", "json").document

    assert set(snapshot) == {"fleet", "revision", "totals", "instances", "server_time", "consistent"}
    assert snapshot["totals"] == {
        "instances": 1,
        "total_blocks": 8,
        "busy_blocks": 2,
        "idle_blocks": 6,
        "acquirable_blocks": 6,
    }
    [node] = snapshot["instances"]
    assert node["holds"] == [{"allocation": grant.allocation.name, "holder": "train", "blocks": [0, 1]}]


def test_describe_has_colours_where_they_are_asked_for(blockyard: CommandLine, client: Client, fleet: str) -> None:
    client.acquire(fleet, blocks=1, holder="train")

    coloured = blockyard("describe", fleet, environment={"FORCE_COLOR": "1"}).out

    assert "\x1b[" in coloured
    assert "\x1b[" not in blockyard("describe", fleet).out


def test_describe_is_ascii_where_the_output_is(blockyard: CommandLine, fleet: str) -> None:
    drawn = blockyard("describe", fleet, encoding="ascii")

    assert (drawn.code, "node-1  ........  0 of 8 busy" in drawn.out) == (0, True)


def test_allocations_are_listed_by_holder_state_and_instance(
    blockyard: CommandLine, client: Client, fleet: str
) -> None:
    first = client.acquire(fleet, blocks=1, holder="a").allocation
    second = client.acquire(fleet, blocks=1, holder="b").allocation
    client.release(first)

    def names(*options: str) -> list[str]:
        found = blockyard("allocations", fleet, "-o", "json", *options).document["allocations"]
        return [allocation["name"] for allocation in found]

    assert names() == [first.name, second.name]
    assert names("--holder", "b") == [second.name]
    assert names("--state", "released") == [first.name]
    assert names("--instance", "node-1", "--state", "HELD") == [second.name]
    assert blockyard("allocations", fleet, "--holder", "nobody").out == "No such allocations.\n"

    text = blockyard("allocation", first.name).out
    assert f"{first.name} is RELEASED" in text
    assert blockyard("allocation", second.name, "-o", "json").document["state"] == AllocationState.HELD


def test_events_are_one_for_each_revision(blockyard: CommandLine, client: Client, fleet: str) -> None:
    allocation = client.acquire(fleet, blocks=2, holder="me").allocation
    client.release(allocation)

    events = blockyard("events", fleet, "-o", "json").document["events"]

    assert [event["kind"] for event in events] == ["FLEET_CREATED", "INSTANCE_CREATED", "GRANTED", "RELEASED"]
    revisions = [event["revision"] for event in events]
    assert revisions == list(range(revisions[0], revisions[0] + 4))
    assert events[2]["placements"] == [{"instance": "node-1", "blocks": [0, 1]}]
    last = blockyard("events", fleet, "--from", str(revisions[2]), "--kind", "granted", "--limit", "1").out
    assert last.splitlines()[1].split()[3:] == ["GRANTED", allocation.name, "of", "me", "node-1:0-1"]


def test_events_say_where_the_journal_begins_if_its_beginning_is_gone(tmp_path: Path) -> None:
    data = tmp_path / "blockyard.db"
    with serving(data) as address:
        blockyard = CommandLine(address)
        with Client(address) as client:
            client.create_fleet("gpu")
            client.create_instance("gpu", "node-1", total_blocks=8)
            client.acquire("gpu", blocks=1, holder="me")
        whole = blockyard("events", "gpu", "--kind", "granted")
        with closing(sqlite3.connect(data)) as hand, hand:
            hand.execute("UPDATE fleets SET compacted_revision = 1 WHERE fleet = 'gpu'")
            hand.execute("DELETE FROM journal WHERE fleet = 'gpu' AND revision = 1")
        cut, asked = blockyard("events", "gpu", "--kind", "granted"), blockyard("events", "gpu", "--from", "2")

    assert (whole.code, whole.err) == (0, "")
    assert (cut.code, cut.err) == (0, "The journal of gpu is kept from revision 2 on.\n")
    assert (asked.code, asked.err) == (0, "")


def test_a_cap_of_many_leases_is_not_shown_as_the_end_of_each() -> None:
    extended = Event(
        revision=7,
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        kind=EventKind.LEASES_EXTENDED,
        allocation=None,
        instance=None,
        holder=None,
        placements=(),
        expire_time=datetime(2026, 1, 2, 3, 5, 5, tzinfo=UTC),
        idempotency_token=None,
        ended=False,
        fleet=None,
        instance_after=None,
        corrections=(),
    )

    assert describe_event(extended) == "each by its own ttl, until 2026-01-02 03:05:05Z at most"


def test_verify_of_a_healthy_fleet_is_clean(blockyard: CommandLine, client: Client, fleet: str) -> None:
    client.acquire(fleet, blocks=2, holder="me")

    verdict = blockyard("verify", fleet)
    report = blockyard("verify", fleet, "-o", "json").document

    assert (verdict.code, verdict.out.startswith(f"Verify: {fleet} is clean at revision ")) == (0, True)
    assert (report["clean"], report["held_blocks_checked"], report["discrepancies"]) == (True, 2, [])


def test_verify_that_cannot_check_has_the_exit_code_2(blockyard: CommandLine) -> None:
    unknown = blockyard("verify", "no-such-fleet", "-o", "json")
    unreachable = blockyard("verify", "any", "--address", "127.0.0.1:1")

    assert (unknown.code, json.loads(unknown.err)["error"]["reason"]) == (2, "FLEET_NOT_FOUND")
    assert (unreachable.code, "No service answers at 127.0.0.1:1" in unreachable.err) == (2, True)


def test_a_service_that_is_not_there_is_a_sentence_at_once(blockyard: CommandLine) -> None:
    for address in ("127.0.0.1:1", "no-such-host.invalid:7350", "no..host:7350"):
        refused = blockyard("describe", "any", "--address", address)
        assert refused.code == 3
        assert refused.err.startswith(f"Error: No service answers at {address}: ")
        assert "Next: Start one with `blockyard serve`" in refused.err


@pytest.mark.parametrize("address", ["127.0.0.1", "http://127.0.0.1:7350", "127.0.0.1:99999", "here", ""])
def test_what_is_no_address_is_refused_before_anything_is_sent(blockyard: CommandLine, address: str) -> None:
    refused = blockyard("describe", "any", "--address", address)

    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(f"Error: {address!r} is not an address of the form HOST:PORT.\n")


def test_an_empty_holder_is_refused_and_not_replaced(blockyard: CommandLine, client: Client, fleet: str) -> None:
    refused = blockyard("acquire", "--fleet", fleet, "--holder", "")

    assert refused.code == 1
    assert refused.err.startswith("Error (INVALID_REQUEST): holder: ")
    assert list(client.list_allocations(fleet)) == []


def test_a_full_disk_is_a_sentence_and_the_allocation_is_held_all_the_same(
    client: Client, address: str, fleet: str
) -> None:
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(
            [*COMMAND, "acquire", "--fleet", fleet],
            env={"BLOCKYARD_ADDRESS": address},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (process.returncode, process.stderr) == (
        141,
        "Error: The output cannot be written: No space left on device.\n",
    )
    assert len(list(client.list_allocations(fleet))) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("acquire",), "Missing option '--fleet'"),
        (("acquire", "--fleet", "f", "--blocks", "0"), "greater than or equal to 1"),
        (("acquire", "--fleet", "f", "--ttl", "soon"), "not a duration; write"),
        (("acquire", "--fleet", "f", "--where", "gpu in a"), "not a term of a selector"),
        (("acquire", "--fleet", "f", "--match", "gpu"), "not of the form key=value"),
        (("acquire", "--fleet", "f", "--require", "gpu=two"), "needs a whole number"),
        (("acquire", "--fleet", "f", "--strategy", "magic"), "'--strategy'"),
        (("release",), "Say what to release"),
        (("release", "f/1", "--token", "t"), "Say what to release"),
        (("release", "--fleet", "f", "--token", "t", "--block", "i:0"), "Say what to release"),
        (("release", "nonsense"), "not the name of an allocation"),
        (("renew", "fleets/f/17"), "not the name of an allocation"),
        (("events", "f", "--kind", "party"), "'--kind'"),
        (("watch", "f", "--from", "0"), "greater than or equal to 1"),
        (("verify", "f", "--timeout", "0"), "a timeout of 0 leaves no time"),
        (("repair", "f", "--timeout", "0s"), "a timeout of 0 leaves no time"),
        (("no-such-command",), "No such command 'no-such-command'"),
        (("fleet", "create"), "Missing argument 'FLEET'"),
    ],
)
def test_wrong_usage_is_a_sentence_and_the_exit_code_2(
    blockyard: CommandLine, arguments: tuple[str, ...], sentence: str
) -> None:
    refused = blockyard(*arguments)

    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("Error: ")
    assert sentence in refused.err


@pytest.mark.parametrize("arguments", [(), ("fleet",), ("instance",)])
def test_a_command_that_only_has_subcommands_shows_its_help_when_it_is_called_alone(
    blockyard: CommandLine, arguments: tuple[str, ...]
) -> None:
    alone = blockyard(*arguments)

    assert (alone.code, alone.out) == (2, "")
    assert alone.err.splitlines() == blockyard(*arguments, "--help").out.splitlines()


def test_what_the_server_finds_malformed_is_named_by_its_field(blockyard: CommandLine) -> None:
    refused = blockyard("fleet", "create", "Not An Id")

    assert refused.code == 1
    assert refused.err.startswith("Error (INVALID_REQUEST): fleet_id: ")


def test_every_command_has_a_help_that_says_what_it_does(blockyard: CommandLine) -> None:
    overview = blockyard("--help").out
    table = overview.split("Commands:\n")[1].split("\n\n")[0]
    commands = [line.split()[0] for line in table.splitlines() if line[2] != " "]

    assert {"serve", "fleet", "instance", "acquire", "release", "run", "replay", "verify"} <= set(commands)
    assert "Exit codes: 0 done" in overview
    for command in commands:
        page = blockyard(command, "--help")
        assert (page.code, "Usage: blockyard" in page.out) == (0, True)


def test_a_reader_that_goes_away_is_no_traceback(blockyard: CommandLine, client: Client, fleet: str) -> None:
    for number in range(300):
        client.create_instance(fleet, f"extra-{number}", total_blocks=64)

    for output in ("text", "json"):
        process = blockyard.start("describe", fleet, "--output", output)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        err = process.stderr.read()
        process.stderr.close()
        assert (process.wait(), err) == (141, "")


def test_ctrl_c_ends_a_call_that_hangs_with_one_word() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = CommandLine(f"127.0.0.1:{silent.getsockname()[1]}").start("describe", "any")
        probe, _ = silent.accept()
        call, _ = silent.accept()
        # The client greets first; then it waits for a server that never says a word.
        call.recv(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
        probe.close()
        call.close()

    assert (process.returncode, out, err) == (130, "", "Interrupted.\n")


def test_the_address_and_the_output_can_come_from_the_environment(address: str, fleet: str) -> None:
    environment = {"BLOCKYARD_ADDRESS": address, "BLOCKYARD_OUTPUT": "json"}

    process = subprocess.run([*COMMAND, "fleet", "get", fleet], env=environment, capture_output=True, check=True)

    assert json.loads(process.stdout)["name"] == f"fleets/{fleet}"
