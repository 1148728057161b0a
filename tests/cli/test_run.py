"""`blockyard run` holds blocks exactly as long as the command runs, whatever ends it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from blockyard import (
    AllocationState,
    BlockyardError,
    CallFailed,
    Client,
    DeadlineExceeded,
    FleetNotFound,
    InternalError,
    InvalidRequest,
    LeaseLost,
    NoCapacity,
    OutcomeUnknown,
    ShuttingDown,
    Unavailable,
    Unsatisfiable,
)
from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.cli.run import exit_code_without_blocks
from tests.cli.conftest import CommandLine, Finished, serving
from tests.harness.samples import some_at_first

LONG_S = 100
"""Longer than any test may take."""


def run(blockyard: CommandLine, *arguments: str) -> Finished:
    process = blockyard.start("run", *arguments)
    out, err = process.communicate()
    assert "Traceback" not in err
    return Finished(process.returncode, out, err)


def start_and_wait_until_it_runs(blockyard: CommandLine, *arguments: str, script: str) -> subprocess.Popen[str]:
    """Starts a Python script under `run`; it has to print a line when it is ready."""
    process = blockyard.start("run", *arguments, "--", sys.executable, "-u", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def busy(client: Client, fleet: str) -> int:
    return client.describe(fleet).totals.busy_blocks


def test_the_command_learns_what_it_holds_and_the_blocks_are_released_after_it(
    blockyard: CommandLine, client: Client, fleet: str
) -> None:
    client.acquire(fleet, blocks=1, holder="before")

    done = run(blockyard, "--fleet", fleet, "--blocks", "2", "--holder", "me", "--cuda", "--", "env")

    environment = dict(line.split("=", 1) for line in done.out.splitlines() if "=" in line)
    [_, allocation] = client.list_allocations(fleet)
    assert (done.code, done.err) == (0, "")
    assert environment["BLOCKYARD_ALLOCATION"] == allocation.name
    assert environment["BLOCKYARD_INSTANCE"] == "node-1"
    assert environment["BLOCKYARD_BLOCKS"] == "1,2"
    assert environment["BLOCKYARD_FENCING_TOKEN"] == str(allocation.fencing_token)
    assert environment["CUDA_VISIBLE_DEVICES"] == "1,2"
    assert (allocation.holder, allocation.state) == ("me", AllocationState.RELEASED)
    assert busy(client, fleet) == 1


@pytest.mark.slow
def test_without_cuda_the_devices_are_left_alone(blockyard: CommandLine, fleet: str) -> None:
    assert "CUDA_VISIBLE_DEVICES" not in run(blockyard, "--fleet", fleet, "--", "env").out


@pytest.mark.parametrize(
    ("script", "code"), some_at_first([("exit 0", 0), ("exit 3", 3), ("kill -KILL $$", 128 + 9)], 1)
)
def test_the_exit_code_is_the_commands(
    blockyard: CommandLine, client: Client, fleet: str, script: str, code: int
) -> None:
    assert run(blockyard, "--fleet", fleet, "--", "sh", "-c", script).code == code
    assert busy(client, fleet) == 0


@pytest.mark.slow
def test_options_behind_the_command_are_the_commands_own(blockyard: CommandLine, fleet: str) -> None:
    assert run(blockyard, "--fleet", fleet, "echo", "--fleet", "-v").out == "--fleet -v\n"


@pytest.mark.slow
def test_a_command_that_does_not_exist_is_127_and_one_that_cannot_be_executed_126(
    blockyard: CommandLine, client: Client, fleet: str, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.write_text("not a program")

    missing = run(blockyard, "--fleet", fleet, "--", "no-such-command-anywhere")
    forbidden = run(blockyard, "--fleet", fleet, "--", str(plain))

    assert (missing.code, forbidden.code) == (127, 126)
    assert missing.err.startswith("Error: no-such-command-anywhere cannot be started: No such file or directory;")
    assert "Permission denied" in forbidden.err
    assert busy(client, fleet) == 0


@pytest.mark.parametrize("number", some_at_first([signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM], 1))
def test_a_signal_is_passed_on_and_the_command_decides(
    blockyard: CommandLine, client: Client, fleet: str, number: signal.Signals
) -> None:
    script = (
        "import signal, sys, time\n"
        f"signal.signal({int(number)}, lambda *_: sys.exit(40))\n"
        f"print('ready'); time.sleep({LONG_S})"
    )
    process = start_and_wait_until_it_runs(blockyard, "--fleet", fleet, script=script)
    assert busy(client, fleet) == 1

    process.send_signal(number)
    process.communicate()

    assert process.returncode == 40
    assert busy(client, fleet) == 0


@pytest.mark.slow
def test_a_command_that_a_passed_on_signal_ends_has_128_and_its_number(
    blockyard: CommandLine, client: Client, fleet: str
) -> None:
    script = f"import time; print('ready'); time.sleep({LONG_S})"
    process = start_and_wait_until_it_runs(blockyard, "--fleet", fleet, script=script)

    process.send_signal(signal.SIGTERM)
    process.communicate()

    assert process.returncode == 128 + signal.SIGTERM
    assert busy(client, fleet) == 0


def test_a_short_lease_is_renewed_for_as_long_as_the_command_runs(
    blockyard: CommandLine, client: Client, fleet: str
) -> None:
    # The command ends when it has seen three renewals of its own lease, however long that takes.
    script = (
        "import os, time\n"
        "from blockyard import Client, EventKind\n"
        "fleet = os.environ['BLOCKYARD_ALLOCATION'].split('/')[1]\n"
        "with Client() as client:\n"
        "    while len(list(client.list_events(fleet, kinds=[EventKind.RENEWED]))) < 3:\n"
        "        time.sleep(0.1)\n"
    )

    done = run(blockyard, "--fleet", fleet, "--ttl", "3s", "--", sys.executable, "-c", script)

    assert (done.code, done.err) == (0, "")
    [allocation] = client.list_allocations(fleet)
    assert allocation.state is AllocationState.RELEASED


def test_a_lost_lease_stops_the_command(blockyard: CommandLine, client: Client, fleet: str) -> None:
    script = f"import time; print('ready'); time.sleep({LONG_S})"
    process = start_and_wait_until_it_runs(blockyard, "--fleet", fleet, "--ttl", "3s", script=script)
    [allocation] = client.list_allocations(fleet)

    client.release(allocation)
    _, err = process.communicate()

    assert process.returncode == 128 + signal.SIGTERM
    assert "The lease is lost, stopping the command: " in err


@pytest.mark.slow
def test_a_command_that_ends_with_0_after_its_lease_was_lost_has_not_succeeded(
    blockyard: CommandLine, client: Client, fleet: str
) -> None:
    script = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
        f"print('ready'); time.sleep({LONG_S})"
    )
    process = start_and_wait_until_it_runs(blockyard, "--fleet", fleet, "--ttl", "3s", script=script)
    [allocation] = client.list_allocations(fleet)

    client.release(allocation)
    process.communicate()

    assert process.returncode == 125


@pytest.mark.slow
def test_a_command_whose_service_goes_away_is_stopped_while_the_lease_still_holds(tmp_path: Path) -> None:
    server = serving(tmp_path / "blockyard.db")
    with server as address:
        with Client(address) as client:
            client.create_fleet("gpu")
            client.create_instance("gpu", "node-1", total_blocks=1)
        script = f"import time; print('ready'); time.sleep({LONG_S})"
        process = start_and_wait_until_it_runs(CommandLine(address), "--fleet", "gpu", "--ttl", "3s", script=script)
    # The server is gone now, and nobody can renew.
    _, err = process.communicate()

    assert process.returncode == 128 + signal.SIGTERM
    assert "could not be renewed in time" in err
    assert "was not released" in err


def test_without_capacity_the_command_never_starts(
    blockyard: CommandLine, client: Client, fleet: str, tmp_path: Path
) -> None:
    client.acquire(fleet, blocks=8, holder="x")
    witness = tmp_path / "started"

    refused = run(blockyard, "--fleet", fleet, "--", "touch", str(witness))

    assert refused.code == 75
    assert refused.err.startswith("Error (NO_CAPACITY): ")
    assert not witness.exists()


@pytest.mark.slow
def test_with_wait_it_starts_once_there_is_capacity(blockyard: CommandLine, client: Client, fleet: str) -> None:
    held = client.acquire(fleet, blocks=8, holder="x").allocation
    process = blockyard.start("run", "--fleet", fleet, "--wait", "10m", "--", "echo", "at last")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("Waiting for capacity: ")

    client.release(held)
    out, _ = process.communicate()

    assert (process.returncode, out) == (0, "at last\n")


@pytest.mark.slow
def test_a_wait_that_is_over_ends_as_without_it(blockyard: CommandLine, client: Client, fleet: str) -> None:
    client.acquire(fleet, blocks=8, holder="x")

    assert run(blockyard, "--fleet", fleet, "--wait", "300ms", "--", "true").code == 75


def test_what_does_not_fit_even_an_idle_fleet_or_is_malformed_is_65_and_never_starts(
    blockyard: CommandLine, client: Client, fleet: str, tmp_path: Path
) -> None:
    witness = tmp_path / "started"
    for reason, arguments in {
        "UNSATISFIABLE": ("--fleet", fleet, "--blocks", "9"),
        "INVALID_REQUEST": ("--fleet", fleet, "--ttl", "0s"),
        "FLEET_NOT_FOUND": ("--fleet", "no-such-fleet"),
    }.items():
        refused = run(blockyard, *arguments, "--", "touch", str(witness))
        assert (refused.code, refused.err.partition(":")[0]) == (65, f"Error ({reason})")
    assert not witness.exists()
    assert busy(client, fleet) == 0


@pytest.mark.slow
def test_a_service_that_cannot_be_reached_is_69() -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        address = f"127.0.0.1:{found.getsockname()[1]}"

    assert run(CommandLine(address), "--fleet", "gpu", "--", "true").code == 69


@pytest.mark.slow
def test_a_service_that_does_not_serve_now_is_69(tmp_path: Path) -> None:
    """It listens, so that the look before the call finds nothing, and then never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        refused = run(CommandLine(address), "--fleet", "gpu", "--", "touch", str(tmp_path / "started"))

    assert refused.code == 69
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NoCapacity("x", reason="NO_CAPACITY"), 75),
        (Unavailable("x"), 69),
        (ShuttingDown("x", reason="SHUTTING_DOWN"), 69),
        (DeadlineExceeded("x"), 69),
        (OutcomeUnknown("x", token="t"), 69),
        (CommandFailed("nobody listens", exit_code=ExitCode.NO_ANSWER), 69),
        (Unsatisfiable("x", reason="UNSATISFIABLE"), 65),
        (InvalidRequest("x", reason="INVALID_REQUEST"), 65),
        (FleetNotFound("x", reason="FLEET_NOT_FOUND"), 65),
        (InternalError("x", reason="INTERNAL_ERROR"), 125),
        (CallFailed("no answer of Blockyard's"), 125),
        (LeaseLost("x"), 125),
        (CommandFailed("no such address", exit_code=ExitCode.USAGE), 2),
        (CommandFailed("x"), 125),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_why_there_are_no_blocks_is_told_by_the_exit_code(error: BlockyardError | CommandFailed, code: int) -> None:
    assert exit_code_without_blocks(error) == code


