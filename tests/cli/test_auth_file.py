"""`blockyard token new` and `blockyard auth check` as their user has them. They ask no service."""

import hashlib
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine

NOBODY = CommandLine("127.0.0.1:1")


def test_a_new_token_is_shown_with_the_line_that_the_auth_file_takes(tmp_path: Path) -> None:
    made = NOBODY("token", "new", "sched-a")
    file = tmp_path / "auth.toml"

    assert (made.code, made.err) == (0, "")
    token, _, sentence, _, *lines = made.out.splitlines()
    assert sentence == "This token is not shown again. Add its line to the entry of the principal in the auth file:"
    (principal,) = tomllib.loads("\n".join(lines))["principal"]
    (entry,) = principal["tokens"]
    assert principal["id"] == "sched-a"
    assert entry == {"id": token.split("_")[1], "sha256": hashlib.sha256(token.encode()).hexdigest()}
    assert token not in "\n".join(lines)
    file.write_text("\n".join([*lines, 'grant = [{ role = "viewer", fleets = ["*"] }]']))
    file.chmod(0o600)
    assert NOBODY("auth", "check", str(file)).out == f"{file} is good: 1 principal, 1 token, 0 issuers.\n"


def test_a_token_may_end_at_a_time_or_after_one() -> None:
    at = NOBODY("token", "new", "a", "--not-after", "2999-01-01T01:00:00+01:00", "--output", "json").document
    after = NOBODY("token", "new", "a", "--not-after", "90d", "--output", "json").document

    assert at["not_after"] == "2999-01-01T00:00:00Z"
    assert at["toml"] == f'{{ id = "{at["id"]}", sha256 = "{at["sha256"]}", not_after = 2999-01-01T00:00:00Z }}'
    assert hashlib.sha256(at["token"].encode()).hexdigest() == at["sha256"]
    assert datetime.fromisoformat(after["not_after"]) - datetime.now(UTC) < timedelta(days=90)
    assert at.keys() == {"principal", "token", "id", "sha256", "not_after", "toml"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("Sched",), "'Sched' is no principal's id"),
        (("",), "'' is no principal's id"),
        (("a", "--not-after", "2020-01-01T00:00:00Z"), "is over already"),
        (("a", "--not-after", "0s"), "is over already"),
        (("a", "--not-after", "2999-01-01"), "is no time; write 2027-01-01T00:00:00Z"),
        (("a", "--not-after", "2999-01-01T00:00:00"), "is no time"),
        (("a", "--not-after", "tomorrow"), "is no time"),
        (("a", "--not-after", ""), "is no time"),
        (("a", "--not-after", "9999-12-31T23:59:59-23:59"), "is too early or too late"),
    ],
)
def test_a_token_that_would_be_of_no_use_is_not_made(arguments: tuple[str, ...], words: str) -> None:
    refused = NOBODY("token", "new", *arguments)

    assert (refused.code, refused.out) == (2, "")
    assert words in refused.err


def test_a_file_is_refused_with_a_line_for_each_problem(tmp_path: Path) -> None:
    file = tmp_path / "auth.toml"
    file.write_text('[[principal]]\nid = "a"\nweigth = 2\nweight = 0\n')

    refused = NOBODY("auth", "check", str(file))
    assert (refused.code, refused.out) == (2, "")
    known = "callers, grant, id, jwt, limits, tenant, tokens, weight, x509"
    assert refused.err.splitlines() == [
        "principal 1 (a): weight: must be a whole number from 1 to 20",
        f"principal 1 (a): unknown key 'weigth'; known are {known}",
        f"{file} would be refused.",
    ]
    document = NOBODY("auth", "check", str(file), "--output", "json")
    assert document.code == 2
    assert document.document == {
        "file": str(file),
        "good": False,
        "problems": refused.err.splitlines()[:2],
        "warnings": [],
    }
    assert NOBODY("auth", "check", str(tmp_path / "none")).code == 2


def test_what_is_probably_not_meant_is_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "auth.toml"
    file.write_text(
        f'[[principal]]\nid = "a"\ntokens = [{{ id = "t", sha256 = "{"0" * 64}", not_after = 2020-01-01T00:00:00Z }}]\n'
    )
    file.chmod(0o644)

    warnings = [
        "the file has mode 0644, so that others may use it; chmod 600 keeps them out",
        "principal 1 (a): has no grant, so that it may do nothing",
        "principal 1 (a): the token t has expired",
    ]
    found = NOBODY("auth", "check", str(file))
    assert (found.code, found.err) == (0, "")
    assert found.out.splitlines()[1:] == [f"warning: {warning}" for warning in warnings]
    assert NOBODY("auth", "check", str(file), "--output", "json").document == {
        "file": str(file),
        "good": True,
        "principals": 1,
        "tokens": 1,
        "issuers": 0,
        "problems": [],
        "warnings": warnings,
    }


def test_text_of_a_file_cannot_control_the_terminal(tmp_path: Path) -> None:
    file = tmp_path / "auth.toml"
    file.write_text('[[principal]]\nid = "a"\n"\\u001b[2J\\u202e" = 1\n')

    assert NOBODY("auth", "check", str(file)).err.isascii()
    assert "\x1b" not in NOBODY("auth", "check", str(file)).err
