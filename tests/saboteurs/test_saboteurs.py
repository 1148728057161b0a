"""Every proof of docs/explanation/evidence.md is red where its subject is wrong, on each deployment that it claims."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.fault.test_mutants import GREEN, RED, ROOT, copy_server, run_tests
from tests.saboteurs.table import SABOTEURS, Saboteur

BOUND_S: Final = 100
EDITED: Final = [saboteur for saboteur in SABOTEURS if saboteur.edits]
ROW: Final = re.compile(r"\| (?:\[(?P<linked>[^]]+)\]\([^)]+\)|(?P<plain>[^|]+)) \| `?[^|]+\| (?P<places>[^|]+) \|")


def claimed() -> set[tuple[str, str]]:
    """(proof, deployment), as the table of docs/explanation/evidence.md says it."""
    text = (ROOT / "docs" / "explanation" / "evidence.md").read_text()
    [_, table] = text.split("| proof | the whole | on | what it shows |\n|---|---|---|---|\n", 1)
    rows = [ROW.match(line) for line in table.partition("\n\n")[0].splitlines()]
    assert all(rows), "a row is not read"
    return {
        (row["linked"] or row["plain"], place) for row in rows if row is not None for place in row["places"].split("; ")
    }


def test_each_proof_has_a_saboteur_on_each_deployment_that_it_claims() -> None:
    assert {(saboteur.proof, saboteur.deployment) for saboteur in SABOTEURS} == claimed()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("saboteur", EDITED, ids=lambda saboteur: f"{saboteur.proof}, {saboteur.deployment}")
def test_a_proof_whose_subject_is_wrong_is_red(saboteur: Saboteur, tmp_path: Path) -> None:
    result = run_tests(copy_server(tmp_path, saboteur.edits), [saboteur.test], marks="not soak")

    assert result.returncode == RED, f"{saboteur.wrong}, and nobody sees it:\n{result.stdout}{result.stderr}"
    assert re.search(r"^1 failed", result.stdout, re.MULTILINE), f"it is red for another reason:\n{result.stdout}"


def test_the_others_are_tests_of_the_suite() -> None:
    """They run by themselves, wherever the suite runs. A row whose test is gone would say nothing."""
    wanted = [saboteur.test for saboteur in SABOTEURS if not saboteur.edits]
    files = sorted({test.partition("::")[0] for test in wanted})
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "-m",
            "not soak",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:xdist",
            *files,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )

    assert done.returncode == GREEN, done.stdout + done.stderr
    assert [test for test in wanted if test not in done.stdout] == []
