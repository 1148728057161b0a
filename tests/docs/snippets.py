"""Reads the snippets of a page: what a reader would type or run, and what the page promises they will see.

The convention is written down in CONTRIBUTING.md. A page that breaks it is refused, so that no snippet is left
out silently.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

PROMPT: Final = "$ "

UNEXECUTED_SPELLINGS: Final = {
    "bash": "console",
    "sh": "console",
    "shell": "console",
    "py": "python",
    "pycon": "python",
}
"""Fences that look as if they were executed, and what to write instead."""

MARKER: Final = re.compile(
    r"<!-- (server stops|server|run by \.ci/run|run by tests/\S+\.py|not run)(?:: (.+?))? -->", re.DOTALL
)
BY_TEST: Final = "run by "
"""Stands before the name of the test that runs a block."""


class MalformedPage(Exception):
    """A page breaks the convention; the message names the line."""


@dataclass(frozen=True, slots=True)
class Command:
    """One line of a shell, and what the page shows of its output."""

    line: int
    """Where it stands in the page, from 1."""
    text: str
    expected: str
    """Empty: the page shows none, and none is compared."""


@dataclass(frozen=True, slots=True)
class Program:
    """One block of Python. The blocks of a page share their names, from top to bottom."""

    line: int
    text: str
    expected: str


@dataclass(frozen=True, slots=True)
class Server:
    """The command that starts the page's server, which runs until the page ends."""

    command: Command


@dataclass(frozen=True, slots=True)
class ServerStops:
    """The page's server is stopped here."""

    line: int


@dataclass(frozen=True, slots=True)
class RunByCI:
    """A command that CI runs by itself, because a test cannot run the tests."""

    command: Command


@dataclass(frozen=True, slots=True)
class RunByTest:
    """A command that a test of its own runs, because it needs programs that not every machine has."""

    command: Command
    test: str
    """The test's file, from the project's folder."""


Snippet = Command | Program | Server | ServerStops | RunByCI | RunByTest


def read_snippets(text: str) -> list[Snippet]:
    """All snippets of a page that are to be proven, in order. Raises MalformedPage."""
    return list(_snippets(MarkdownIt("commonmark").parse(text)))


def _snippets(tokens: Sequence[Token]) -> Iterator[Snippet]:
    for index, token in enumerate(tokens):
        marker = _marker_of(tokens[index - 1]) if index else None
        if token.type == "fence":
            output = _output_below(tokens, index)
            yield from _snippets_of_fence(token, marker, output)
        elif hidden := _marker_of(token):
            yield from _standing_alone(token, hidden, tokens[index + 1 : index + 2])


def _marker_of(token: Token) -> re.Match[str] | None:
    return MARKER.fullmatch(token.content.strip()) if token.type == "html_block" else None


def _line_of(token: Token) -> int:
    """The first line of what stands in a fence, or of a comment."""
    first = token.map[0] + 1 if token.map else 0
    return first + 1 if token.type == "fence" else first


def _standing_alone(token: Token, marker: re.Match[str], below: Sequence[Token]) -> Iterator[Snippet]:
    if marker[1] == "server" and marker[2]:
        yield Server(Command(_line_of(token), marker[2], ""))
    elif marker[1] == "server stops":
        yield ServerStops(_line_of(token))
    elif not below or below[0].type != "fence":
        raise MalformedPage(f"line {_line_of(token)}: {token.content.strip()} must stand directly above a block")


def _output_below(tokens: Sequence[Token], index: int) -> str:
    """What a `text` block directly below a `python` block shows."""
    below = tokens[index + 1 : index + 2]
    return below[0].content if below and below[0].type == "fence" and below[0].info.strip() == "text" else ""


def _snippets_of_fence(token: Token, marker: re.Match[str] | None, output: str) -> Iterator[Snippet]:
    language, line = token.info.strip(), _line_of(token)
    if marker and marker[1] == "not run":
        if not marker[2]:
            raise MalformedPage(f"line {line}: a block that is not run needs a reason: <!-- not run: reason -->")
        return
    if language in UNEXECUTED_SPELLINGS:
        raise MalformedPage(f"line {line}: write ```{UNEXECUTED_SPELLINGS[language]}, which is executed")
    if language == "python":
        yield Program(line, token.content, output)
    elif language == "console":
        kind = marker[1] if marker else ""
        for command in _commands(token.content, line):
            yield _as_marked(command, kind)


def _as_marked(command: Command, kind: str) -> Snippet:
    match kind:
        case "server":
            return Server(command)
        case "run by .ci/run":
            return RunByCI(command)
        case _ if kind.startswith(BY_TEST):
            return RunByTest(command, kind.removeprefix(BY_TEST))
        case _:
            return command


def _commands(block: str, first_line: int) -> list[Command]:
    """A console block: each `$ ` begins a command, a backslash at the end continues it, the rest is output."""
    commands: list[Command] = []
    for line, text in enumerate(block.splitlines(), start=first_line):
        if text.startswith(PROMPT):
            commands.append(Command(line, text.removeprefix(PROMPT), ""))
            continue
        if not commands:
            raise MalformedPage(f"line {line}: a console block begins with `{PROMPT}command`")
        last = commands.pop()
        if last.text.endswith("\\") and not last.expected:
            commands.append(Command(last.line, f"{last.text}\n{text}", ""))
        else:
            commands.append(Command(last.line, last.text, f"{last.expected}{text}\n"))
    return commands
