"""Which server a command calls and with which credentials: the table of docs/reference/cli.md."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from blockyard import Tls
from blockyard.cli.contexts import Config, Context
from blockyard.cli.failures import CommandFailed
from blockyard.cli.server_choice import ServerChoice, ServerOptions, choose_server
from blockyard.cli.token_command import TokenCommand

PROD = Context(address="prod:1", ca="/prod/ca", token_file="/prod/token", caller="prod")
DEV = Context(address="dev:1", token="s3cret")
CONFIG = Config("prod", MappingProxyType({"prod": PROD, "dev": DEV}))


def choose(options: Mapping[str, Any], variables: Mapping[str, str], config: Config = CONFIG) -> ServerChoice:
    return choose_server(ServerOptions(**options), variables, lambda: config)


@pytest.mark.parametrize(
    ("options", "variables", "target", "token", "ca"),
    [
        ({}, {}, "prod:1", "/prod/token", "/prod/ca"),
        ({"context": "prod"}, {}, "prod:1", "/prod/token", "/prod/ca"),
        # A context's credentials go to no other address.
        ({"address": "other:1"}, {}, "other:1", None, None),
        ({}, {"BLOCKYARD_ADDRESS": "other:1"}, "other:1", None, None),
        # The environment's go with the environment's address, with one on the command line, and before a context's.
        ({"address": "other:1"}, {"BLOCKYARD_TOKEN_FILE": "/t"}, "other:1", "/t", None),
        ({}, {"BLOCKYARD_ADDRESS": "other:1", "BLOCKYARD_TOKEN_FILE": "/t"}, "other:1", "/t", None),
        ({}, {"BLOCKYARD_CONTEXT": "prod", "BLOCKYARD_TOKEN_FILE": "/t"}, "prod:1", "/t", "/prod/ca"),
        ({}, {"BLOCKYARD_CA": "/e/ca"}, "prod:1", "/prod/token", "/e/ca"),
        # They do not go to a context that is named on the command line.
        (
            {"context": "prod"},
            {"BLOCKYARD_TOKEN_FILE": "/t", "BLOCKYARD_CA": "/e"},
            "prod:1",
            "/prod/token",
            "/prod/ca",
        ),
        (
            {"context": "prod"},
            {"BLOCKYARD_ADDRESS": "o:1", "BLOCKYARD_CONTEXT": "dev"},
            "prod:1",
            "/prod/token",
            "/prod/ca",
        ),
        # Options come first, one by one.
        ({"context": "prod", "token_file": "/o"}, {}, "prod:1", "/o", "/prod/ca"),
        ({"ca": "/o/ca"}, {"BLOCKYARD_CA": "/e/ca"}, "prod:1", "/prod/token", "/o/ca"),
        ({"token_file": "/o"}, {"BLOCKYARD_TOKEN": "t"}, "prod:1", "/o", "/prod/ca"),
        ({"address": "o:1"}, {"BLOCKYARD_CONTEXT": "dev"}, "o:1", None, None),
        # What is empty is not set.
        (
            {},
            {"BLOCKYARD_ADDRESS": "", "BLOCKYARD_CONTEXT": "", "BLOCKYARD_TOKEN": ""},
            "prod:1",
            "/prod/token",
            "/prod/ca",
        ),
    ],
)
def test_which_server_and_which_credentials(
    options: Mapping[str, Any], variables: Mapping[str, str], target: str, token: str | None, ca: str | None
) -> None:
    choice = choose(options, variables)

    assert (choice.target, choice.token, choice.token_file) == (target, None, token)
    assert (choice.tls.ca if choice.tls else None) == ca


def test_without_anything_it_is_the_default() -> None:
    choice = choose({}, {}, Config())

    assert (choice.target, choice.origin, choice.tls, choice.token_origin) == (
        "127.0.0.1:7350",
        "the default",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("options", "variables", "message"),
    [
        ({"address": "a:1", "context": "prod"}, {}, "--context and --address both say"),
        ({}, {"BLOCKYARD_ADDRESS": "a:1", "BLOCKYARD_CONTEXT": "prod"}, "BLOCKYARD_CONTEXT and BLOCKYARD_ADDRESS both"),
        ({"context": "nope"}, {}, "no context 'nope'"),
        ({}, {"BLOCKYARD_CONTEXT": "nope"}, "no context 'nope'"),
        ({}, {"BLOCKYARD_TOKEN": "s3cret", "BLOCKYARD_TOKEN_FILE": "/t"}, "both set"),
        ({"tls": False, "ca": "/ca", "address": "a:1"}, {}, "switched off, and ca given"),
        ({}, {"BLOCKYARD_TLS": "maybe"}, "BLOCKYARD_TLS is 'maybe'"),
        ({"cert": "/c", "address": "a:1"}, {}, "cert is given without key"),
        ({"cert": "/c", "address": "a:1"}, {"BLOCKYARD_KEY": "/k"}, "cert is given without key"),
    ],
)
def test_what_contradicts_itself_is_refused(
    options: Mapping[str, Any], variables: Mapping[str, str], message: str
) -> None:
    with pytest.raises(CommandFailed, match=message) as e:
        choose(options, variables)
    assert "s3cret" not in str(e.value)


def test_tls_without_a_file_is_asked_for_by_a_switch() -> None:
    assert choose({"address": "a:1", "tls": True}, {}).tls == Tls()
    assert choose({"address": "a:1"}, {"BLOCKYARD_TLS": "1"}).tls == Tls()
    assert choose({"address": "a:1", "tls": False}, {"BLOCKYARD_TLS": "1"}).tls is None
    assert choose({"address": "a:1", "server_name": "b"}, {}).tls == Tls(server_name="b")


def test_a_context_has_its_token_or_a_command_for_it() -> None:
    with_command = Config("c", {"c": Context(address="c:1", token_command=("echo", "t"))})

    assert (choose({"context": "dev"}, {}).token, choose({"context": "dev"}, {}).token_origin) == (
        "s3cret",
        "the context itself",
    )
    assert isinstance(choose({}, {}, with_command).token, TokenCommand)
    assert "s3cret" not in repr(choose({"context": "dev"}, {})) + repr(CONFIG)


def test_options_before_a_command_count_where_its_own_say_nothing() -> None:
    before = ServerOptions(address="a:1", ca="/a", tls=True)

    assert ServerOptions(ca="/b", tls=False).over(before) == ServerOptions(address="a:1", ca="/b", tls=False)
