"""When the records disagree, `verify` says so by its exit code, in text and in JSON."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blockyard import Client
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
    assert [(found["check"], found["instance"]) for found in json.document["discrepancies"]] == [("COUNTER", "node-1")]
