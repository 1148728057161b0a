"""The clients' methods are real ones: written out in the class's module, as the functions that make their calls say."""

import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from inspect import Parameter, getsource, isfunction, signature
from pathlib import Path
from types import CodeType, GenericAlias, ModuleType, NoneType
from typing import Any, get_args, get_origin

import pytest

from blockyard import (
    AsyncClient,
    AsyncLease,
    AsyncWatch,
    Client,
    Lease,
    Watch,
    _access,
    _allocator,
    _fleet_admin,
    _leasing,
    _ledger,
    _watching,
    operations,
)
from blockyard._call import Call, Listing, Operation, Plan
from blockyard._watching import Subscription

ROOT = Path(__file__).parents[2]
MODULES: tuple[ModuleType, ...] = (operations, _access, _allocator, _fleet_admin, _ledger, _watching)
MADE = (Call, Operation, Listing, get_origin(Plan[int]), Subscription)
FUNCTIONS: dict[str, Callable[..., Any]] = {
    name: value
    for module in MODULES
    for name, value in vars(module).items()
    if isfunction(value)
    and value.__module__ == module.__name__
    and not name.startswith("_")
    and get_origin(signature(value).return_annotation) in MADE
} | {"lease": _leasing.acquire_for_lease}

each_method = pytest.mark.parametrize("name", sorted(FUNCTIONS))


@dataclass(frozen=True)
class Variant:
    """One of the clients, and what its methods return."""

    client: type
    iterator: Any
    lease: type
    watch: type


both_clients = pytest.mark.parametrize(
    "variant",
    [Variant(Client, Iterator, Lease, Watch), Variant(AsyncClient, AsyncIterator, AsyncLease, AsyncWatch)],
    ids=["blocking", "asyncio"],
)


def code_of(method: Any) -> CodeType:
    code: CodeType = method.__code__
    return code


def words(text: str | None) -> list[str]:
    return (text or "").split()


def generator(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = root / "scripts" / "generate_client_methods.py"
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the generator reads and writes, to be changed."""
    for folder in ("client", "scripts"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "cli", "v1"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@each_method
@both_clients
def test_a_method_stands_in_its_class_with_its_own_code(name: str, variant: Variant) -> None:
    owner = next(each for each in variant.client.__mro__ if name in vars(each))
    method = getattr(owner, name)

    assert code_of(method).co_filename == sys.modules[owner.__module__].__file__
    assert code_of(method).co_name == method.__name__ == name
    assert (method.__module__, method.__qualname__) == (owner.__module__, f"{owner.__qualname__}.{name}")
    assert re.match(rf"\s*(async )?def {name}\(", getsource(method))


@each_method
@both_clients
def test_a_method_has_the_arguments_and_the_documentation_of_its_function(name: str, variant: Variant) -> None:
    method, function = getattr(variant.client, name), FUNCTIONS[name]
    wanted = signature(function)
    made = get_args(wanted.return_annotation)[-1]
    item = None if made is NoneType else made
    listed = get_origin(wanted.return_annotation) is Listing
    returned = {"lease": variant.lease, "watch": variant.watch}.get(
        name, GenericAlias(variant.iterator, item) if listed else item
    )
    itself = Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)

    assert signature(method) == wanted.replace(
        parameters=[itself, *wanted.parameters.values()], return_annotation=returned
    )
    assert words(method.__doc__) == words(function.__doc__)
    assert "\n        Raises:\n            " in method.__doc__


def test_the_committed_methods_are_what_the_functions_generate() -> None:
    check = generator(ROOT, "--check")

    assert (check.returncode, check.stderr) == (0, ""), check.stdout


def test_a_function_that_changed_is_noticed_and_the_check_says_what_to_run(copy: Path) -> None:
    ledger = copy / "client" / "blockyard" / "_ledger.py"
    ledger.write_text(ledger.read_text(encoding="utf-8").replace("apply: bool = False", "apply: bool = True"))

    check = generator(copy, "--check")
    again = [generator(copy).returncode, generator(copy, "--check").returncode]

    assert check.returncode == 1
    assert "client/blockyard/_client_methods.py, client/blockyard/_aio_methods.py. Run `make generate`" in check.stdout
    assert again == [0, 0]
    assert "apply: bool = True" in (copy / "client" / "blockyard" / "_aio_methods.py").read_text(encoding="utf-8")


def test_a_function_that_the_list_lacks_is_noticed(copy: Path) -> None:
    ledger = copy / "client" / "blockyard" / "_ledger.py"
    with ledger.open("a", encoding="utf-8") as file:
        file.write('\n\ndef compact(fleet: str) -> Call[None]:\n    """Drops the journal\'s beginning."""\n')

    check = generator(copy)

    assert check.returncode == 1
    assert "blockyard._ledger.compact makes a call, and METHODS in generate_client_methods.py lacks it" in check.stdout


def test_the_list_names_no_function_that_is_not_there(copy: Path) -> None:
    ledger = copy / "client" / "blockyard" / "_ledger.py"
    ledger.write_text(ledger.read_text(encoding="utf-8").replace("def verify(", "def _verify("))

    assert "METHODS names blockyard._ledger.verify, and there is no such function" in generator(copy).stdout
