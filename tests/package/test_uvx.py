"""`uvx` runs the command line, and a server, without an installation."""

import re
import signal
import subprocess
from pathlib import Path
from typing import Final

import pytest

from blockyard import Client
from tests.package.environments import PROJECT, ROOT, UV, run

pytestmark = [pytest.mark.package, pytest.mark.timeout(300)]

UVX: Final = (f"{UV}x", "--quiet", "--refresh-package", "blockyard", "--from")


def test_uvx_runs_the_command_line() -> None:
    assert run(*UVX, str(ROOT), "blockyard", "--version") == f"blockyard {PROJECT['version']}\n"


def test_uvx_serves(tmp_path: Path) -> None:
    serve = ("blockyard", "serve", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "blockyard.db"))
    with subprocess.Popen([*UVX, f"{ROOT}[server]", *serve], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.match(r"Serving on (\S+), data in ", server.stdout.readline())
            assert found, "the server did not start"
            with Client(found[1]) as client:
                assert client.create_fleet("gpu").name == "fleets/gpu"
        finally:
            server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
