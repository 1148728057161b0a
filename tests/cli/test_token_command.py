"""The command that prints a token: it ends, and what it prints has a bound."""

import os
import select
import sys
from pathlib import Path

import pytest

from blockyard.cli import token_command
from blockyard.cli.failures import CommandFailed
from blockyard.cli.token_command import MAX_OUTPUT_BYTES, TokenCommand


def python(program: str) -> TokenCommand:
    return TokenCommand([sys.executable, "-c", program])


def test_what_it_prints_is_the_token() -> None:
    assert python("print('token')")() == "token"


def test_no_shell_reads_its_words() -> None:
    assert TokenCommand(["echo", "$HOME;", "`id`"])() == "$HOME; `id`"


def test_it_has_nothing_to_read() -> None:
    assert python("import sys; print('token' + sys.stdin.read())")() == "token"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (TokenCommand(["/nowhere/login"]), "cannot be started: No such file"),
        (python("import sys; print('secret'); sys.exit('please log in')"), "ended with 1: please log in"),
        (python("import os, signal; os.kill(os.getpid(), signal.SIGTERM)"), "ended with -15"),
        (python("pass"), "printed nothing"),
        (python(f"print('x' * {MAX_OUTPUT_BYTES + 1})"), "printed more than"),
        (python("while True: print('x' * 1000)"), "printed more than"),
        (python("import sys\nwhile True: sys.stderr.write('x' * 1000)"), "printed more than"),
    ],
)
def test_what_it_fails_of_is_said_without_what_it_printed(command: TokenCommand, message: str) -> None:
    with pytest.raises(CommandFailed, match=message) as e:
        command()
    assert "secret" not in str(e.value).partition("`, ")[2]


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(600)",
        "import subprocess; subprocess.Popen(['sleep', '600'])",  # which has the pipe
        "import os, time; os.close(1); os.close(2); time.sleep(600)",
    ],
)
def test_one_that_does_not_end_is_ended_with_what_it_started(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_command, "TIMEOUT_S", 0.5)

    with pytest.raises(CommandFailed, match=r"has not ended after 0\.5 seconds"):
        python(program)()


def test_what_holds_its_pipes_is_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_command, "TIMEOUT_S", 2.0)
    alive, ready = tmp_path / "alive", tmp_path / "ready"
    for path in (alive, ready):
        os.mkfifo(path)
    child = f"import time; held = open({str(alive)!r}, 'w'); open({str(ready)!r}, 'w').close(); time.sleep(600)"
    program = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]); open({str(ready)!r}).read()"
    )

    with os.fdopen(os.open(alive, os.O_RDONLY | os.O_NONBLOCK)) as held:
        with pytest.raises(CommandFailed, match="has not ended"):
            python(program)()
        os.set_blocking(held.fileno(), True)
        assert held.read() == ""  # it comes when nobody has the other end any more


def test_what_it_leaves_running_is_left_alone(tmp_path: Path) -> None:
    """An agent that it starts, say."""
    question, answer = tmp_path / "question", tmp_path / "answer"
    for path in (question, answer):
        os.mkfifo(path)
    agent = f"open({str(answer)!r}, 'w').write(open({str(question)!r}).readline())"
    start = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {agent!r}], stdout=-3, stderr=-3); print('t')"
    )

    assert python(start)() == "t"
    # Opened so that neither waits for the other side.
    with os.fdopen(os.open(question, os.O_RDWR), "w") as asks, os.fdopen(os.open(answer, os.O_RDWR)) as answers:
        asks.write("are you there?\n")
        asks.flush()
        assert select.select([answers], [], [], 60)[0]
        assert answers.readline() == "are you there?\n"
