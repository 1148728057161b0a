"""Every package that a server needs is under a licence that the project allows (pyproject.toml)."""

import re
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).parents[2]
ALLOWED: Final[set[str]] = set(
    tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["blockyard"]["allowed-licences"]
)
SPELLINGS: Final = {
    "MIT License": "MIT",
    "3-Clause BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "Apache Software License": "Apache-2.0",
}
"""What packages without a License-Expression write, and what it means."""


def licence_of(found: Distribution) -> str:
    """An SPDX expression, or what the package says instead."""
    fields = found.metadata.json
    if expression := fields.get("license_expression"):
        return str(expression)
    said = [name.rpartition(" :: ")[2] for name in fields.get("classifier", []) if "License ::" in name]
    text = str(fields.get("license") or " AND ".join(said)).strip()
    return SPELLINGS.get(text, text)


def is_allowed(expression: str) -> bool:
    """One side of each OR must be allowed as a whole."""
    choices = expression.strip("()").split(" OR ")
    return any(all(part.strip("() ") in ALLOWED for part in choice.split(" AND ")) for choice in choices)


def locked() -> list[Requirement]:
    text = (ROOT / "requirements" / "server.txt").read_text(encoding="utf-8")
    entries = [Requirement(line.rstrip(" \\")) for line in re.findall(r"^\S.*==.*$", text, re.MULTILINE)]
    return [entry for entry in entries if entry.marker is None or entry.marker.evaluate()]


def test_each_dependency_of_a_server_is_under_an_allowed_licence() -> None:
    licences: dict[str, str] = {}
    for entry in locked():
        try:
            licences[entry.name] = licence_of(distribution(entry.name))
        except PackageNotFoundError:
            licences[entry.name] = "is not installed"

    assert len(licences) > 20
    assert {name: licence for name, licence in licences.items() if not is_allowed(licence)} == {}


def test_another_licence_is_noticed() -> None:
    assert is_allowed("Apache-2.0 OR GPL-3.0-only")
    assert not is_allowed("MIT AND GPL-3.0-only")
    assert not is_allowed("")
