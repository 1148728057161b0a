""".ci/breaking: packages for other languages may be set once and not be changed; all else is refused as before."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PROTO: Final = "protos/blockyard/v1/errors.proto"
GIT: Final = ["git", "-c", "user.name=a", "-c", "user.email=a@blockyard.dev", "-c", "commit.gpgsign=false"]


def without_packages(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("option "))


def other_package(text: str) -> str:
    return text.replace("blockyard/v1;blockyardv1", "blockyard/v2;blockyardv2")


def renamed_value(text: str) -> str:
    return text.replace("FLEET_FORMAT_TOO_OLD = 29;", "FLEET_FORMAT_OLD = 29;")


def same(text: str) -> str:
    return text


def compare(folder: Path, before: Callable[[str], str], after: Callable[[str], str]) -> tuple[int, str]:
    """Exit code and output of .ci/breaking: main has the file changed by `before`, the work tree by `after`."""
    for name in ("protos", ".ci"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "buf.yaml", folder)
    text = (ROOT / PROTO).read_text(encoding="utf-8")
    (folder / PROTO).write_text(before(text), encoding="utf-8")
    for command in (["init", "--quiet", "--initial-branch=main"], ["add", "."], ["commit", "--quiet", "-m", "Base"]):
        subprocess.run([*GIT, *command], cwd=folder, check=True)
    (folder / PROTO).write_text(after(text), encoding="utf-8")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", ".ci/breaking"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_packages_may_be_set_where_there_were_none(tmp_path: Path) -> None:
    code, output = compare(tmp_path, without_packages, same)

    assert (code, output) == (0, "buf breaking: no client of refs/heads/main breaks.\n")


@pytest.mark.parametrize(
    ("before", "after", "complaint"),
    [
        (same, other_package, 'File option "go_package" changed'),
        (same, without_packages, 'File option "java_package" changed'),
        (same, renamed_value, '"29"'),
        (without_packages, renamed_value, '"29"'),
    ],
)
def test_what_breaks_a_client_is_refused(
    tmp_path: Path, before: Callable[[str], str], after: Callable[[str], str], complaint: str
) -> None:
    code, output = compare(tmp_path, before, after)

    assert code != 0
    assert complaint in output
