"""No command lets a terminal obey what a server, a file or an argument says: every command, every field, every form."""

import json
import os
import pty
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from blockyard.cli.safe_text import safe
from tests.cli.conftest import CommandLine, Finished
from tests.cli.evil_server import (
    ERRORS,
    HOSTILE,
    METHODS,
    SHOWN,
    VARIANTS,
    EvilServer,
    evil_server,
    hostile_answer,
    hostile_parts,
)
from tests.docs.test_cli_page import COMMANDS

IN_ARGUMENTS = HOSTILE.replace("\x00", "").replace("/", "")
"""No argument of a process has a zero byte, and no id a slash."""
ARGUMENTS: Mapping[str, Sequence[str]] = {
    "blockyard fleet create": ["f"],
    "blockyard fleet get": ["f"],
    "blockyard fleet list": [],
    "blockyard fleet update": ["f", "--max-ttl", "1h"],
    "blockyard fleet delete": [IN_ARGUMENTS],
    "blockyard instance create": ["f", "n", "--blocks", "8"],
    "blockyard instance get": ["f", "n"],
    "blockyard instance list": ["f"],
    "blockyard instance update": ["f", "n", "--blocks", "8"],
    "blockyard instance delete": [IN_ARGUMENTS, IN_ARGUMENTS],
    "blockyard instance cordon": ["f", "n"],
    "blockyard instance uncordon": ["f", "n"],
    "blockyard acquire": ["--fleet", "f", "--holder", "h"],
    "blockyard release": ["f/1"],
    "blockyard renew": ["f/1"],
    "blockyard describe": ["f"],
    "blockyard allocations": ["f"],
    "blockyard allocation": ["f/1"],
    "blockyard events": ["f"],
    "blockyard watch": ["f", "--limit", "1"],
    "blockyard top": ["f"],
    "blockyard verify": [IN_ARGUMENTS],
    "blockyard repair": ["f", "--apply"],
    "blockyard run": ["--fleet", "f", "--holder", "h", "--verbose", "--", "true"],
    "blockyard replay": ["INSTANCES", "REQUESTS"],
    "blockyard auth whoami": [],
    "blockyard auth can-i": ["read", "--fleet", IN_ARGUMENTS],
}
"""What each command is given."""
LOCAL: Mapping[str, Sequence[str]] = {
    "blockyard serve": ["--listen", IN_ARGUMENTS],
    "blockyard backup": ["copy.db", "--data", f"/nowhere/{IN_ARGUMENTS}"],
    "blockyard restore": [f"/nowhere/{IN_ARGUMENTS}", "--data", f"/nowhere/{IN_ARGUMENTS}"],
    "blockyard admin restored": ["--data", f"/nowhere/{IN_ARGUMENTS}"],
    "blockyard token new": [IN_ARGUMENTS],
    "blockyard auth check": [f"/nowhere/{IN_ARGUMENTS}"],
    "blockyard context add": [IN_ARGUMENTS, "--address", "a:1"],
    "blockyard context remove": [IN_ARGUMENTS],
    "blockyard context use": [IN_ARGUMENTS],
    "blockyard context list": ["--output", IN_ARGUMENTS],
    "blockyard context show": [IN_ARGUMENTS],
}
"""The commands that ask no server."""
TEXT_ONLY = {"blockyard top", "blockyard run", "blockyard serve"}
ANSWERS = [*range(VARIANTS), *(-number - 1 for number in range(len(ERRORS)))]


@pytest.fixture(scope="module")
def evil() -> Iterator[EvilServer]:
    with evil_server() as evil:
        yield evil


@pytest.fixture
def files(tmp_path: Path) -> Mapping[str, str]:
    """A log for `replay`, as hostile as a file of it may be."""
    instances, requests = tmp_path / "instances.csv", tmp_path / "requests.csv"
    instances.write_text(f'name,total_blocks,label\n"n{IN_ARGUMENTS}",8,\n', newline="")
    requests.write_text("id,arrival_s,duration_s,n_instances,blocks\na,0,1,1,1\n")
    return {"INSTANCES": str(instances), "REQUESTS": str(requests)}


def words(command: str, files: Mapping[str, str]) -> list[str]:
    return [*command.split()[1:], *(files.get(word, word) for word in {**ARGUMENTS, **LOCAL}[command])]


def test_every_command_is_tried_here() -> None:
    assert set(ARGUMENTS) | set(LOCAL) == set(COMMANDS)


def test_every_answer_that_can_say_something_says_something_hostile() -> None:
    silent = {
        name.rpartition("/")[2]
        for name, method in METHODS.items()
        if not any("\u202e".encode() in hostile_answer(method, n).SerializeToString() for n in range(VARIANTS))
    }

    assert silent == {"DeleteFleet", "DeleteInstance", "CanI"}, "their answers have no text"


