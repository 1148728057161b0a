"""The hooks of `make hooks` run what CI runs, in the same versions; and a commit's subject has an end."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import yaml

ROOT: Final = Path(__file__).parents[1]
CONFIG: Final = ROOT / ".pre-commit-config.yaml"
HOOKS: Final = {
    hook["id"]: hook for repository in yaml.safe_load(CONFIG.read_text())["repos"] for hook in repository["hooks"]
}
MAKEFILE: Final = (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("name", [name for name, hook in HOOKS.items() if hook["language"] == "system"])
def test_a_hook_runs_a_program_of_the_environment_as_make_does(name: str) -> None:
    program, *arguments = HOOKS[name]["entry"].removeprefix(".venv/bin/").split()

    assert HOOKS[name]["entry"].startswith(".venv/bin/"), "another version than CI's"
    command = " ".join(["$(BIN)/" + program, *(word for word in arguments if word != "--force-exclude")])
    assert re.search(rf"^\t{re.escape(command)}", MAKEFILE, re.MULTILINE), f"no target runs {command}"


@pytest.mark.parametrize(
    ("subject", "taken"),
    [("x" * 72, True), ("x" * 73, False), ("short\n\n" + "a body with a line that is long " * 4, True)],
    ids=["as long as it may be", "too long", "a long line of the body"],
)
def test_a_subject_has_at_most_72_characters(subject: str, tmp_path: Path, *, taken: bool) -> None:
    """In a repository of its own, because pre-commit puts aside what is not staged."""
    repository, message = tmp_path / "repository", tmp_path / "message"
    message.write_text(subject + "\n")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PRE_COMMIT_HOME": str(tmp_path / "hooks")}
    subprocess.run(["git", "init", "--quiet", str(repository)], env=environment, check=True)
    (repository / CONFIG.name).write_text(CONFIG.read_text())
    subprocess.run(["git", "add", CONFIG.name], cwd=repository, env=environment, check=True)
    hook = ["commit-subject", "--hook-stage=commit-msg", f"--commit-msg-filename={message}"]
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "run", *hook],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) is taken, done.stdout + done.stderr