@pytest.mark.slow
def test_a_signal_during_the_wait_ends_it_and_leaves_nothing_held(
    blockyard: CommandLine, client: Client, fleet: str
) -> None:
    held = client.acquire(fleet, blocks=8, holder="x").allocation
    process = blockyard.start("run", "--fleet", fleet, "--wait", "10m", "--", "true")
    assert process.stderr is not None
    process.stderr.readline()

    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()

    assert (process.returncode, err) == (128 + signal.SIGTERM, "")
    assert [allocation.name for allocation in client.list_allocations(fleet)] == [held.name]


@pytest.mark.slow
def test_what_is_asked_for_wrongly_never_reaches_the_service(blockyard: CommandLine, fleet: str) -> None:
    for arguments in (("--fleet", fleet), ("--", "true"), ("--fleet", fleet, "--ttl", "x", "--", "true")):
        refused = run(blockyard, *arguments)
        assert (refused.code, refused.err.startswith("Error: ")) == (2, True)


@pytest.mark.slow
def test_verbose_says_what_is_held(blockyard: CommandLine, fleet: str) -> None:
    done = run(blockyard, "--fleet", fleet, "-v", "--blocks", "2", "--", "true")

    assert done.err.startswith(f"Holding fleets/{fleet}/allocations/")
    assert done.err.endswith(": node-1, blocks 0,1.\n")