@pytest.mark.slow  # a process for each command; to a terminal they write the same text
@pytest.mark.parametrize("command", ARGUMENTS)
@pytest.mark.timeout(240)
def test_a_pipe_gets_nothing_hostile_from_any_command(evil: EvilServer, command: str, files: Mapping[str, str]) -> None:
    blockyard = CommandLine(evil.address)
    everything = ""
    for answer in answers_for(command):
        evil.answer = answer
        for form in ([], ["--output", "json"]):
            if form and command in TEXT_ONLY:
                continue
            own = words(command, files)
            at = own.index("--") if "--" in own else len(own)
            done = run_to_the_end(blockyard, [*own[:at], *form, *own[at:]], command)
            assert hostile_parts(done.out) == [], f"{command} {form} answer {answer}"
            assert hostile_parts(done.err) == [], f"{command} {form} answer {answer}"
            assert "Traceback" not in done.err
            if form:
                assert (done.out + done.err).isascii()
                documents(done.out)
            else:
                everything += done.out + done.err
    assert SHOWN in everything, "nothing of what the server says is shown"
    assert "[bold red]O[/]" in everything


def answers_for(command: str) -> Sequence[int]:
    """Every form of a good answer, and a quarter of the errors: four commands have all of them."""
    if command == "blockyard run":
        return [0, 1, -1, -2, -4]
    return [*range(VARIANTS), *ANSWERS[VARIANTS + [*ARGUMENTS].index(command) % 4 :: 4]]


def run_to_the_end(blockyard: CommandLine, arguments: list[str], command: str) -> Finished:
    """`run` forks its guard, so it has a process of its own."""
    if command != "blockyard run":
        return blockyard(*arguments)
    process = blockyard.start(*arguments)
    out, err = process.communicate()
    return Finished(process.returncode, out, err)


def documents(text: str) -> list[object]:
    """The JSON documents of an output, one after the other."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


@pytest.mark.parametrize("command", LOCAL)
def test_arguments_and_settings_are_shown_safely_by_commands_that_ask_no_server(command: str) -> None:
    done = CommandLine("")(*words(command, {}))

    assert done.code == 2
    assert hostile_parts(done.out + done.err) == []
    assert "202e" in done.err


def test_json_says_exactly_what_the_server_said(evil: EvilServer) -> None:
    evil.answer = 0

    allocation = CommandLine(evil.address)("allocation", "f/1", "--output", "json").document

    assert allocation["holder"] == HOSTILE
    assert allocation["annotations"] == {HOSTILE: HOSTILE}


ALL_COMMANDS = """
import json, os, sys
from blockyard.cli import main
for arguments in json.loads(os.environ["COMMANDS"]):
    main(arguments)
    sys.stdout.flush()
    print("== done", flush=True)
"""


@pytest.mark.parametrize("answer", [0, *(pytest.param(answer, marks=pytest.mark.slow) for answer in (3, -1, -4))])
@pytest.mark.timeout(240)
def test_a_terminal_gets_nothing_hostile_from_any_command(
    evil: EvilServer, answer: int, files: Mapping[str, str]
) -> None:
    evil.answer = answer
    commands = [words(command, files) for command in [*ARGUMENTS, *LOCAL] if command != "blockyard run"]
    shown = on_terminal([sys.executable, "-c", ALL_COMMANDS], evil.address, {"COMMANDS": json.dumps(commands)})
    main = "import sys; from blockyard.cli import main; sys.exit(main())"
    shown += on_terminal([sys.executable, "-c", main, *words("blockyard run", files)], evil.address, {})

    assert shown.count("== done") == len(commands)
    assert hostile_parts(shown) == []
    assert SHOWN in re.sub(r"\r\n *", "", shown)


def on_terminal(command: Sequence[str], address: str, variables: Mapping[str, str]) -> str:
    """What a command shows on a terminal of 80 columns, on which somebody presses `q` all the time."""
    environment = {**CommandLine(address).environment(variables), "TERM": "xterm", "NO_COLOR": "1"}
    pid, screen = pty.fork()
    if pid == 0:
        os.execve(command[0], list(command), environment)  # noqa: S606  # no shell is wanted
    shown = b""
    with suppress(OSError):  # how Linux says that nobody writes to the terminal any more
        while piece := os.read(screen, 65536):
            shown += piece
            if b"\x1b[?1049h" in piece:  # the screen of `top`
                os.write(screen, b"q")
    os.close(screen)
    os.waitpid(pid, 0)
    return shown.decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("node-1, plain", "node-1, plain"),
        ("größe 東京 👍", "größe 東京 👍"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x1b[31mred\x9b0m", r"\u{1b}[31mred\u{9b}0m"),
        ("a\u202egnp.exe", r"a\u{202e}gnp.exe"),
        ("\ufeffx\u200b\u2066\U000e0041", r"\u{feff}x\u{200b}\u{2066}\u{e0041}"),
        ("\ud800", r"\u{d800}"),
        ("e\u0301", "e\u0301"),
        ("\u0301x", r"\u{301}x"),
        ("e" + "\u0301" * 6, "e" + "\u0301" * 4 + r"\u{301}" * 2),
        ("", ""),
    ],
)
def test_what_a_terminal_would_obey_is_shown_by_its_number(text: str, shown: str) -> None:
    assert safe(text) == shown
