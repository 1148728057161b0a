"""The README's drawing, which stands above the first server, is what a fresh demo shows."""

import re
from pathlib import Path

from tests.cli.conftest import CommandLine, serving
from tests.docs.page_runner import ROOT


def drawing() -> tuple[list[str], str]:
    """The command at the top of the README, and what it draws there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^```text\n\$ blockyard (.+)\n((?:.*\n)+?)```$", readme, flags=re.MULTILINE)
    assert found
    return found[1].split(), found[2]


def test_a_fresh_demo_draws_exactly_what_the_readme_shows(tmp_path: Path) -> None:
    command, shown = drawing()
    server = serving(tmp_path / "blockyard.db", "--demo")

    with server as address:
        # The server serves before the demo fleet is made, and says when it is.
        assert server.process.stdout is not None
        assert server.process.stdout.readline().startswith("The fleet 'demo' is made")
        assert CommandLine(address)(*command).out == shown
