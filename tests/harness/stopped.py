"""Whether a process stands still after SIGSTOP. A signal is sent at once and takes effect later, or never."""

import subprocess
import time
from collections.abc import Iterable
from typing import Final

BOUND_S: Final = 30.0
POLL_S: Final = 0.005


def wait_until_stopped(processes: Iterable[int]) -> None:
    """Returns once the system says that each of them is stopped. Raises AssertionError.

    One that was ending when the signal came is a zombie for as long as its parent is stopped: it runs nothing, either.
    """
    wanted = sorted(processes)
    assert wanted, "nothing is stopped"
    deadline = time.monotonic() + BOUND_S
    while not _stand_still(states := _states(wanted), wanted):
        assert time.monotonic() < deadline, f"not stopped: {states}"
        time.sleep(POLL_S)


def _stand_still(states: dict[int, str], wanted: list[int]) -> bool:
    return states.keys() == set(wanted) and set(states.values()) <= {"T", "Z"} and "T" in states.values()


def _states(processes: list[int]) -> dict[int, str]:
    """By process: T is stopped, S sleeps, R runs. Those that are gone are left out."""
    chosen = ",".join(map(str, processes))
    listed = subprocess.run(["ps", "-o", "pid=,state=", "-p", chosen], capture_output=True, text=True, check=False)
    pairs = [line.split() for line in listed.stdout.splitlines()]
    return {int(process): state[0] for process, state in pairs}
