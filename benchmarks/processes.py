"""Programs that a benchmark starts: they end with it, in a bounded time, and the CPU time of each is counted."""

import os
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Final

STOP_S: Final = 20.0
"""A program that has not ended so long after it was asked to is killed."""
POLL_S: Final = 0.05
_TICK_US: Final = 1_000_000 // os.sysconf("SC_CLK_TCK")
_LAST_WORDS_CHARACTERS: Final = 2000


class ProgramFailed(Exception):
    """A program ended, or did not serve in time; the message has the last that it wrote."""


@contextmanager
def program(
    command: Sequence[str | Path],
    log: Path,
    *,
    stop: Signals = SIGTERM,
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs `command` while the block runs, in the folder of `log`, which gets what it writes."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # the terminal's Ctrl-C is for the benchmark, which ends its programs in order
        )
    try:
        yield process
    finally:
        end(process, stop)


def run(command: Sequence[str | Path], *, bound_s: float) -> None:
    """Runs a program to its end. Raises ProgramFailed."""
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=bound_s)
    except subprocess.CalledProcessError as error:
        raise ProgramFailed(f"{command[0]} failed: {error.stderr[-_LAST_WORDS_CHARACTERS:]}") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramFailed(f"{command[0]} did not end within {bound_s:g} s") from error


def end(process: subprocess.Popen[bytes] | subprocess.Popen[str], stop: Signals = SIGTERM) -> None:
    """Asks a program to stop, and kills it when it does not."""
    process.send_signal(stop)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, *, bound_s: float) -> None:
    """Returns once `ready`. Raises ProgramFailed when the program has ended, or after `bound_s`."""
    end_of_patience = time.monotonic() + bound_s
    while not ready():
        if process.poll() is not None or time.monotonic() > end_of_patience:
            last_words = log.read_text(errors="replace")[-_LAST_WORDS_CHARACTERS:]
            raise ProgramFailed(f"{process.args!r} does not serve (exit code {process.returncode}): {last_words}")
        time.sleep(POLL_S)


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as attempt:
        attempt.bind(("127.0.0.1", 0))
        return int(attempt.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody accepts connections on this port of this machine."""
    with socket.socket() as attempt:
        attempt.settimeout(1)
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def cpu_us(root: int) -> int:
    """The CPU time in microseconds that a process and its descendants, ended ones too, have used until now.

    The system counts it in ticks, mostly of 10 ms: differences over less than a second say little.
    """
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # After the name, which is in brackets and may hold anything: state, parent, … (proc(5)).
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended between the two looks
        pid = int(folder.name)
        children[int(fields[1])].append(pid)
        ticks[pid] = sum(int(field) for field in fields[11:15])  # its own and that of children waited for
    family = [root]
    for pid in family:
        family.extend(children[pid])
    return sum(ticks.get(pid, 0) for pid in family) * _TICK_US
