"""The Containerfile is as hadolint wants it. tests/deploy/test_image.py builds and runs it."""

import subprocess
from pathlib import Path
from typing import Final

import pytest

FILE: Final = Path(__file__).parents[2] / "deploy" / "container" / "Containerfile"


@pytest.mark.deploy
def test_hadolint_finds_no_fault(tools: Path) -> None:
    done = subprocess.run([tools / "hadolint", FILE], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stdout) == (0, "")
