"""Takes away each guard in turn, on a copy of the server, and shows which tests see it.

A guard that nothing misses when it is gone is not tested. So each row of `mutants.MUTANTS` must turn its tests red,
and the same tests must be green on an unchanged copy.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.fault.mutant import Edit, Mutant
from tests.fault.mutants import MUTANTS

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = "blockyard_server"
BOUND_S: Final = 240
QUICK: Final = "not slow and not soak"
"""What `make test` has: each guard is missed there."""
GREEN, RED = 0, 1
"""Pytest's exit codes. A test run that cannot even begin has another one."""

pytestmark = pytest.mark.timeout(300)


def copy_server(folder: Path, edits: tuple[Edit, ...]) -> Path:
    """A folder with a copy of the server's package, changed by the edits."""
    server = folder / "server"
    shutil.copytree(ROOT / "server" / PACKAGE, server / PACKAGE)
    for edit in edits:
        file = server / PACKAGE / edit.file
        text = file.read_text()
        assert text.count(edit.old) == 1, f"{edit.file} has {edit.old!r} {text.count(edit.old)} times: mend the table"
        file.write_text(text.replace(edit.old, edit.new))
    return server


def run_tests(server: Path, selection: list[str], marks: str = QUICK) -> subprocess.CompletedProcess[str]:
    """Runs these tests on that copy, if they have such marks, in a process of their own, up to the first failure."""
    options = [
        "-x",
        "-q",
        "-m",
        marks,
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--timeout=60",
        "--timeout-method=thread",
    ]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, f"--basetemp={server.parent / 'tests'}", *selection],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(server)},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


@pytest.mark.soak  # four minutes of one core: `make mutants`
@pytest.mark.parametrize("name", MUTANTS)
def test_a_server_without_this_guard_is_seen(tmp_path: Path, name: str) -> None:
    mutant: Mutant = MUTANTS[name]
    result = run_tests(copy_server(tmp_path, mutant.edits), list(mutant.red))
    assert result.returncode == RED, f"{name} ({mutant.guard}) is seen by nothing:\n{result.stdout}{result.stderr}"


@pytest.mark.slow
def test_the_same_tests_are_green_on_an_unchanged_copy(tmp_path: Path) -> None:
    selection = sorted({selected for mutant in MUTANTS.values() for selected in mutant.red})
    result = run_tests(copy_server(tmp_path, ()), selection)
    assert result.returncode == GREEN, result.stdout + result.stderr


def test_it_is_the_copy_that_is_tested(tmp_path: Path) -> None:
    server = copy_server(tmp_path, ())
    (server / PACKAGE / "app.py").write_text("raise RuntimeError('this is the copy')\n")
    result = run_tests(server, ["tests/race/test_seed_story.py"])
    assert result.returncode not in {GREEN, RED}
    assert "this is the copy" in result.stdout
