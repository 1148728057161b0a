"""When the records disagree, `verify` says so by its exit code, in text and in JSON; and what `repair` says of it."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blockyard import Client, Correction, CorrectionKind
from blockyard.cli.repair import describe
from tests.cli.conftest import CommandLine, serving


@pytest.fixture
def drifted(tmp_path: Path) -> Iterator[CommandLine]:
    """A service whose fleet `gpu` has a counter that somebody has moved behind its back."""
    data = tmp_path / "blockyard.db"
    with serving(data) as address:
        with Client(address) as client:
            client.create_fleet("gpu")
            client.create_instance("gpu", "node-1", total_blocks=8)
            client.acquire("gpu", blocks=2, holder="me")
        with closing(sqlite3.connect(data)) as hand, hand:
            hand.execute("UPDATE instances SET busy_blocks = 5 WHERE fleet = 'gpu'")
        yield CommandLine(address)


def test_drift_is_the_exit_code_1_and_each_difference_is_shown(drifted: CommandLine) -> None:
    text = drifted("verify", "gpu")
    json = drifted("verify", "gpu", "-o", "json")

    assert (text.code, json.code) == (1, 1)
    assert text.out.startswith("Verify: gpu has DRIFTED, 1 difference at revision 3 ")
    assert "  COUNTER  node-1: expected " in text.out
    assert json.document["clean"] is False
    assert ("COUNTER", "node-1") in [(found["check"], found["instance"]) for found in json.document["discrepancies"]]


def test_repair_says_what_it_would_change_then_changes_it_then_has_nothing_to_do(drifted: CommandLine) -> None:
    assert drifted("verify", "gpu").code == 1
    assert "HALTED       its writes are stopped" in drifted("fleet", "get", "gpu").out

    dry, as_json = drifted("repair", "gpu"), drifted("repair", "gpu", "-o", "json")
    done, again = drifted("repair", "gpu", "--apply"), drifted("repair", "gpu", "--apply")

    assert (dry.code, as_json.code, done.code, again.code) == (1, 1, 0, 0)
    assert [line.rstrip() for line in dry.out.splitlines()] == [
        "Repair: gpu needs 1 change at revision 3; --apply makes it:",
        "CHANGE       WHERE   WHAT",
        "COUNTER_SET  node-1  busy_blocks from 5 to 2",
        "The fleet's writes are stopped; --apply ends that.",
    ]
    assert as_json.document["corrections"] == [
        {"kind": "COUNTER_SET", "instance": "node-1", "allocation": None, "block": 0, "before": 5, "after": 2}
    ]
    assert done.out.splitlines()[0] == "Repair: 1 change made in gpu, now at revision 4:"
    assert done.out.endswith("\nThe fleet is served.\n")
    assert again.out == "Repair: gpu needs no change at revision 4.\nThe fleet is served.\n"
    assert "HALTED" not in drifted("fleet", "get", "gpu").out
    assert "REPAIRED  1 COUNTER_SET" in drifted("events", "gpu", "--kind", "repaired").out
    assert drifted("verify", "gpu").code == 0


@pytest.mark.slow
def test_what_no_rule_repairs_is_shown_and_the_exit_code_stays_1(drifted: CommandLine, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "blockyard.db")) as hand, hand:
        hand.execute("""UPDATE allocations SET granted = '[["node-1",[1,9]]]'""")

    done, again = drifted("repair", "gpu", "--apply"), drifted("repair", "gpu")
    verified = drifted("verify", "gpu")

    left = "  HELD_BLOCKS  node-1, fleets/gpu/allocations/3: expected block 9 held by it, found block idle\n"
    assert (done.code, again.code) == (1, 1)
    assert "No rule repairs these; they are left as they are, for people:" in done.out
    assert left in done.out
    assert done.out.endswith("The fleet's writes stay stopped.\n")
    assert re.match(
        r"Repair: nothing in gpu can be changed by a rule at revision \d+; \d+ differences? (is|are) left to", again.out
    )
    assert left in again.out
    assert again.out.endswith("The fleet's writes are stopped.\n")
    assert left in verified.out


@pytest.mark.slow
def test_a_fleet_that_is_not_there_cannot_be_repaired(drifted: CommandLine) -> None:
    assert drifted("repair", "nowhere").code == 2


@pytest.mark.parametrize("kind", CorrectionKind)
def test_every_kind_of_change_has_its_words(kind: CorrectionKind) -> None:
    changed = Correction(kind=kind, instance="n1", allocation="fleets/a/allocations/7", block=3, before=1, after=2)

    assert "{" not in describe(changed)
