"""`blockyard context`: what the file may say, what is refused, and what is written into it."""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from blockyard.cli.contexts import Context, decode_config
from blockyard.cli.failures import CommandFailed, ExitCode
from tests.cli.conftest import CommandLine, Finished

SECRET = "bkyd_k3v9aaaa_c2VjcmV0"
FILE = Path("/home/ann/.config/blockyard/config.toml")


class Shell:
    """`blockyard` of a user whose settings are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "blockyard" / "config.toml"
        self._environment = {"XDG_CONFIG_HOME": str(folder), "HOME": str(folder)}

    def __call__(self, *words: str, **variables: str) -> Finished:
        return CommandLine("")(*words, environment={**self._environment, **variables})

    def write(self, text: str, mode: int = 0o600) -> None:
        """Writes the file by hand."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(text)
        self.file.chmod(mode)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_everything_that_a_context_may_say() -> None:
    said = {
        "address": "b:1",
        "ca": "ca.pem",
        "cert": "/c.pem",
        "key": "/k.pem",
        "server_name": "b",
        "tls": True,
        "token_command": ["a", "b c"],
        "caller": "sched",
    }
    config = decode_config({"current": "prod", "contexts": {"prod": said}}, FILE)

    assert config.current == "prod"
    assert config.context("prod") == Context(
        address="b:1",
        ca="/home/ann/.config/blockyard/ca.pem",
        cert="/c.pem",
        key="/k.pem",
        server_name="b",
        tls=True,
        token_command=("a", "b c"),
        caller="sched",
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"curent": "a"}, "curent is not known; there is contexts, current"),
        ({"contexts": 1}, "contexts is no table"),
        ({"contexts": {"a": 1}}, "context 'a': it is no table"),
        ({"contexts": {"a": {}}}, "address is missing"),
        ({"contexts": {"a": {"address": "b", "tokenfile": "t"}}}, "context 'a': tokenfile is not known"),
        ({"contexts": {"a": {"address": ""}}}, "address is a string that is not empty"),
        ({"contexts": {"a": {"address": 1}}}, "address is a string"),
        ({"contexts": {"a": {"address": "b", "ca": "x" * 5000}}}, "at most 4096 characters"),
        ({"contexts": {"a": {"address": "b", "token": ""}}}, "token is a string"),
        ({"contexts": {"a": {"address": "b", "tls": "yes"}}}, "tls is true or false"),
        ({"contexts": {"a": {"address": "b", "token_command": "gcloud auth"}}}, "token_command is a list of words"),
        ({"contexts": {"a": {"address": "b", "token_command": []}}}, "token_command is a list of words"),
        ({"contexts": {"a": {"address": "b", "token_command": ["a"] * 65}}}, "token_command is a list of words"),
        (
            {"contexts": {"a": {"address": "b", "token_file": "t", "token_command": ["c"]}}},
            "token_file and token_command exclude each other",
        ),
        ({"contexts": {"a b": {"address": "b"}}}, "a name has at most 63"),
        ({"contexts": {"-a": {"address": "b"}}}, "begins with a letter or digit"),
        ({"current": "b", "contexts": {"a": {"address": "b"}}}, "current = 'b' names none"),
        ({"current": ["a"], "contexts": {}}, "names none"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_name(document: Mapping[str, Any], message: str) -> None:
    with pytest.raises(CommandFailed, match=re.escape(message)) as e:
        decode_config(document, FILE)
    assert e.value.exit_code == ExitCode.USAGE
    assert str(FILE) in str(e.value)


def test_no_error_and_no_word_of_a_context_says_its_token() -> None:
    config = decode_config({"contexts": {"a": {"address": "b", "token": SECRET}}}, FILE)

    assert SECRET not in repr(config)
    with pytest.raises(CommandFailed) as e:
        decode_config({"contexts": {"a": {"address": "b", "token": SECRET, "token_file": "t"}}}, FILE)
    assert SECRET not in str(e.value)


def test_contexts_are_added_listed_used_and_removed(shell: Shell) -> None:
    assert "There are no contexts" in shell("context", "list").out

    assert shell("context", "add", "prod", "--address", "b:1", "--ca", "ca.pem", "--caller", "sched").code == 0
    assert shell("context", "add", "dev", "--address", "127.0.0.1:7350", "--token-command", "echo 'a b'").code == 0
    found = shell("context", "list", "-o", "json").document["contexts"]
    assert [(each["name"], each["current"], each["caller"]) for each in found] == [
        ("dev", False, None),
        ("prod", True, "sched"),
    ]
    assert found[0]["token_command"] == ["echo", "a b"]
    assert found[1]["ca"] == str(Path.cwd() / "ca.pem")
    rows = [line.split() for line in shell("context", "list").out.splitlines()]
    assert rows == [
        ["NAME", "ADDRESS", "TLS", "TOKEN"],
        ["dev", "127.0.0.1:7350", "no", "echo", "'a", "b'"],
        ["*", "prod", "b:1", "yes", "-"],
    ]

    assert shell("context", "use", "dev").code == 0
    assert shell("context", "show").out.splitlines() == [
        "context      dev",
        "address      127.0.0.1:7350 (the current context)",
        "tls          no",
        "token        the command `echo 'a b'`",
        "caller       -",
    ]
    assert shell("context", "show", "prod", "-o", "json").document == {
        "context": "prod",
        "address": "b:1",
        "address_from": "--context",
        "tls": True,
        "ca": str(Path.cwd() / "ca.pem"),
        "cert": None,
        "server_name": None,
        "token_from": None,
        "caller": "sched",
    }

    assert shell("context", "remove", "dev").code == 0
    assert "(the default)" in shell("context", "show").out
    assert [each["name"] for each in shell("context", "list", "-o", "json").document["contexts"]] == ["prod"]


def test_only_its_owner_can_read_what_is_written(shell: Shell) -> None:
    before = os.umask(0)
    try:
        shell("context", "add", "prod", "--address", "b:1")
    finally:
        os.umask(before)

    assert stat.S_IMODE(shell.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(shell.file.parent.stat().st_mode) == 0o700
    assert list(shell.file.parent.iterdir()) == [shell.file]


def test_what_people_wrote_stays(shell: Shell) -> None:
    shell.write('# ours\n[contexts.b]  # the second\naddress = "b:1"\n\n[contexts.a]\naddress = "a:1"\n')

    shell("context", "use", "a")
    shell("context", "add", "c", "--address", "c:1")
    shell("context", "remove", "a")

    text = shell.file.read_text()
    assert "# ours" in text
    assert "[contexts.b]  # the second" in text
    assert "contexts.a" not in text
    assert [each["name"] for each in shell("context", "list", "-o", "json").document["contexts"]] == ["b", "c"]


def test_a_link_to_the_file_stays_a_link(shell: Shell, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("")
    shell.file.parent.mkdir()
    shell.file.symlink_to(real)

    assert shell("context", "add", "prod", "--address", "b:1").code == 0
    assert shell.file.is_symlink()
    assert "b:1" in real.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["add", "prod"], "needs --address"),
        (["add", "a/b", "--address", "b:1"], "a name has at most"),
        (["add", "there", "--address", "b:1"], "There is a context 'there' already"),
        (["add", "new", "--address", "b:1", "--context", "there"], "--context names a context that is there"),
        (["add", "new", "--address", "b:1", "--token-file", "t", "--token-command", "c"], "exclude each other"),
        (["use", "nope"], "There is no context 'nope'"),
        (["remove", "nope"], "There is no context 'nope'"),
        (["show", "nope"], "There is no context 'nope'"),
        (["show", "there", "--context", "there"], "Name one context"),
    ],
)
def test_a_change_that_is_wrong_changes_nothing(shell: Shell, words: list[str], message: str) -> None:
    shell("context", "add", "there", "--address", "b:1")
    before = shell.file.read_text()

    done = shell("context", *words)

    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert shell.file.read_text() == before


