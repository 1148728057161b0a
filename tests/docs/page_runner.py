"""Executes a page as its reader would: from top to bottom, in an empty folder, against a real server.

Where a page says 127.0.0.1:7350, its own server is meant, which listens on a free port; 127.0.0.1:7351 is another one.
"""

import contextlib
import difflib
import doctest
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from tests.docs.snippets import Command, Program, RunByCI, RunByTest, Server, ServerStops, Snippet, read_snippets

ROOT: Final = Path(__file__).parents[2]
DEFAULT_ADDRESS: Final = "127.0.0.1:7350"
SECOND_ADDRESS: Final = "127.0.0.1:7351"
"""For a server that listens at two."""
READY: Final = "Serving on "
"""So begins what a server says when it serves; one with TLS cannot be asked in plain text."""
SERVER_START_LIMIT_S: Final = 60
SERVER_STOP_LIMIT_S: Final = 20
COMMAND_LIMIT_S: Final = 60
LINKED: Final = ("examples", "protos")
"""Folders of the project that a page may refer to."""

COMPARISON: Final = doctest.ELLIPSIS | doctest.DONT_ACCEPT_TRUE_FOR_1 | doctest.DONT_ACCEPT_BLANKLINE


class BrokenPromise(AssertionError):
    """A page shows one thing, and another happened; the message says where, and what the reader would see."""


def run_page(page: Path, folder: Path) -> int:
    """Executes all snippets of a page in `folder`. Returns how many there were. Raises BrokenPromise, MalformedPage."""
    snippets = read_snippets(page.read_text(encoding="utf-8"))
    if snippets:
        with ExitStack() as stack:
            reader = Reader(page, folder, stack)
            for snippet in snippets:
                reader.follow(snippet)
    return len(snippets)


def shows(expected: str, actual: str) -> bool:
    """Whether `actual` is what a page shows: `...` stands for anything; spaces at the ends of lines do not count."""
    return doctest.OutputChecker().check_output(_trimmed(expected), _trimmed(actual), COMPARISON)


def _trimmed(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.rstrip().splitlines())


class Reader:
    """Somebody who follows one page: a folder, an environment, and the names that its programs have made."""

    def __init__(self, page: Path, folder: Path, stack: ExitStack) -> None:
        self.page = page
        self.folder = folder
        self._server = stack.enter_context(ExitStack())
        self.address = _free_address()
        self._second = _free_address()
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.environment = _environment(folder, self.address)
        (folder / ".venv").symlink_to(sys.prefix)
        for name in LINKED:
            (folder / name).symlink_to(ROOT / name)

    def follow(self, snippet: Snippet) -> None:
        """Does what the snippet says, and compares."""
        match snippet:
            case Command():
                self._type(snippet)
            case Program():
                self._run(snippet)
            case Server(command):
                self._server.close()
                self._server.enter_context(self._served(command))
            case ServerStops():
                self._server.close()
            case RunByCI(command):
                self._look_up_in_ci(command)
            case RunByTest():
                self._look_up_in_test(snippet)

    def _type(self, command: Command) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._here(command.text)],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=COMMAND_LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise BrokenPromise(f"{self._at(command.line)}: exit status {done.returncode}\n{done.stdout}")
        self._compare(command.line, command.expected, done.stdout)

    def _run(self, program: Program) -> None:
        # The empty lines give a traceback the page's own line numbers.
        code = compile("\n" * (program.line - 1) + self._here(program.text), str(self.page), "exec")
        printed = io.StringIO()
        with (
            contextlib.chdir(self.folder),
            _environment_of_this_process(self.environment),
            contextlib.redirect_stdout(printed),
        ):
            exec(code, self.names)  # noqa: S102 - executing the page is what this is for
        self._compare(program.line, program.expected, printed.getvalue())

    def _compare(self, line: int, expected: str, actual: str) -> None:
        expected = self._here(expected)
        if expected and not shows(expected, actual):
            difference = "\n".join(difflib.ndiff(expected.splitlines(), actual.splitlines()))
            raise BrokenPromise(f"{self._at(line)}: the page shows (-), the reader sees (+)\n{difference}")

    @contextlib.contextmanager
    def _served(self, command: Command) -> Iterator[None]:
        log = self.folder / f"server-{command.line}.log"
        with log.open("wb") as output:
            # A session of its own, so that the end reaches make and the server that make started.
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", self._here(command.text)],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            if not _serves(self.address, process, log):
                raise BrokenPromise(f"{self._at(command.line)}: no server\n{log.read_text(encoding='utf-8')}")
            if command.expected:
                self._compare(command.line, f"...{command.expected}...", log.read_text(encoding="utf-8"))
            yield
        finally:
            _stop(process)

    def _look_up_in_ci(self, command: Command) -> None:
        steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
        if not any(step.split("#")[0].rstrip() == f"step {command.text}" for step in steps):
            raise BrokenPromise(f"{self._at(command.line)}: .ci/run does not run `{command.text}`")

    def _look_up_in_test(self, snippet: RunByTest) -> None:
        test = ROOT / snippet.test
        if not test.is_file() or self.page.name not in test.read_text(encoding="utf-8"):
            raise BrokenPromise(f"{self._at(snippet.command.line)}: {snippet.test} does not run {self.page.name}")

    def _here(self, text: str) -> str:
        return text.replace(DEFAULT_ADDRESS, self.address).replace(SECOND_ADDRESS, self._second)

    def _at(self, line: int) -> str:
        return f"{self.page.name}:{line}"


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def _environment(folder: Path, address: str) -> dict[str, str]:
    """A reader's environment: nothing of the machine's own but what programs need to run at all."""
    kept = {name: os.environ[name] for name in ("LANG", "TMPDIR", "SSL_CERT_FILE") if name in os.environ}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "BLOCKYARD_ADDRESS": address,  # where clients look
        "BLOCKYARD_LISTEN": address,  # where the server listens
        "BLOCKYARD_DATA": str(folder / "blockyard.db"),
    }


@contextlib.contextmanager
def _environment_of_this_process(environment: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _serves(address: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    """Waits until the health service says SERVING, or, of a server with TLS, until it says itself that it serves.

    False: the process has ended, or the limit has passed.
    """
    give_up = time.monotonic() + SERVER_START_LIMIT_S
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=HealthCheckRequest.SerializeToString,
            response_deserializer=HealthCheckResponse.FromString,
        )
        while process.poll() is None and time.monotonic() < give_up:
            if READY in log.read_text(encoding="utf-8"):
                return True
            with contextlib.suppress(grpc.RpcError):
                answer = check(HealthCheckRequest(), timeout=1, wait_for_ready=True)
                if answer.status == HealthCheckResponse.SERVING:
                    return True
            if f"Serving on {address}" in log.read_text(encoding="utf-8"):
                return True
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a server and whatever it started, first politely."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SERVER_STOP_LIMIT_S)
            return
