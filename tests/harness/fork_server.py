"""Programs of this project as processes of their own, forked from one that has imported the project already.

An interpreter that starts, and imports the server, works for a second and a half before its first line. The suite
starts some thousand. Everything else is as if the command had been typed: its arguments, its environment, its output,
its signals, its exit code.
"""

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

PRELOADED: Final = ("blockyard.cli.app", "blockyard_server.app", "blockyard_server.store.postgres.store")

_FORKING: Final = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(list(PRELOADED))
_ONE_AT_A_TIME: Final = threading.Lock()


class ForkedProcess:
    """A module that runs as `python -m module arguments` would; what `subprocess.Popen` offers of it."""

    def __init__(
        self, module: str, arguments: Sequence[str], *, stdout: Path, stderr: Path, environment: Mapping[str, str]
    ) -> None:
        for output in (stdout, stderr):
            output.write_bytes(b"")
        self._process = _FORKING.Process(
            target=_run, args=(module, [*arguments], str(stdout), str(stderr), {**environment}, str(Path.cwd()))
        )
        with _without_main():
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float) -> int:
        """The exit code, once it has ended. Raises TimeoutExpired."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired([str(self.pid)], timeout)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Nothing is sent to a process that has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


@contextmanager
def _without_main() -> Iterator[None]:
    """Else a child would first import what this process was started with: pytest, or a campaign."""
    with _ONE_AT_A_TIME:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def _run(module: str, arguments: list[str], stdout: str, stderr: str, environment: dict[str, str], folder: str) -> None:
    missing = [name for name in PRELOADED if name not in sys.modules]
    assert not missing, f"the fork server could not import {missing}"
    for number, place in ((1, stdout), (2, stderr)):
        file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - as long as the process
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - as long as the process
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = [module, *arguments]
    sys.modules.pop("__mp_main__", None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
