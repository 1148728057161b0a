"""`blockyard replay` against a real server: small logs reckoned by hand, and the real ones."""

import hashlib
import json
from pathlib import Path

import pytest

from blockyard import Client, EventKind
from tests.cli.conftest import CommandLine

TRACES = Path(__file__).parents[3] / "shared" / "traces"
REQUESTS = "id,arrival_s,duration_s,n_instances,blocks,label_any,owner,exclusive\n"


class Log:
    """Two files of a log."""

    def __init__(self, folder: Path, instances: str, requests: str) -> None:
        self.instances = folder / "instances.csv"
        self.requests = folder / "requests.csv"
        self.instances.write_text("name,total_blocks,label\n" + instances)
        self.requests.write_text(REQUESTS + requests)

    @property
    def arguments(self) -> tuple[str, str, str]:
        return ("replay", str(self.instances), str(self.requests))


@pytest.fixture
def log(tmp_path: Path) -> Log:
    """Six requests on two instances, with every kind of outcome."""
    return Log(
        tmp_path,
        "small,2,x\nlarge,4,y\n",
        "a,0,10,1,2,,o,\n"  # best fit: small, all of it
        "b,1,10,1,3,y|z,o,\n"  # large, three of four
        "c,2,10,1,2,,o,\n"  # only one block is idle
        "d,3,10,1,1,,o,1\n"  # no instance is wholly idle, though one block is
        "e,10,,2,1,,o,\n"  # a is released first: small and large
        "f,11,1,1,9,,o,\n",  # never fits
    )


def test_a_log_is_reported_with_its_figures_and_its_digest(blockyard: CommandLine, log: Log) -> None:
    done = blockyard(*log.arguments, "-o", "json")

    report = done.document
    # At second 10, large has one idle block and small two, so the best fit chooses large first.
    digest = hashlib.sha256(b"a:small;b:large;c:-;d:-;e:large,small;f:-;").hexdigest()[:16]
    assert (done.code, done.err) == (0, "")
    assert report["digest"] == digest
    assert (report["requests"], report["accepted"], report["refused"]) == (6, 3, 3)
    assert (report["no_capacity"], report["unsatisfiable"]) == (2, 1)
    assert report["accepted_block_seconds"] == 2 * 10 + 3 * 10
    assert report["allocated_share_before_first_refusal"] == 5 / 6
    assert (report["refused_although_idle"], report["refused_although_matching_idle"]) == (1, 1)
    assert (report["strategy"], report["hold"]) == ("BEST_FIT", False)
    assert report["verify"]["clean"] is True
    assert report["elapsed_s"] > 0


def test_the_digest_does_not_depend_on_how_many_operations_share_a_call(blockyard: CommandLine, log: Log) -> None:
    reports = [blockyard(*log.arguments, "--batch", size, "-o", "json").document for size in ("1", "2", "3", "1000")]

    assert len({report["digest"] for report in reports}) == 1
    assert reports[0]["calls"] > reports[-1]["calls"]


def test_the_journal_has_the_order_of_the_log(blockyard: CommandLine, client: Client, log: Log) -> None:
    fleet = blockyard(*log.arguments, "-o", "json").document["fleet"]

    kinds = (EventKind.GRANTED, EventKind.RELEASED)
    events = [(event.kind, event.placements[0].instance) for event in client.list_events(fleet, kinds=kinds)]
    assert events == [
        (EventKind.GRANTED, "small"),
        (EventKind.GRANTED, "large"),
        (EventKind.RELEASED, "small"),
        (EventKind.GRANTED, "large"),
        (EventKind.RELEASED, "large"),
    ]


def test_hold_never_releases_and_limit_cuts_the_log(blockyard: CommandLine, client: Client, log: Log) -> None:
    report = blockyard(*log.arguments, "--hold", "--limit", "5", "-o", "json").document

    assert (report["requests"], report["accepted"], report["hold"]) == (5, 2, True)
    assert client.describe(report["fleet"]).totals.busy_blocks == 5


def test_the_text_names_each_figure_and_ends_with_the_verdict(blockyard: CommandLine, log: Log) -> None:
    lines = blockyard(*log.arguments, "--strategy", "first_fit").out.splitlines()

    assert [line[:42].strip() for line in lines[:-1]] == [
        "fleet",
        "requests",
        "accepted",
        "refused",
        "accepted block-seconds",
        "allocated before the first refusal",
        "refused although enough blocks were idle",
        "elapsed",
        "digest",
    ]
    assert "(first_fit)" in lines[0]
    assert " is clean at revision " in lines[-1]


def test_the_fleet_must_be_fresh(blockyard: CommandLine, fleet: str, log: Log) -> None:
    named = blockyard(*log.arguments, "--fleet", f"{fleet}-2", "-o", "json")
    taken = blockyard(*log.arguments, "--fleet", fleet)

    assert named.document["fleet"] == f"{fleet}-2"
    assert (taken.code, taken.err.startswith(f"Error: The fleet {fleet} is there already")) == (2, True)


def test_a_log_that_cannot_be_read_is_a_sentence_and_makes_no_fleet(
    blockyard: CommandLine, client: Client, log: Log
) -> None:
    before = [fleet.name for fleet in client.list_fleets()]
    log.requests.write_text(REQUESTS + "a,0,1,1,none,,o,\n")

    bad = blockyard(*log.arguments, "-o", "json")
    missing = blockyard("replay", str(log.instances), "nowhere.csv")

    assert (bad.code, bad.out) == (2, "")
    assert "line 2: blocks must be a whole number" in json.loads(bad.err)["error"]["message"]
    assert (missing.code, missing.err) == (2, "Error: nowhere.csv cannot be read: No such file or directory.\n")
    assert [fleet.name for fleet in client.list_fleets()] == before


def test_what_the_service_refuses_as_malformed_stops_the_replay(blockyard: CommandLine, log: Log) -> None:
    log.requests.write_text(REQUESTS + f"a,0,1,1,1,,{'x' * 300},\n")

    refused = blockyard(*log.arguments)

    assert refused.code == 1
    assert "'a' failed (INVALID_REQUEST)" in refused.err


@pytest.mark.slow
@pytest.mark.skipif(not TRACES.exists(), reason="the real logs are not there (../shared/traces)")
def test_the_beginning_of_a_real_log_is_replayed_cleanly(blockyard: CommandLine) -> None:
    folder = TRACES / "nasa_ipsc"

    done = blockyard(
        "replay", str(folder / "instances.csv"), str(folder / "requests.csv"), "--limit", "500", "-o", "json"
    )

    assert (done.code, done.document["requests"], done.document["verify"]["clean"]) == (0, 500, True)
