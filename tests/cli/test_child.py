"""A command under a lease, with real processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from blockyard.cli.own_cgroup import OwnCgroup
from blockyard.cli.supervision import Outcome
from tests.cli.processes import is_running, read_pid
from tests.harness.samples import some_at_first

Runner = Callable[..., Outcome]
LONG_S = 100
"""Longer than any test may take: what has such a grace never gets SIGKILL here."""
LEASE_GONE = "lease gone"


def drive(command: list[str], messages: tuple[str | int, ...], **more: object) -> subprocess.CompletedProcess[str]:
    task = {
        "command": command,
        "messages": messages,
        "grace_s": LONG_S,
        "powerless": False,
        "without_linux": False,
        **more,
    }
    return subprocess.run(
        [sys.executable, "-m", "tests.cli.command_driver", json.dumps(task)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def run_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Starts a script, waits until it says that it is ready if there are messages for it, and sends those."""

    def run(script: str, *messages: str | int, **more: object) -> Outcome:
        fifo = tmp_path / "ready"
        os.mkfifo(fifo)
        monkeypatch.setenv("READY", str(fifo))
        monkeypatch.setenv("FOLDER", str(tmp_path))
        done = drive([sys.executable, "-c", script], messages, **more)
        assert done.returncode == 0, done.stderr
        return Outcome(**json.loads(done.stdout.splitlines()[-1]))

    return run


READY = "import os, signal, sys, time; "
SAY_READY = "open(os.environ['READY'], 'w').write('x'); "


@pytest.mark.parametrize("code", some_at_first([0, 1, 255, 42], 1))
def test_the_exit_code_is_the_commands(run_to_its_end: Runner, code: int) -> None:
    assert run_to_its_end(f"raise SystemExit({code})") == Outcome(code, stopped=False)


def test_a_command_that_a_signal_ended_has_128_and_its_number(run_to_its_end: Runner) -> None:
    outcome = run_to_its_end("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")

    assert outcome == Outcome(128 + signal.SIGKILL, stopped=False)


def test_a_signal_is_passed_on_and_the_command_may_answer_it_as_it_likes(run_to_its_end: Runner) -> None:
    script = f"{READY}signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7)); {SAY_READY}time.sleep({LONG_S})"

    assert run_to_its_end(script, signal.SIGUSR1) == Outcome(7, stopped=False)


def test_a_lost_lease_stops_the_command_with_sigterm(run_to_its_end: Runner) -> None:
    outcome = run_to_its_end(f"{READY}{SAY_READY}time.sleep({LONG_S})", LEASE_GONE)

    assert outcome == Outcome(128 + signal.SIGTERM, stopped=True)


def test_a_command_that_ignores_sigterm_is_killed_after_the_grace(run_to_its_end: Runner) -> None:
    script = f"{READY}signal.signal(signal.SIGTERM, signal.SIG_IGN); {SAY_READY}time.sleep({LONG_S})"

    assert run_to_its_end(script, LEASE_GONE, grace_s=0.05) == Outcome(128 + signal.SIGKILL, stopped=True)


@pytest.mark.slow
def test_a_command_that_is_paused_is_stopped_all_the_same(run_to_its_end: Runner) -> None:
    script = f"{READY}{SAY_READY}os.kill(os.getpid(), signal.SIGSTOP); time.sleep({LONG_S})"

    assert run_to_its_end(script, LEASE_GONE) == Outcome(128 + signal.SIGTERM, stopped=True)