def test_a_context_is_replaced_if_that_is_said(shell: Shell) -> None:
    shell("context", "add", "prod", "--address", "b:1", "--ca", "ca.pem")
    assert shell("context", "add", "prod", "--address", "b:2", "--replace").code == 0

    (found,) = shell("context", "list", "-o", "json").document["contexts"]
    assert (found["address"], found["ca"]) == ("b:2", None)


def test_the_address_of_the_environment_makes_no_context(shell: Shell) -> None:
    done = shell("context", "add", "prod", BLOCKYARD_ADDRESS="b:1")

    assert (done.code, "needs --address" in done.err) == (2, True)


def test_a_file_with_a_token_is_refused_while_others_can_read_it(shell: Shell) -> None:
    text = f'current = "prod"\n[contexts.prod]\naddress = "b:1"\ntoken = "{SECRET}"\n'
    for mode in (0o644, 0o640, 0o604, 0o602):
        shell.write(text, mode)
        for words in (["context", "list"], ["context", "show"], ["fleet", "list"]):
            done = shell(*words)
            assert (done.code, done.out) == (2, "")
            assert "holds a token, and others can read it" in done.err
            assert "chmod 600" in done.err
            assert SECRET not in done.err

    shell.write(text, 0o600)
    for words in (
        ["context", "list"],
        ["context", "list", "-o", "json"],
        ["context", "show"],
        ["context", "show", "-o", "json"],
    ):
        done = shell(*words)
        assert done.code == 0
        assert SECRET not in done.out + done.err
    assert "token        the context itself" in shell("context", "show").out


def test_a_file_without_a_token_may_be_read_by_others(shell: Shell) -> None:
    shell.write('[contexts.prod]\naddress = "b:1"\n', 0o644)

    assert shell("context", "list").code == 0


@pytest.mark.parametrize("text", ["[contexts", "current = \x00", "x" * (1024 * 1024 + 1)])
def test_a_file_that_is_no_toml_is_said(shell: Shell, text: str) -> None:
    shell.write(text)

    done = shell("fleet", "list")

    assert (done.code, done.out) == (2, "")
    assert str(shell.file) in done.err


def test_a_file_is_not_read_by_a_command_that_names_its_address(shell: Shell) -> None:
    shell.write("[contexts")

    assert shell("context", "show", "--address", "b:1").code == 0
    assert shell("context", "show", BLOCKYARD_ADDRESS="b:1").code == 0
