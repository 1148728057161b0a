"""The tools of requirements/deploy.txt, which `make check-deploy` installs into an environment of their own."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Ask = Callable[[str, str], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder with their programs."""
    return Path(os.environ["BLOCKYARD_DEPLOY_TOOLS"]) / "bin"


@pytest.fixture(scope="session")
def ask(tools: Path) -> Ask:
    """Has `tools.py` do something with a text."""

    def run(what: str, text: str) -> subprocess.CompletedProcess[str]:
        command = [str(tools / "python"), str(Path(__file__).with_name("tools.py")), what]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)

    return run
