"""The wheel works in other people's environments: with the oldest packages that it admits, and with the newest."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from packaging.version import Version

from tests.package.conftest import Built
from tests.package.environments import DEPENDENCIES, PROJECT, Environment, pins, run

pytestmark = [pytest.mark.package, pytest.mark.timeout(600)]

SDK: Final = (
    "tests/sdk",
    "--ignore=tests/sdk/test_client_methods.py",  # about the sources of the tree, not about what is installed
)
CLI: Final = (
    *(
        f"tests/cli/test_{name}.py"
        for name in ("commands", "contexts", "credentials", "empty_options", "output", "replay", "version")
    ),
    # Two tests quote typer's own sentence, whose words have changed.
    "-k",
    "not greater",
)

IMPORTS: Final = """
import importlib, pkgutil, blockyard
for module in pkgutil.walk_packages(blockyard.__path__, "blockyard."):
    if module.name != "blockyard.__main__":
        importlib.import_module(module.name)
        print(module.name)
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel alone, and what it was told to choose."""

    environment: Environment
    constraints: Path


Chosen = Callable[[str], Installed]


@pytest.fixture(scope="module")
def chosen(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Chosen:
    """By the resolution: `lowest-direct` or `highest`."""

    @cache
    def install(resolution: str) -> Installed:
        folder = tmp_path_factory.mktemp(resolution)
        constraints = pins(resolution, folder)
        environment = Environment(folder / "venv")
        environment.pip_install(str(built.wheel), "--constraint", str(constraints))
        return Installed(environment, constraints)

    return install


def lower_bounds() -> dict[str, Version]:
    return {
        dependency.name: Version(bound.version)
        for dependency in DEPENDENCIES
        for bound in dependency.specifier
        if bound.operator == ">="
    }


def test_the_oldest_environment_has_exactly_the_lower_bounds(chosen: Chosen) -> None:
    versions = chosen("lowest-direct").environment.versions()

    assert {name: versions[name] for name in lower_bounds()} == lower_bounds()
    assert len(lower_bounds()) == len(DEPENDENCIES), "a dependency has no lower bound"


def test_the_newest_environment_is_newer_in_every_dependency(chosen: Chosen) -> None:
    versions = chosen("highest").environment.versions()

    assert [name for name, bound in lower_bounds().items() if versions[name] <= bound] == []


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_the_command_of_a_clean_installation_says_its_version(resolution: str, chosen: Chosen) -> None:
    assert chosen(resolution).environment.command("--version") == f"blockyard {PROJECT['version']}\n"


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_every_module_of_a_clean_installation_is_imported_without_a_warning(resolution: str, chosen: Chosen) -> None:
    """Also the generated stubs, which the SDK itself does not use."""
    printed = run(chosen(resolution).environment.python, "-W", "error", "-c", IMPORTS)

    assert {"blockyard.v1.allocator_pb2_grpc", "blockyard.cli.run"} <= set(printed.split())


@pytest.mark.parametrize(
    ("resolution", "tests"),
    [("lowest-direct", SDK), ("lowest-direct", CLI), ("highest", SDK)],
    ids=["SDK, oldest", "CLI, oldest", "SDK, newest"],
)
def test_the_tests_pass_with_the_installed_wheel(resolution: str, tests: tuple[str, ...], chosen: Chosen) -> None:
    """Servers run in the environment of the project: they need newer packages than the SDK."""
    installed = chosen(resolution)
    installed.environment.add_test_tools(installed.constraints)

    print(installed.environment.run_tests(*tests, server_python=sys.executable))  # noqa: T201  # for `make package ARGS=-s`
