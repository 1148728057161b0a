"""What a server may be told, where a wrong value would cost the promise."""

import pkgutil
from importlib import import_module
from types import ModuleType

import pytest

import blockyard
from blockyard_server.settings import MIN_RETENTION_S, Settings, SettingsRefused


def modules() -> list[ModuleType]:
    """All of the SDK and the command line."""
    found = pkgutil.walk_packages(blockyard.__path__, "blockyard.")
    return [import_module(each.name) for each in found if not each.name.endswith("__main__")]


def test_no_token_is_forgotten_while_the_sdk_or_the_command_line_may_still_retry_with_it() -> None:
    seconds = {
        f"{module.__name__}.{name}": value
        for module in modules()
        for name, value in vars(module).items()
        if name.endswith("_TIMEOUT_S")
    }
    assert {"blockyard._ledger.VERIFY_TIMEOUT_S", "blockyard._retry.LONGEST_CHANGE_TIMEOUT_S"} <= seconds.keys()
    assert max(seconds.values()) * 2 <= MIN_RETENTION_S


@pytest.mark.parametrize("retention_s", [0.0, 1.0, MIN_RETENTION_S - 0.001])
def test_a_retention_that_is_shorter_than_a_retry_is_refused(retention_s: float) -> None:
    with pytest.raises(SettingsRefused, match="retention_s"):
        Settings(retention_s=retention_s)


def test_a_start_renews_leases_by_their_whole_length_unless_told_otherwise() -> None:
    assert Settings().restart_grace_s is None
    assert Settings(restart_grace_s=0).restart_grace_s == 0
