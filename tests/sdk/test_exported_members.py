"""What `blockyard` exports: everything that a user meets, and nothing else."""

import json
import subprocess
import sys
from inspect import getmembers, signature
from types import ModuleType

import blockyard
from blockyard import aio, aio_lease, aio_watch, client, credentials, enums, errors, lease, types, watch


def public(module: ModuleType) -> set[str]:
    """The classes and aliases that a module defines for its users."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, type) and value.__module__ == module.__name__
    }


def test_every_public_type_can_be_had_from_the_package() -> None:
    modules = (aio, aio_lease, aio_watch, client, credentials, enums, errors, lease, types, watch)
    defined = set().union(*map(public, modules))
    others = {"Operation", "Reason", "RetryPolicy", "Seconds", "UNSET", "__version__", "operations"}
    others |= {"credentials_from_environment"}
    assert defined | others == set(blockyard.__all__)


def test_what_is_exported_is_there_once() -> None:
    assert len(blockyard.__all__) == len(set(blockyard.__all__))
    assert all(hasattr(blockyard, name) for name in blockyard.__all__)


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        return {
            name: list(signature(value).parameters)
            for name, value in getmembers(kind, callable)
            if not name.startswith("_")
        }

    assert "acquire" in methods(blockyard.Client)
    assert methods(blockyard.Client) == methods(blockyard.AsyncClient)


def test_every_method_says_what_it_does() -> None:
    leases_and_watches = (blockyard.Lease, blockyard.AsyncLease, blockyard.Watch, blockyard.AsyncWatch)
    for kind in (blockyard.Client, blockyard.AsyncClient, *leases_and_watches):
        for name, value in getmembers(kind):
            if not name.startswith("_"):
                assert value.__doc__, f"{kind.__name__}.{name}"


def test_the_sdk_loads_neither_the_server_nor_the_cli() -> None:
    program = "import sys, json, blockyard; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout)
    strangers = {"blockyard_server", "sqlalchemy", "alembic", "aiosqlite", "uvloop", "typer", "rich"}
    assert strangers.isdisjoint(name.partition(".")[0] for name in loaded)
    assert "blockyard.cli" not in loaded
