"""docs/reference/cli.md is complete, and names nothing that is not there: commands, options, exit codes, settings."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import typer

from blockyard._credentials import INSECURE_TOKEN
from blockyard.cli.app import app
from blockyard.cli.failures import ExitCode
from blockyard.cli.server_choice import CONTEXT
from blockyard.credentials import CA, CERT, KEY, SERVER_NAME, TLS, TOKEN, TOKEN_FILE
from blockyard_server.settings import Settings
from tests.docs.page_runner import ROOT

PAGE = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "how-to" / "operate.md").read_text(encoding="utf-8")
NOT_OPTIONS = {
    "BLOCKYARD_TRACEBACK",
    "BLOCKYARD_DATABASE",
    "BLOCKYARD_ALLOCATION",
    "BLOCKYARD_INSTANCE",
    "BLOCKYARD_BLOCKS",
    "BLOCKYARD_FENCING_TOKEN",
    INSECURE_TOKEN,
}
"""Variables that stand for no option of a client: for the reporter of a fault, the server, the command of `run`, and
tokens in plain text."""
OF_CREDENTIALS = {CONTEXT, TOKEN, TOKEN_FILE, CA, CERT, KEY, SERVER_NAME, TLS}
"""Those that the commands read together, so that typer does not know them."""


def commands_of(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


ROOT_COMMAND: Any = typer.main.get_command(app)
COMMANDS: Mapping[str, Any] = dict(commands_of(ROOT_COMMAND, "blockyard"))
OF_THE_PROGRAM = {"--help"} | {
    option for parameter in ROOT_COMMAND.params for option in [*parameter.opts, *parameter.secondary_opts]
}
"""What `blockyard` itself takes, before a command."""


def options_of(*names: str) -> set[str]:
    return {"--help"} | {
        option
        for name in names
        for parameter in COMMANDS[name].params
        for option in [*parameter.opts, *parameter.secondary_opts]
    }


def variables_of(*names: str) -> set[str]:
    return {str(parameter.envvar) for name in names for parameter in COMMANDS[name].params if parameter.envvar}


def options_named(text: str) -> set[str]:
    """The long options in prose and in commands, but for those of the command that `run` is given."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.sub(r" -- .*", "", text)))


def variables_named(text: str) -> set[str]:
    return set(re.findall(r"BLOCKYARD_[A-Z_]+", text))


def test_every_command_has_its_heading_and_no_other_has_one() -> None:
    headings = re.findall(r"^#+ (blockyard .+)$", PAGE, flags=re.MULTILINE)

    assert sorted(headings) == sorted(COMMANDS)


def test_every_option_that_the_page_names_exists() -> None:
    # What stands in a command of the page is also executed; this is for the prose.
    assert options_named(PAGE) - options_of(*COMMANDS) - OF_THE_PROGRAM == set()


def test_the_page_names_every_option_of_every_command() -> None:
    clients = options_of(*(COMMANDS.keys() - {"blockyard serve"}))

    assert {option for option in clients if option.startswith("--")} - options_named(PAGE) == set()


def test_the_page_says_every_exit_code() -> None:
    first_cells = re.findall(r"^\| ([\d, ]+) \|", PAGE, flags=re.MULTILINE)

    assert {int(code) for cell in first_cells for code in cell.split(",")} == set(ExitCode)


def test_the_page_names_every_variable_and_no_other() -> None:
    clients = variables_of(*(COMMANDS.keys() - {"blockyard serve"}))

    assert variables_named(PAGE) == clients | NOT_OPTIONS | OF_CREDENTIALS


def test_the_operators_page_sends_to_the_help_that_lists_every_setting() -> None:
    assert "`blockyard serve --help` lists them" in OPERATIONS
    assert {f"--{setting.name.replace('_', '-')}" for setting in fields(Settings)} <= options_of("blockyard serve")
    assert {f"BLOCKYARD_{setting.name.upper()}" for setting in fields(Settings)} <= variables_of("blockyard serve")


def test_the_operators_page_names_no_option_or_variable_that_is_not_there() -> None:
    assert options_named(OPERATIONS)
    assert options_named(OPERATIONS) - options_of(*COMMANDS) == set()
    assert variables_named(OPERATIONS) - variables_of("blockyard serve") == set()
