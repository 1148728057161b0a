"""`blockyard run` under stops, kills and sleeps: when the blocks are somebody else's, nothing works with them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from blockyard import Client, NoCapacity
from tests.cli.conftest import COMMAND, CommandLine, serving
from tests.cli.processes import children, is_running, read_pid, state, wait_until_gone, wait_until_stopped

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and stands on the calls of Linux")

LONG_S = 1000
WORKER = (
    "import os, signal, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "os.setsid()\n"
    "open(sys.argv[1], 'w').write(f'{os.getpid()}\\n')\n"
    f"time.sleep({LONG_S})\n"
)
STUBBORN = (
    "import os, signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    f"subprocess.Popen([sys.executable, '-c', {WORKER!r}, sys.argv[1] + '/worker'])\n"
    "while not os.path.exists(sys.argv[1] + '/worker'): time.sleep(0.01)\n"
    "open(sys.argv[1] + '/pid', 'w').write(f'{os.getpid()}\\n')\n"
    "while not os.path.exists(sys.argv[1] + '/end'):\n"
    "    open(sys.argv[1] + '/work', 'a').write('.')\n"
    "    time.sleep(0.01)\n"
)
"""Works a hundred times a second, ignores SIGTERM, and ends with 0 once there is a file `end`. It has a worker outside
of its group, which ignores SIGTERM, too."""


@dataclass
class Job:
    """A stubborn command under `run`, on an instance of one block."""

    run: "subprocess.Popen[str]"
    guard: int
    command: int
    worker: int

    def is_over(self) -> bool:
        return not is_running(self.command) and not is_running(self.worker)


@pytest.fixture
def narrow(client: Client, fleet: str) -> str:
    """A fleet with one block, so that the next holder's block is the one before's."""
    client.delete_instance(fleet, "node-1")
    client.create_instance(fleet, "only", total_blocks=1)
    return fleet


@pytest.fixture
def start(blockyard: CommandLine, narrow: str, tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def start(*options: str, command: tuple[str, ...] = COMMAND, ttl: str = "3s") -> Job:
        work = ["--", sys.executable, "-c", STUBBORN, str(tmp_path)]
        run = subprocess.Popen(
            [*command, "run", "--fleet", narrow, "--ttl", ttl, *options, *work],
            env=blockyard.environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        pid, worker = read_pid(tmp_path / "pid"), read_pid(tmp_path / "worker")
        jobs.append(Job(run, parent_of(pid), pid, worker))
        return jobs[-1]

    yield start
    for job in jobs:
        for pid in (job.guard, job.run.pid, job.command, job.worker):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        job.run.communicate()


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def wait_for_the_block(client: Client, fleet: str) -> None:
    """Returns when the next holder has it."""
    while True:
        try:
            client.acquire(fleet, blocks=1, holder="next")
        except NoCapacity:
            time.sleep(0.02)
        else:
            return


# --- The process that keeps the lease is stopped or killed


@pytest.mark.parametrize(
    "number", [signal.SIGSTOP, signal.SIGKILL, pytest.param(signal.SIGTSTP, marks=pytest.mark.slow)]
)
def test_when_run_alone_is_stopped_or_killed_the_command_is_gone_before_the_next_holder_has_its_block(
    start: Callable[..., Job], client: Client, narrow: str, number: signal.Signals
) -> None:
    job = start()

    job.run.send_signal(number)
    wait_for_the_block(client, narrow)

    assert job.is_over()


def test_when_the_whole_group_of_run_is_stopped_the_guard_goes_on(
    start: Callable[..., Job], client: Client, narrow: str
) -> None:
    job = start()

    os.killpg(job.run.pid, signal.SIGSTOP)
    wait_for_the_block(client, narrow)

    assert job.is_over()


def test_when_run_goes_on_after_the_end_of_its_lease_it_says_so_and_fails(
    start: Callable[..., Job], client: Client, narrow: str
) -> None:
    job = start()
    job.run.send_signal(signal.SIGSTOP)
    wait_for_the_block(client, narrow)

    job.run.send_signal(signal.SIGCONT)
    _, err = job.run.communicate()

    assert job.run.returncode == 128 + signal.SIGKILL
    assert "The lease is lost, stopping the command: " in err


@pytest.mark.slow
def test_sigtstp_to_run_stops_the_command_with_it_and_sigcont_lets_both_go_on(
    start: Callable[..., Job], tmp_path: Path
) -> None:
    job = start(ttl="10m")

    job.run.send_signal(signal.SIGTSTP)
    for pid in (job.run.pid, job.command, job.worker):
        wait_until_stopped(pid)
    (tmp_path / "end").touch()
    job.run.send_signal(signal.SIGCONT)
    job.run.communicate()

    assert job.run.returncode == 0
    assert job.is_over()


@pytest.mark.slow
def test_a_command_that_was_let_go_on_behind_the_back_of_a_stopped_run_is_gone_in_time(
    start: Callable[..., Job], client: Client, narrow: str
) -> None:
    job = start()
    job.run.send_signal(signal.SIGTSTP)
    wait_until_stopped(job.run.pid)

    os.kill(job.command, signal.SIGCONT)
    wait_for_the_block(client, narrow)

    assert job.is_over()


@pytest.mark.slow
def test_when_all_were_stopped_the_command_works_no_more_once_its_block_is_somebody_elses(
    start: Callable[..., Job], client: Client, narrow: str, tmp_path: Path
) -> None:
    job = start()
    job.run.send_signal(signal.SIGTSTP)
    for pid in (job.run.pid, job.command):
        wait_until_stopped(pid)
    # Stopped as well, it cannot end the command: that only has not worked since.
    os.kill(job.guard, signal.SIGSTOP)
    wait_until_stopped(job.guard)
    wait_for_the_block(client, narrow)
    done = (tmp_path / "work").read_text()

    job.run.send_signal(signal.SIGCONT)
    job.run.communicate()

    assert job.run.returncode == 128 + signal.SIGKILL
    assert job.is_over()
    assert (tmp_path / "work").read_text() == done


# --- The guard is stopped or killed


def test_a_guard_that_is_killed_takes_the_command_with_it(
    start: Callable[..., Job], client: Client, narrow: str
) -> None:
    job = start(ttl="10m")

    os.kill(job.guard, signal.SIGKILL)
    _, err = job.run.communicate()

    assert job.run.returncode == 125
    assert "The guard of the command was ended" in err
    assert job.is_over()
    client.acquire(narrow, blocks=1, holder="next")


@pytest.mark.slow
def test_a_guard_that_is_stopped_is_let_go_on(start: Callable[..., Job], client: Client, narrow: str) -> None:
    job = start()
    os.kill(job.guard, signal.SIGSTOP)
    while state(job.guard) == "T":
        time.sleep(0.01)

    [held] = client.list_allocations(narrow)
    client.release(held)
    job.run.communicate()

    assert job.run.returncode == 128 + signal.SIGKILL
    assert job.is_over()


@pytest.mark.slow
def test_a_guard_that_is_killed_before_there_are_blocks_ends_the_wait(
    blockyard: CommandLine, client: Client, narrow: str
) -> None:
    held = client.acquire(narrow, blocks=1, holder="x").allocation
    run = blockyard.start("run", "--fleet", narrow, "--wait", "10m", "--", "true")
    assert run.stderr is not None
    assert run.stderr.readline().startswith("Waiting for capacity: ")

    [guard] = children(run.pid)
    os.kill(guard, signal.SIGKILL)
    client.release(held)
    _, err = run.communicate()

    assert run.returncode == 125
    assert "The guard of the command was ended" in err


@pytest.mark.slow
def test_when_both_are_killed_at_once_the_first_process_of_the_command_dies_with_them(
    start: Callable[..., Job],
) -> None:
    job = start(ttl="10m")

    job.run.send_signal(signal.SIGSTOP)
    os.kill(job.guard, signal.SIGKILL)
    job.run.kill()

    wait_until_gone(job.command)


@pytest.mark.slow
def test_the_guard_ends_with_run(start: Callable[..., Job], tmp_path: Path) -> None:
    job = start(ttl="10m")

    (tmp_path / "end").touch()
    job.run.communicate()

    assert job.run.returncode == 0
    assert not is_running(job.guard)


@pytest.mark.slow
def test_a_signal_to_the_guard_is_one_to_the_command(blockyard: CommandLine, fleet: str) -> None:
    # The command takes its parent for `run`.
    run = blockyard.start("run", "--fleet", fleet, "--", "sh", "-c", f"kill -TERM $PPID; sleep {LONG_S}")
    run.communicate()

    assert run.returncode == 128 + signal.SIGTERM


# --- The grace follows the lease


@pytest.mark.slow
def test_the_grace_ends_with_a_lease_that_became_shorter(tmp_path: Path) -> None:
    server = serving(tmp_path / "blockyard.db", "--restart-grace-s", "0")
    with server as address, Client(address) as client:
        client.create_fleet("gpu")
        client.create_instance("gpu", "only", total_blocks=1)
        arguments = ["--fleet", "gpu", "--ttl", "9s", "--grace", "60s", "--", sys.executable, "-c", STUBBORN]
        run = CommandLine(address).start("run", *arguments, str(tmp_path))
        command, worker = read_pid(tmp_path / "pid"), read_pid(tmp_path / "worker")
        client.update_fleet("gpu", max_ttl=4)
        assert run.stderr is not None
        said = [run.stderr.readline()]
        # A renewal never shortens a lease: it becomes shorter as it runs down.
        while "gets 1s." not in said[-1]:
            said.append(run.stderr.readline())

        server.process.send_signal(signal.SIGSTOP)
        wait_until_gone(command)
        wait_until_gone(worker)
        gone_at = time.time()
        server.process.send_signal(signal.SIGCONT)
        [allocation] = client.list_allocations("gpu")
        run.communicate()

    assert said[0] == "The lease is too short for a grace of 1m: the command gets 2.2s.\n"
    assert allocation.expire_time is not None
    assert gone_at < allocation.expire_time.timestamp()


# --- The machine sleeps

SLEEPING = (
    "import os, sys, time\n"
    "read = time.clock_gettime\n"
    "asleep = sys.argv.pop(1)\n"
    "def clock_gettime(clock):\n"
    "    return read(clock) + (3600 * os.path.exists(asleep) if clock == time.CLOCK_BOOTTIME else 0)\n"
    "time.clock_gettime = clock_gettime\n"
    "from blockyard.cli import main\n"
    "sys.exit(main())\n"
)
"""`blockyard` on a machine that has been suspended for an hour as soon as there is a certain file."""


@pytest.mark.parametrize("kept", ["both awake", pytest.param("run stopped", marks=pytest.mark.slow)])
def test_after_the_machine_slept_longer_than_the_lease_the_command_is_killed_without_grace(
    start: Callable[..., Job], tmp_path: Path, kept: str
) -> None:
    asleep = tmp_path / "asleep"
    job = start("--grace", "60s", command=(sys.executable, "-c", SLEEPING, str(asleep)), ttl="20m")
    if kept == "run stopped":
        job.run.send_signal(signal.SIGSTOP)

    asleep.touch()
    wait_until_gone(job.command)
    wait_until_gone(job.worker)

    job.run.send_signal(signal.SIGCONT)
    _, err = job.run.communicate()
    assert job.run.returncode == 128 + signal.SIGKILL
    assert "The lease is lost" in err


def test_the_guard_counts_on_the_clock_that_goes_on_in_a_suspended_machine(
    start: Callable[..., Job], client: Client, narrow: str
) -> None:
    """In a time namespace whose machine has slept for a day since its start: a mix of two clocks is a day off."""
    unshare = ("unshare", "--time", "--boottime", "86400")
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode != 0:
        pytest.skip("this user may make no time namespace here")
    job = start(command=(*unshare, *COMMAND))

    os.kill(parent_of(job.guard), signal.SIGSTOP)
    wait_for_the_block(client, narrow)

    assert job.is_over()


# --- On a terminal


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.pid, self._terminal = os.forkpty()
        if self.pid == 0:
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], {**environment, "PS1": "$ "})  # noqa: S606  # forkpty has no other way
        self.shown = b""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def read_until(self, mark: str) -> None:
        """What comes behind the mark is left for the next one; the test's own bound ends a wait in vain."""
        while mark.encode() not in self.shown:
            self.shown += os.read(self._terminal, 1024)
        self.shown = self.shown.partition(mark.encode())[2]

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)