@pytest.mark.slow
def test_on_a_terminal_the_command_is_in_the_foreground_and_ctrl_c_reaches_it_once(
    blockyard: CommandLine, client: Client, fleet: str
) -> None:
    script = (
        "import os, signal, sys, time\n"
        "caught = []\n"
        "signal.signal(signal.SIGINT, lambda *_: caught.append(1))\n"
        "print('foreground', os.tcgetpgrp(0) == os.getpgrp(), flush=True)\n"
        "while not caught: time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "print('caught', len(caught), flush=True)\n"
    )
    arguments = ["blockyard", "run", "--fleet", fleet, "--", sys.executable, "-c", script]
    pid, terminal = os.forkpty()
    if pid == 0:
        # Nothing of pytest may run in the copy.
        program = "import sys; from blockyard.cli import main; sys.exit(main(sys.argv[1:]))"
        os.execve(sys.executable, [sys.executable, "-c", program, *arguments[1:]], blockyard.environment({}))  # noqa: S606  # forkpty has no other way
    said = read_until(terminal, b"foreground True")
    os.write(terminal, b"\x03")
    said += read_until(terminal, b"caught 1")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)

    assert os.waitstatus_to_exitcode(status) == 0, said
    assert busy(client, fleet) == 0


def read_until(terminal: int, mark: bytes) -> bytes:
    """What the terminal shows up to the mark; the test's own bound ends a wait in vain."""
    shown = b""
    while mark not in shown:
        shown += os.read(terminal, 1024)
    return shown
