"""The habits of the code that no linter knows (CONTRIBUTING.md, docs/architecture.md)."""

import ast
import re
import sys
from collections.abc import Iterator
from inspect import isclass, ismodule, isroutine, signature
from pathlib import Path

import pytest

import blockyard

ROOT = Path(__file__).parents[1]
FILE_LIMIT_LINES = 450
FUNCTION_LIMIT_LINES = 70
EMPTY_NAMES = {"utils", "util", "helpers", "manager", "base", "common", "misc"}

FILES = sorted(
    path
    for folder in ("client", "server", "tests", "benchmarks", "examples")
    for path in (ROOT / folder).rglob("*.py")
    if not path.name.endswith(("_pb2.py", "_pb2_grpc.py")) and "node_modules" not in path.parts
)
SHIPPED = [path for path in FILES if path.is_relative_to(ROOT / "client") or path.is_relative_to(ROOT / "server")]
DOMAIN = ROOT / "server" / "blockyard_server" / "domain"

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The signature and the body; a long docstring is no fault."""
    docstring = function.body[0] if ast.get_docstring(function) is not None else None
    return span(function) - (span(docstring) if docstring else 0)


def span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@every_file
def test_a_file_is_about_one_thing(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < FILE_LIMIT_LINES
    assert path.stem.strip("_") not in EMPTY_NAMES


@every_file
def test_a_function_fits_on_a_screen(path: Path) -> None:
    lengths = {
        f"{node.name} in line {node.lineno}": lines_of_code(node)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert not {name: lines for name, lines in lengths.items() if lines >= FUNCTION_LIMIT_LINES}


@every_file
def test_a_suppression_has_its_reason_beside_it(path: Path) -> None:
    bare = [
        f"line {number}: {line.strip()}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"#\s*(noqa|type:\s*ignore|pragma:)", line)
        and not re.search(
            r"#\s*(noqa: [A-Z0-9, ]+[A-Z0-9]|type: ignore\[[a-z, -]+\]|pragma: [a-z ]+)\s+[-#] \w.+", line
        )
    ]

    assert path == Path(__file__) or not bare


def test_every_package_says_what_lives_there() -> None:
    mute = [str(path) for path in SHIPPED if path.name == "__init__.py" and not ast.get_docstring(tree(path))]

    assert not mute


def test_domain_imports_the_standard_library_alone() -> None:
    allowed = sys.stdlib_module_names | {"blockyard_server"}
    foreign = {
        f"{path.name} imports {module}"
        for path in DOMAIN.rglob("*.py")
        for module in imported_modules(path)
        if module.partition(".")[0] not in allowed
    }

    assert list(DOMAIN.rglob("*.py"))
    assert not foreign


def test_the_sdk_exports_exactly_what_it_imports() -> None:
    public = {name for name, value in vars(blockyard).items() if not name.startswith("_") and not ismodule(value)}

    assert public
    # Modules are left out: every submodule is an attribute, exported or not (tests/sdk/test_exported_members.py).
    exported = {name for name in blockyard.__all__ if not name.startswith("__")}
    assert public == {name for name in exported if not ismodule(getattr(blockyard, name))}


def test_no_generated_type_is_in_the_users_hands() -> None:
    exported = {name: getattr(blockyard, name) for name in blockyard.__all__}
    members = {
        f"{name}.{member}": value
        for name, owner in exported.items()
        if isclass(owner)
        for member, value in vars(owner).items()
        if not member.startswith("_") and callable(value)
    }
    generated = [
        name
        for name, value in (exported | members).items()
        if "_pb2" in getattr(value, "__module__", "") or (isroutine(value) and "_pb2" in str(signature(value)))
    ]

    assert not generated
