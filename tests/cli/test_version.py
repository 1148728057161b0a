"""Which version this is, how else the command line is started, and how it is asked for help."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import blockyard as package
from blockyard.cli.app import app
from blockyard.cli.failures import ExitCode
from tests.cli.conftest import CommandLine
from tests.harness.samples import some_at_first

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def paths_of(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, each in getattr(command, "commands", {}).items():
        yield from paths_of(each, *path, name)


PATHS = list(paths_of(typer.main.get_command(app)))


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_the_package_says_its_version() -> None:
    assert package.__version__ == PROJECT["version"]


def test_the_package_can_be_imported_where_it_is_not_installed() -> None:
    program = """
import importlib.metadata


def version(name):
    raise importlib.metadata.PackageNotFoundError(name)


importlib.metadata.version = version
import blockyard

print(blockyard.__version__)
"""
    assert python("-c", program).stdout == "0+unknown\n"


def test_the_command_says_its_version_and_asks_no_service() -> None:
    said = CommandLine("127.0.0.1:1")("--version")

    assert (said.code, said.out, said.err) == (0, f"blockyard {PROJECT['version']}\n", "")


def test_the_module_is_the_command() -> None:
    said = python("-m", "blockyard", "--version")
    refused = python("-m", "blockyard", "no-such-command")

    assert (said.returncode, said.stdout, said.stderr) == (0, f"blockyard {PROJECT['version']}\n", "")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "`blockyard --help` shows the usage." in refused.stderr


@pytest.mark.parametrize(
    "path", some_at_first([pytest.param(path, id=" ".join(("blockyard", *path))) for path in PATHS], 8)
)
def test_every_command_has_a_short_option_for_its_help(path: tuple[str, ...]) -> None:
    blockyard = CommandLine("127.0.0.1:1")
    short, long = blockyard(*path, "-h"), blockyard(*path, "--help")

    assert (short.code, short.err) == (0, "")
    assert short.out == long.out
    assert f"Usage: {' '.join(('blockyard', *path))} " in short.out
    assert "  -h, --help  " in short.out


def test_every_command_is_asked() -> None:
    assert {(), ("serve",), ("fleet",), ("fleet", "create"), ("run",)} <= set(PATHS)


def test_a_command_that_is_run_has_its_own_h() -> None:
    asked = python("-m", "blockyard", "run", "--address", "127.0.0.1:1", "--fleet", "gpu", "--", "echo", "-h")

    assert (asked.returncode, asked.stdout) == (ExitCode.RUN_NO_ANSWER, "")
