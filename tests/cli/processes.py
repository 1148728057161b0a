"""What tests ask about processes that are not their own children, out of /proc."""

import time
from pathlib import Path


def state(pid: int) -> str:
    """The process's state as ps(1) has it: R or S if it runs or waits, T if it is stopped; empty if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    found = text.rpartition(")")[2].split()[0]
    return "" if found in "ZX" else found


def is_running(pid: int) -> bool:
    return state(pid) != ""


def wait_until_stopped(pid: int) -> None:
    """The test's own bound ends a wait in vain."""
    while state(pid) != "T":
        assert is_running(pid)
        time.sleep(0.01)


def wait_until_gone(pid: int) -> None:
    """The test's own bound ends a wait in vain."""
    while is_running(pid):
        time.sleep(0.01)


def read_pid(path: Path) -> int:
    """A process's own number, as soon as it has written it there."""
    while not path.exists() or not path.read_text().endswith("\n"):
        time.sleep(0.01)
    return int(path.read_text())


def children(pid: int) -> list[int]:
    """Of all of its threads."""
    return [
        int(child) for listing in Path(f"/proc/{pid}/task").glob("*/children") for child in listing.read_text().split()
    ]
