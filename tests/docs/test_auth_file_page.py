"""The pages about the auth file have every key, every hint and every role, and their files are right."""

import re
from dataclasses import fields

import pytest

from blockyard_server.domain.policy import Role
from blockyard_server.rpc.auth.auth_file import AuthFileRefused, parse_auth_file
from blockyard_server.rpc.auth.auth_file_rules import ALGORITHMS
from blockyard_server.rpc.auth.hints import Hint
from blockyard_server.rpc.auth.principal import PrincipalLimits
from tests.docs.page_runner import ROOT

PAGE = (ROOT / "docs" / "reference" / "auth-file.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "how-to" / "kubernetes-service-accounts.md").read_text(encoding="utf-8")
BOGUS = """
[[principal]]
tokens = [{ x = 1 }]
jwt = [{ x = 1 }]
grant = [{ x = 1 }]
limits = { x = 1 }
x = 1
[[issuer]]
x = 1
map = { x = 1 }
"""


def toml_blocks(page: str) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)


def keys_in_tables() -> dict[str, set[str]]:
    """The keys of each table of the page, by what its heading says that they are keys of."""
    found: dict[str, set[str]] = {}
    for what, rows in re.findall(r"^\| key of `(\w+)` .*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE):
        cells = [row.split("|")[1] for row in rows.splitlines()]
        found[what] = {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}
    return found


def known_keys() -> dict[str, set[str]]:
    """What the parser says that it knows, in each table."""
    with pytest.raises(AuthFileRefused) as refused:
        parse_auth_file(BOGUS)
    found = [
        re.fullmatch(r"(\w+) 1(?:: (\w+)(?:\[0\])?)?: unknown key 'x'; known are (.*)", problem)
        for problem in refused.value.problems
    ]
    return {each[2] or each[1]: set(each[3].split(", ")) for each in found if each}


def test_the_tables_have_every_key_and_no_other() -> None:
    assert known_keys().keys() == {"principal", "tokens", "jwt", "grant", "limits", "issuer", "map"}
    assert keys_in_tables() == known_keys()
    assert keys_in_tables()["limits"] == {each.name for each in fields(PrincipalLimits)}


def test_the_example_is_right_and_has_every_key() -> None:
    (example,) = toml_blocks(PAGE)

    assert parse_auth_file(example).warnings == ()
    keys = set(re.findall(r"(\w+) = ", example)) | {"limits", "map"}
    assert keys == set().union(*known_keys().values())


def test_the_defaults_of_the_limits_are_those_of_the_code() -> None:
    for each in fields(PrincipalLimits):
        if each.name != "burst":
            assert re.search(rf"^\| `{each.name}` \| .* \| {each.default:g} \|$", PAGE, flags=re.MULTILINE), each.name


def test_every_role_algorithm_and_hint_is_there() -> None:
    roles = re.findall(r"^\| (\w+) \| .* \|$", PAGE[PAGE.index("| role |") :], flags=re.MULTILINE)
    hints = PAGE[PAGE.index("| `hint` |") :]

    assert roles == ["role", *Role]
    assert ", ".join(ALGORITHMS) in PAGE
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", hints, flags=re.MULTILINE)))) == {
        "hint",
        *Hint,
    }


def test_the_file_of_the_guide_is_right() -> None:
    keys, file = toml_blocks(GUIDE)

    assert parse_auth_file(file).warnings == ()
    instead = re.sub(r"^jwks = .*\n", keys, file, flags=re.MULTILINE)
    assert parse_auth_file(instead).issuers[0].ca
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w.*?) \|", GUIDE, flags=re.MULTILINE)))) <= {
        "hint",
        *Hint,
    }
