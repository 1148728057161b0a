"""A command under a lease, with real processes."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue

import pytest

from blockyard.cli.child import ChildCommand, LeaseGone, Mailbox, Outcome, Signalled, supervise

Runner = Callable[..., Outcome]
LONG_S = 100
"""Longer than any test may take: what has such a grace never gets SIGKILL here."""


def start(script: str, mailbox: Mailbox, environment: Mapping[str, str] = os.environ) -> ChildCommand:
    return ChildCommand([sys.executable, "-c", script], environment, mailbox)


@pytest.fixture
def run_to_its_end(tmp_path: Path) -> Callable[..., Outcome]:
    """Starts a script, waits until it says that it is ready if there are messages for it, and sends those."""

    def run(script: str, *messages: LeaseGone | Signalled, grace_s: float = LONG_S) -> Outcome:
        fifo = tmp_path / "ready"
        os.mkfifo(fifo)
        mailbox: Mailbox = SimpleQueue()
        child = start(script, mailbox, {**os.environ, "READY": str(fifo)})
        if messages:
            fifo.read_text()
        for message in messages:
            mailbox.put(message)
        return supervise(child, mailbox, grace_s=grace_s)

    return run


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


READY = "import os, signal, sys, time; "
SAY_READY = "open(os.environ['READY'], 'w').write('x'); "


@pytest.mark.parametrize("code", [0, 1, 42, 255])
def test_the_exit_code_is_the_commands(run_to_its_end: Runner, code: int) -> None:
    assert run_to_its_end(f"raise SystemExit({code})") == Outcome(code, stopped=False)


def test_a_command_that_a_signal_ended_has_128_and_its_number(run_to_its_end: Runner) -> None:
    outcome = run_to_its_end("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")

    assert outcome == Outcome(128 + signal.SIGKILL, stopped=False)


def test_a_signal_is_passed_on_and_the_command_may_answer_it_as_it_likes(run_to_its_end: Runner) -> None:
    script = f"{READY}signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7)); {SAY_READY}time.sleep({LONG_S})"

    assert run_to_its_end(script, Signalled(signal.SIGUSR1)) == Outcome(7, stopped=False)


def test_a_lost_lease_stops_the_command_with_sigterm(run_to_its_end: Runner) -> None:
    outcome = run_to_its_end(f"{READY}{SAY_READY}time.sleep({LONG_S})", LeaseGone())

    assert outcome == Outcome(128 + signal.SIGTERM, stopped=True)


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(run_to_its_end: Runner) -> None:
    script = f"{READY}signal.signal(signal.SIGTERM, signal.SIG_IGN); {SAY_READY}time.sleep({LONG_S})"

    assert run_to_its_end(script, LeaseGone(), grace_s=0.05) == Outcome(128 + signal.SIGKILL, stopped=True)


def test_a_command_that_is_paused_is_stopped_all_the_same(run_to_its_end: Runner) -> None:
    script = f"{READY}{SAY_READY}os.kill(os.getpid(), signal.SIGSTOP); time.sleep({LONG_S})"

    assert run_to_its_end(script, LeaseGone()) == Outcome(128 + signal.SIGTERM, stopped=True)


def test_a_lost_lease_stops_the_commands_own_children_too(run_to_its_end: Runner, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = (
        f"{READY}import subprocess; grandchild = subprocess.Popen(['sleep', '{LONG_S}']); "
        f"open({str(pid_file)!r}, 'w').write(str(grandchild.pid)); {SAY_READY}grandchild.wait(); sys.exit(3)"
    )

    outcome = run_to_its_end(script, LeaseGone())

    assert outcome.stopped
    # Only init waits for it, so its end shows a little later than its parent's; the test's bound ends the loop.
    while is_running(int(pid_file.read_text())):
        time.sleep(0.01)


def test_a_command_that_does_not_exist_raises_what_exec_said() -> None:
    with pytest.raises(FileNotFoundError):
        ChildCommand(["no-such-command-anywhere"], os.environ, SimpleQueue())


def test_a_command_of_another_user_that_cannot_be_signalled_is_waited_for(
    run_to_its_end: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(group: int, number: int) -> None:
        raise PermissionError(group, number)

    script = "import os, time; open(os.environ['READY'], 'w').close(); time.sleep(0.5); raise SystemExit(7)"
    monkeypatch.setattr(os, "killpg", refuse)

    assert run_to_its_end(script, Signalled(signal.SIGTERM), LeaseGone(), grace_s=0) == Outcome(7, stopped=True)
