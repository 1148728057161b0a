"""`blockyard watch` and `blockyard top` as a person and a program have them, against a real server."""

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from blockyard import Client
from blockyard.cli.watch import ANSWERS_AGAIN, NO_ANSWER, SilenceNotice
from tests.cli.conftest import COMMAND, CommandLine, serving

PATIENCE_S: Final = 30
"""Nothing here takes nearly as long."""


@contextmanager
def started(blockyard: CommandLine, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    process = blockyard.start(*arguments)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "it ended"
    return line


def test_each_change_is_a_line_as_soon_as_it_is_made(blockyard: CommandLine, client: Client, fleet: str) -> None:
    with started(blockyard, "watch", fleet, "--from", "2") as process:
        assert "INSTANCE_CREATED  node-1: 8 blocks" in line_of(process)
        grant = client.acquire(fleet, holder="train", blocks=2)
        granted = line_of(process)
        client.release(grant.allocation.name)
        released = line_of(process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)

    assert granted.split()[:1] == ["3"]
    assert granted.endswith(f"GRANTED           {grant.allocation.name} of train  node-1:0-1\n")
    assert "RELEASED" in released
    assert (process.returncode, err) == (130, "Interrupted.\n")


def test_a_program_gets_one_document_a_line(blockyard: CommandLine, client: Client, fleet: str) -> None:
    client.acquire(fleet, holder="train", blocks=2)
    done = blockyard("watch", fleet, "--from-revision", "1", "--limit", "3", "-o", "json")

    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [(each["revision"], each["kind"]) for each in lines] == [
        (1, "FLEET_CREATED"),
        (2, "INSTANCE_CREATED"),
        (3, "GRANTED"),
    ]
    assert lines[2] == blockyard("events", fleet, "--from", "3", "-o", "json").document["events"][0]
    assert done.code == 0


def test_filters_are_those_of_events(blockyard: CommandLine, client: Client, fleet: str) -> None:
    for holder in ("a", "b", "a"):
        client.release(client.acquire(fleet, holder=holder, blocks=1).allocation.name)
    chosen = ("--kind", "granted", "--kind", "expired", "--holder", "a", "--instance", "node-1")
    done = blockyard("watch", fleet, "--from", "1", "--limit", "2", *chosen, "-o", "json")

    assert [json.loads(line)["revision"] for line in done.out.splitlines()] == [3, 7]


def test_a_fleet_that_never_was_is_refused(blockyard: CommandLine) -> None:
    for command in ("watch", "top"):
        done = blockyard(command, "nope")
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("Error (FLEET_NOT_FOUND): ")


def test_top_draws_once_where_there_is_no_terminal(blockyard: CommandLine, client: Client, fleet: str) -> None:
    client.acquire(fleet, holder="train", blocks=2)
    done = blockyard("top", fleet)

    lines = done.out.splitlines()
    assert lines[0] == f"{fleet} at revision 3: 2 of 8 blocks busy, 6 idle"
    assert lines[2].startswith("node-1  AA······")
    assert lines[-3].split()[::2][:1] == ["1"]
    assert "GRANTED" in lines[-1]
    assert done.code == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_top_draws_in_ascii_where_nothing_else_can_be_said(
    blockyard: CommandLine, client: Client, fleet: str, encoding: str
) -> None:
    client.acquire(fleet, holder="train", blocks=2)
    done = blockyard("top", fleet, encoding=encoding)

    assert done.out.isascii()
    assert "node-1  AA......" in done.out


class Terminal:
    """A command on a terminal of its own, 24 lines of 80 columns."""

    def __init__(self, blockyard: CommandLine, *arguments: str) -> None:
        self._main, terminal = pty.openpty()
        environment = {**blockyard.environment({}), "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)
        self.seen = ""

    def wait_for(self, text: str) -> None:
        """Reads until this has been drawn, in one piece."""
        while text not in self.seen:
            ready, _, _ = select.select([self._main], [], [], PATIENCE_S)
            assert ready, f"{text!r} never came: {self.seen[-2000:]!r}"
            self.seen += os.read(self._main, 65536).decode(errors="replace")

    def press(self, key: str) -> None:
        os.write(self._main, key.encode())

    def code(self) -> int:
        """The exit code; what is still drawn is read meanwhile."""
        while self.process.poll() is None:
            ready, _, _ = select.select([self._main], [], [], 0.1)
            if ready:
                try:
                    self.seen += os.read(self._main, 65536).decode(errors="replace")
                except OSError:  # the other side has closed it
                    break
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)


@pytest.fixture
def terminal(blockyard: CommandLine, fleet: str) -> Iterator[Terminal]:
    shown = Terminal(blockyard, "top", fleet)
    yield shown
    shown.close()


def test_top_draws_anew_at_each_change_and_ends_with_q(terminal: Terminal, client: Client, fleet: str) -> None:
    terminal.wait_for("at revision 2: 0 of 8 blocks busy")
    client.acquire(fleet, holder="train", blocks=3)
    terminal.wait_for("at revision 3: 3 of 8 blocks busy")
    terminal.wait_for("train (3)")
    terminal.wait_for("q ends")
    terminal.press("q")

    assert terminal.code() == 0
    # What was on the screen before is there again, and the cursor too.
    assert terminal.seen.rstrip().endswith(("\x1b[?1049l\x1b[?25h", "\x1b[?25h\x1b[?1049l", "\x1b[?25h"))


def test_top_ends_with_ctrl_c(terminal: Terminal) -> None:
    terminal.wait_for("q ends")
    terminal.process.send_signal(signal.SIGINT)

    assert terminal.code() == 130


def test_top_goes_on_when_its_fleet_is_deleted(terminal: Terminal, client: Client, fleet: str) -> None:
    terminal.wait_for("q ends")
    client.delete_fleet(fleet, force=True)
    terminal.wait_for("the fleet was deleted")
    terminal.press("q")

    assert terminal.code() == 0


@pytest.mark.slow
def test_that_nobody_answers_is_said_and_that_somebody_does_again(tmp_path: Path) -> None:
    data = tmp_path / "blockyard.db"
    with serving(data) as address:
        blockyard = CommandLine(address)
        with Client(address) as client:
            client.create_fleet("gpu")
        shown = Terminal(blockyard, "top", "gpu")
        watch = blockyard.start("watch", "gpu", "--from", "1")
        shown.wait_for("q ends")
        assert "FLEET_CREATED" in line_of(watch)
    try:
        shown.wait_for(NO_ANSWER)
        assert watch.stderr is not None
        assert watch.stderr.readline() == f"{NO_ANSWER}\n"
        with serving(data, "--listen", address):
            assert watch.stderr.readline() == f"{ANSWERS_AGAIN}\n"
            with Client(address) as client:
                client.create_instance("gpu", "node-1", total_blocks=8)
            assert "INSTANCE_CREATED" in line_of(watch)
            shown.wait_for("0 of 8 blocks busy")
    finally:
        shown.close()
        watch.kill()
        watch.communicate()


def test_only_waiting_is_silence_and_it_is_said_once() -> None:
    told: list[str] = []

    def source() -> Iterator[int]:
        yield 1
        yield 2
        time.sleep(0.5)
        yield 3

    with SilenceNotice(0.1, told.append) as notice:
        heard = notice.listen(source())
        assert next(heard) == 1
        time.sleep(0.3)
        assert next(heard) == 2
        assert told == []
        assert list(heard) == [3]

    assert told == [NO_ANSWER, ANSWERS_AGAIN]
