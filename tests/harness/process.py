"""The real server as a process of its own, that can be stopped, killed and restarted."""

import os
import random
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.harness.fork_server import ForkedProcess
from tests.harness.sessions import servers_on, url_for
from tests.harness.stopped import wait_until_stopped

COMMAND: Final = (str(Path(sysconfig.get_path("scripts")) / "blockyard"),)
"""What a user types: for the tests of the command itself."""
SERVER_PYTHON: Final = os.environ.get("BLOCKYARD_SERVER_PYTHON", sys.executable)
"""What runs servers: an environment of their own where `make package` tests the SDK with older packages than theirs."""
BOUND_S: Final = 60.0
"""No start and no stop takes longer than this."""
POLL_S: Final = 0.01
_PORTS: Final = range(20_000, 30_000)
"""Below the range out of which systems choose the ports of outgoing connections, so that a restart finds it free."""


class StartFailed(Exception):
    """The process ended instead of serving. `code` is its exit code, `errors` what it wrote to stderr."""

    def __init__(self, code: int, errors: str) -> None:
        super().__init__(f"exit code {code}: {errors}")
        self.code = code
        self.errors = errors


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    dice = random.SystemRandom()
    while True:
        port = dice.choice(_PORTS)
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class ServerProcess:
    """`blockyard serve` on the data in `folder`, always on the same port. A context manager: leaving it kills it.

    `settings` are the server's, by field name; with a `database` there is no data in the folder.
    """

    def __init__(self, folder: Path, *, port: int | None = None, **settings: Any) -> None:
        self.data: Path = settings.get("data", folder / "blockyard.db")
        self.port = free_port() if port is None else port
        self.address = f"127.0.0.1:{self.port}"
        self.program = [SERVER_PYTHON, "-m", "blockyard"]
        """What the next launch runs; a test may put another program around it. A bare `python -m` is forked."""
        place = {} if "database" in settings else {"data": self.data}
        self._settings = {"listen": self.address, **place, "log_level": "WARNING", **settings}
        folder.mkdir(parents=True, exist_ok=True)
        self._stdout = folder / "stdout.txt"
        self._stderr = folder / "stderr.txt"
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.remove()

    def add_setting(self, **settings: Any) -> None:
        """From the next launch on."""
        self._settings.update(settings)

    def setting(self, name: str) -> str:
        """A setting that it was given."""
        return str(self._settings[name])

    def launch(self) -> None:
        """Starts the process and does not wait until it serves."""
        assert self._process is None, "it runs already"
        command = [*self.program, "serve"]
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in self._settings.items()]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("BLOCKYARD_")}
        environment["PYTHONUNBUFFERED"] = "1"
        if command[:2] == [sys.executable, "-m"]:
            self._process = ForkedProcess(
                command[2], [*command[3:], *flags], stdout=self._stdout, stderr=self._stderr, environment=environment
            )
            return
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen([*command, *flags], stdout=stdout, stderr=stderr, env=environment)

    def start(self) -> None:
        """Starts the process and waits until it serves. Raises StartFailed."""
        self.launch()
        self.wait_until_serving()

    def wait_until_serving(self) -> None:
        """Raises StartFailed."""
        assert self._process is not None, "it was never launched"
        deadline = time.monotonic() + BOUND_S
        while b"Serving on" not in self._stdout.read_bytes():
            code = self._process.poll()
            if code is not None:
                self._process = None
                raise StartFailed(code, self.errors())
            assert time.monotonic() < deadline, f"it neither serves nor ends: {self.errors()}"
            time.sleep(POLL_S)

    def kill(self) -> None:
        """SIGKILL: the process has no say in it. Raises AssertionError if it was not this that ended it."""
        assert self._process is not None, "it does not run"
        self._process.kill()
        self.expect_killed()

    def expect_killed(self) -> None:
        """Waits for the end. Raises AssertionError if it was not SIGKILL: the process has failed by itself."""
        code = self.wait()
        assert code == -signal.SIGKILL, f"it was not killed, but ended with exit code {code}: {self.errors()}"

    def remove(self) -> None:
        """Ends what may still run, whatever has become of it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(BOUND_S)
            self._process = None

    def send(self, number: signal.Signals) -> None:
        """This signal."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay open, and nobody answers."""
        self.send(signal.SIGSTOP)
        assert self._process is not None
        wait_until_stopped([self._process.pid])

    def thaw(self) -> None:
        """Ends `freeze`."""
        self.send(signal.SIGCONT)

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        self.send(signal.SIGTERM)

    def terminate(self) -> int:
        """SIGTERM, and waits for the end; the exit code."""
        self.ask_to_stop()
        return self.wait()

    def wait(self) -> int:
        """Waits for the end; the exit code."""
        assert self._process is not None, "it does not run"
        code = self._process.wait(BOUND_S)
        self._process = None
        return code

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def ends_by_itself(self) -> int:
        """Waits for the end, and leaves the process to whoever asks next; the exit code."""
        assert self._process is not None, "it does not run"
        return self._process.wait(BOUND_S)

    def errors(self) -> str:
        """What it has written to stderr since its last start."""
        return self._stderr.read_text()


@contextmanager
def several_servers(folder: Path, database: str, count: int, **settings: Any) -> Iterator[list[ServerProcess]]:
    """So many servers that serve from one database on PostgreSQL, which says itself that they are connected."""
    with ExitStack() as stack:
        servers = [
            ServerProcess(folder / str(number), database=url_for(database, number), **settings)
            for number in range(count)
        ]
        for server in servers:
            stack.enter_context(server).start()
        assert servers_on(database) == count, "not every server uses this database"
        yield servers
