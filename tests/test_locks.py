"""What `make install` installs is what pyproject.toml asks for, and the oldest packages that it admits fit the code."""

import re
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT: Final = Path(__file__).parents[1]
LOCKS: Final = ROOT / "requirements"
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ASKED: Final[dict[str, list[str]]] = {
    "server": [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["server"]],
    "dev": [*PROJECT["dependencies"], *(text for extra in PROJECT["optional-dependencies"].values() for text in extra)],
    **{
        name: [
            line.partition("#")[0].strip()
            for line in (LOCKS / f"{name}.in").read_text(encoding="utf-8").splitlines()
            if line.partition("#")[0].strip()
        ]
        for name in ("generator", "deploy")
    },
}
"""What each lock is made of."""
RENEW: Final = "run `make lock`"

every_lock = pytest.mark.parametrize("lock", ASKED)


def entries(lock: str) -> list[str]:
    """A line for each package, with its hashes."""
    text = (LOCKS / f"{lock}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if not line.startswith("#")]


def pins(lock: str) -> dict[str, Version]:
    parts = [Requirement(entry.partition(" --hash=")[0]) for entry in entries(lock)]
    return {canonicalize_name(part.name): Version(str(part.specifier).removeprefix("==")) for part in parts}


def unmet(asked: list[str], pinned: dict[str, Version]) -> list[str]:
    """The requirements that a lock does not meet."""
    parts = [Requirement(text) for text in asked]
    return [
        str(part)
        for part in parts
        if (version := pinned.get(canonicalize_name(part.name))) is None or version not in part.specifier
    ]


@every_lock
def test_a_lock_meets_what_it_is_made_of(lock: str) -> None:
    assert unmet(ASKED[lock], pins(lock)) == [], RENEW


@every_lock
def test_each_package_of_a_lock_has_its_hashes_and_no_lock_names_a_host(lock: str) -> None:
    assert [entry for entry in entries(lock) if "--hash=sha256:" not in entry] == []
    assert not re.search(r"://|--(?:extra-)?index-url|--find-links", (LOCKS / f"{lock}.txt").read_text("utf-8"))


def test_the_tests_run_with_what_serves() -> None:
    assert pins("server").items() <= pins("dev").items(), RENEW


def test_a_requirement_that_is_missing_or_too_new_is_noticed() -> None:
    assert unmet(["a>=1", "b>=2", "C_c==3"], {"b": Version("1.9"), "c-c": Version("3")}) == ["a>=1", "b>=2"]


def test_the_lower_bounds_are_the_releases_that_generated_the_code() -> None:
    """An older one refuses the code, and a newer bound would keep users out who could have the SDK."""
    bounds = {part.name: part.specifier for part in map(Requirement, PROJECT["dependencies"])}
    folder = ROOT / "client" / "blockyard" / "v1"
    messages, stubs = ((folder / name).read_text("utf-8") for name in ("allocator_pb2.py", "allocator_pb2_grpc.py"))
    protobuf = re.search(r"^# Protobuf Python Version: (.+)$", messages, re.MULTILINE)
    grpcio = re.search(r"^GRPC_GENERATED_VERSION = '(.+)'$", stubs, re.MULTILINE)

    assert protobuf
    assert grpcio
    found = {"protobuf": Version(protobuf[1]), "grpcio": Version(grpcio[1])}
    assert {name: [Version(bound.version) for bound in bounds[name]] for name in found} == {
        name: [version] for name, version in found.items()
    }
