"""What a server may be told, where a wrong value would cost the promise."""

import pkgutil
import re
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import blockyard
from blockyard._defaults import DEFAULT_ADDRESS
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


TLS: Final[dict[str, Any]] = {"tls_cert": Path("c.pem"), "tls_key": Path("k.pem")}
MTLS: Final[dict[str, Any]] = {"mtls_listen": "127.0.0.1:1", "tls_client_ca": Path("ca.pem")}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"listen": "127.0.0.1:1,here"}, "listen is 'here', and must be HOST:PORT"),
        ({"listen": "127.0.0.1:1,"}, "listen is '', and must be HOST:PORT"),
        ({"listen": "127.0.0.1:1, 127.0.0.1:1"}, "name 127.0.0.1:1 twice"),
        ({"listen": "127.0.0.1:1", **TLS, **MTLS}, "name 127.0.0.1:1 twice"),
        (
            {"listen": ",".join(f"127.0.0.1:{port}" for port in range(1, 10))},
            "have 9 addresses, and must have at most 8",
        ),
        ({"listen": ""}, "are all empty, and one of them must be given"),
        ({"mtls_listen": "here"}, "mtls_listen is 'here', and must be HOST:PORT"),
        ({"admin_socket": Path("/" + "a" * 103)}, "the path of admin_socket must have at most 103 bytes"),
        ({"admin_socket": Path("/" + "ä" * 52)}, "the path of admin_socket must have at most 103 bytes"),
        ({"tls_cert": Path("c.pem")}, "tls_cert and tls_key must be given together"),
        ({"tls_key": Path("k.pem")}, "tls_cert and tls_key must be given together"),
        ({**TLS, "mtls_listen": "127.0.0.1:1"}, "mtls_listen and tls_client_ca must be given together"),
        ({**TLS, "tls_client_ca": Path("ca.pem")}, "mtls_listen and tls_client_ca must be given together"),
        (MTLS, "mtls_listen needs tls_cert and tls_key"),
        ({**TLS, "insecure_no_tls": True}, "no listener would use it"),
        ({**TLS, "listen": "", "admin_socket": Path("a.sock")}, "no listener would use it"),
        ({"auth_file": Path("auth.toml"), "insecure_no_auth": True}, "contradict each other"),
    ],
)
def test_settings_of_listeners_that_cannot_be_meant_are_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsRefused, match=re.escape(why)):
        Settings(**given)


def test_an_address_is_one_or_several_with_commas_between() -> None:
    assert Settings().listen_addresses == (DEFAULT_ADDRESS,)
    assert Settings(listen="a:1, [::1]:2,c:0,c:0").listen_addresses == ("a:1", "[::1]:2", "c:0", "c:0")
    assert Settings(listen="", **TLS, **MTLS).mtls_addresses == ("127.0.0.1:1",)
    assert Settings(listen="", admin_socket=Path("/" + "a" * 102)).listen_addresses == ()