@pytest.fixture
def shell(blockyard: CommandLine) -> Iterator[Shell]:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    shell = Shell(blockyard.environment({}))
    yield shell
    shell.close()


@pytest.fixture
def type_run(shell: Shell, narrow: str, tmp_path: Path) -> Callable[[str], int]:
    """Types the command into the shell, and returns the command's process id."""

    def type_run(ttl: str) -> int:
        program, script = tmp_path / "program.py", tmp_path / "script.py"
        program.write_text("import sys; from blockyard.cli import main; sys.exit(main())")
        script.write_text(STUBBORN)
        shell.type(
            f"{sys.executable} {program} run --fleet {narrow} --ttl {ttl} -- {sys.executable} {script} {tmp_path}; "
            "echo code=$?\n"
        )
        return read_pid(tmp_path / "pid")

    return type_run


@pytest.mark.slow
def test_a_job_that_was_stopped_longer_than_its_lease_is_gone_and_fg_says_why(
    shell: Shell, type_run: Callable[[str], int], client: Client, narrow: str
) -> None:
    command = type_run("3s")
    shell.type("\x1a")
    shell.read_until("Stopped")
    wait_for_the_block(client, narrow)
    assert not is_running(command)

    shell.type("fg; echo code=$?\n")

    shell.read_until("The lease is lost, stopping the command: ")
    shell.read_until("code=137")


@pytest.mark.slow
@pytest.mark.parametrize("go_on", ["fg", "bg"])
def test_a_job_that_was_stopped_for_a_moment_goes_on(
    shell: Shell, type_run: Callable[[str], int], tmp_path: Path, go_on: str
) -> None:
    command = type_run("10m")
    shell.type("\x1a")
    shell.read_until("Stopped")
    wait_until_stopped(command)

    shell.type(f"{go_on}; wait; echo ended=$?\n")
    while state(command) == "T":
        time.sleep(0.01)
    (tmp_path / "end").touch()

    shell.read_until("ended=0")