def test_a_lost_lease_stops_the_commands_own_children_too(run_to_its_end: Runner, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = (
        f"{READY}import subprocess; grandchild = subprocess.Popen(['sleep', '{LONG_S}']); "
        f"open({str(pid_file)!r}, 'w').write(str(grandchild.pid)); {SAY_READY}grandchild.wait(); sys.exit(3)"
    )

    outcome = run_to_its_end(script, LEASE_GONE)

    assert outcome.stopped
    assert not is_running(int(pid_file.read_text()))


def test_a_command_that_does_not_exist_raises_what_exec_said() -> None:
    assert "FileNotFoundError" in drive(["no-such-command-anywhere"], ()).stderr


@pytest.mark.slow
def test_a_command_of_another_user_that_cannot_be_signalled_is_waited_for(run_to_its_end: Runner) -> None:
    script = "import os, time; open(os.environ['READY'], 'w').close(); time.sleep(0.5); raise SystemExit(7)"

    outcome = run_to_its_end(script, signal.SIGTERM, LEASE_GONE, grace_s=0, powerless=True)

    assert outcome == Outcome(7, stopped=True)


WORKER = (
    "import os, signal, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "if sys.argv[1] == 'left the group' and os.fork(): os._exit(0)\n"
    "if sys.argv[1] == 'left the group': os.setsid()\n"
    "open(os.environ['FOLDER'] + '/worker', 'w').write(f'{os.getpid()}\\n')\n"
    f"time.sleep({LONG_S})\n"
)
"""Ignores SIGTERM, and writes down who it is."""
START_WORKER = (
    f"{READY}import subprocess; subprocess.Popen([sys.executable, '-c', {WORKER!r}, os.environ['PLACE']])\n"
    "while not os.path.exists(os.environ['FOLDER'] + '/worker'): time.sleep(0.01)\n"
)
every_place = pytest.mark.parametrize("place", ["in the group", "left the group"])


@every_place
def test_what_a_command_leaves_behind_is_gone_when_it_is_over(
    run_to_its_end: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("PLACE", place)
    outcome = run_to_its_end(START_WORKER + "sys.exit(3)", grace_s=0.05)

    assert outcome == Outcome(3, stopped=False)
    assert not is_running(read_pid(tmp_path / "worker"))


@pytest.mark.slow
@every_place
def test_after_a_lost_lease_workers_that_ignore_sigterm_are_killed_after_the_grace(
    run_to_its_end: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("PLACE", place)
    script = START_WORKER + f"{SAY_READY}time.sleep({LONG_S})"

    outcome = run_to_its_end(script, LEASE_GONE, grace_s=0.05)

    assert outcome == Outcome(128 + signal.SIGTERM, stopped=True)
    assert not is_running(read_pid(tmp_path / "worker"))


@pytest.mark.parametrize("lost", [False, True], ids=["ended", "lost lease"])
def test_where_there_is_no_linux_the_process_group_is_ended(
    run_to_its_end: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, lost: bool
) -> None:
    monkeypatch.setenv("PLACE", "in the group")
    script = START_WORKER + (f"{SAY_READY}time.sleep({LONG_S})" if lost else "sys.exit(3)")

    outcome = run_to_its_end(script, *([LEASE_GONE] if lost else []), grace_s=0.05, without_linux=True)

    assert outcome == Outcome(128 + signal.SIGTERM if lost else 3, stopped=lost)
    assert not is_running(read_pid(tmp_path / "worker"))


@pytest.mark.slow
def test_processes_that_fork_and_leave_all_the_time_do_not_outrun_it(run_to_its_end: Runner, tmp_path: Path) -> None:
    # Each of them lives for a hundredth of a second, in a session of its own, and leaves the next one behind.
    runner = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "while True:\n"
        "    os.setsid()\n"
        "    open(os.environ['FOLDER'] + '/worker', 'w').write(f'{os.getpid()}\\n')\n"
        "    time.sleep(0.01)\n"
        "    if os.fork(): os._exit(0)\n"
    )
    script = (
        f"{READY}import subprocess\n"
        f"subprocess.Popen([sys.executable, '-c', {runner!r}], start_new_session=False)\n"
        f"while not os.path.exists(os.environ['FOLDER'] + '/worker'): time.sleep(0.01)\n"
    )

    assert run_to_its_end(script, grace_s=0.05) == Outcome(0, stopped=False)

    last = (tmp_path / "worker").read_text()
    # It writes a hundred times a second: what is alive has done so by then.
    time.sleep(0.3)
    assert (tmp_path / "worker").read_text() == last


@pytest.mark.slow
def test_what_is_about_to_end_by_itself_is_left_to_its_work(run_to_its_end: Runner, tmp_path: Path) -> None:
    # As `tee` in `command > >(tee log)`: it ends when it has seen the end of its input.
    reader = "import os, sys; text = sys.stdin.read(); open(os.environ['FOLDER'] + '/log', 'w').write(text)"
    script = (
        f"{READY}import subprocess\n"
        f"reader = subprocess.Popen([sys.executable, '-c', {reader!r}], stdin=subprocess.PIPE)\n"
        "reader.stdin.write(b'the last words'); reader.stdin.close(); os._exit(5)\n"
    )

    assert run_to_its_end(script, grace_s=0) == Outcome(5, stopped=False)

    assert (tmp_path / "log").read_text() == "the last words"


def test_where_it_can_the_command_has_a_cgroup_of_its_own_which_goes_with_it(
    run_to_its_end: Runner, tmp_path: Path
) -> None:
    trial = OwnCgroup.make(f"blockyard-test-{os.getpid()}")
    if trial is None:
        pytest.skip("this user may make no cgroup here")
    trial.remove()
    script = "import os; open(os.environ['FOLDER'] + '/cgroup', 'w').write(open('/proc/self/cgroup').read())"

    run_to_its_end(script)

    [own] = [line for line in (tmp_path / "cgroup").read_text().splitlines() if line.startswith("0::")]
    name = own.rpartition("/")[2]
    assert name.startswith("blockyard-run-")
    assert not (trial.folder.parent / name).exists()


def test_a_command_with_a_zero_byte_in_it_cannot_be_started_and_says_so() -> None:
    done = drive(["true", "a\0b"], ())

    assert "OSError: [Errno 22] embedded null byte" in done.stderr
    assert "guard" not in done.stderr
