"""A Node.js program with grpc-js and our protos, which tells its outcomes line by line (grpc_js/lines.js)."""

import copy
import hashlib
import itertools
import json
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Self

from filelock import FileLock

from tests.clients.real_client import PATIENCE_S, EndedWatch, FleetWatch, HealthWatch, Json, RealClient, Refusal

FOLDER: Final = Path(__file__).with_name("grpc_js")
NPM: Final = shutil.which("npm")
NODE: Final = shutil.which("node")
INSTALL_BOUND_S: Final = 240


def install() -> None:
    """Installs what package-lock.json names, once for each version of it, whoever else is about to."""
    assert NPM is not None
    lock_file = (FOLDER / "package-lock.json").read_bytes()
    stamp = FOLDER / "node_modules" / ".installed"
    wanted = hashlib.sha256(lock_file).hexdigest()
    place = hashlib.sha256(str(FOLDER).encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"blockyard-npm-{place}.lock", timeout=INSTALL_BOUND_S):
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
            return
        done = subprocess.run(
            [NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=INSTALL_BOUND_S,
            check=False,
        )
        assert done.returncode == 0, f"npm ci failed: {done.stderr}"
        stamp.write_text(wanted, encoding="utf-8")


def run_script(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Runs a script of grpc_js to its end."""
    assert NODE is not None
    command = [NODE, str(FOLDER / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


class GrpcJs(RealClient):
    """One Node.js process with one connection. A context manager."""

    def __init__(self, address: str) -> None:
        assert NODE is not None
        command = [NODE, str(FOLDER / "lines.js"), address]
        self._token: str | None = None
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ids = itertools.count()
        self._listeners: dict[int, Callable[[Json], None]] = {}
        self._reader = threading.Thread(target=self._read, name="grpc-js", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def with_token(self, token: str | None) -> Self:
        other = copy.copy(self)
        other._token = token
        return other

    def submit(self, method: str, request: Json) -> "Future[Json]":
        future: Future[Json] = Future()

        def settle(told: Json) -> None:
            if "answer" in told:
                future.set_result(told["answer"])
            else:
                future.set_exception(_failure(told))

        self._send(method, request, settle)
        return future

    def watch_health(self) -> HealthWatch:
        told: SimpleQueue[Json] = SimpleQueue()
        self._send("Health/Watch", {}, told.put)
        return _GrpcJsWatch(told)

    def watch(self, request: Json) -> FleetWatch:
        told: SimpleQueue[Json] = SimpleQueue()
        number = self._send("Allocator/Watch", request, told.put)
        return _GrpcJsFleetWatch(told, partial(self._tell, number), self._process.send_signal)

    def duration(self, milliseconds: int) -> object:
        return {"seconds": milliseconds // 1000, "nanos": milliseconds % 1000 * 1_000_000}

    def _send(self, method: str, request: Json, listener: Callable[[Json], None]) -> int:
        number = next(self._ids)
        self._listeners[number] = listener
        self._tell(number, {"method": method, "request": request, "token": self._token})
        return number

    def _tell(self, number: int, line: Json) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"id": number, **line}) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            self._listeners[told["id"]](told)


class _GrpcJsWatch(HealthWatch):
    def __init__(self, told: SimpleQueue[Json]) -> None:
        self._told = told
        self._states: list[str] = []

    def first_state(self) -> str:
        self._states.append(self._told.get(timeout=PATIENCE_S)["message"]["status"])
        return self._states[0]

    def ended(self) -> EndedWatch:
        told = self._told.get(timeout=PATIENCE_S)
        while "message" in told:
            self._states.append(told["message"]["status"])
            told = self._told.get(timeout=PATIENCE_S)
        failure = _failure(told)
        if not isinstance(failure, Refusal):
            raise failure
        return EndedWatch(self._states, failure)


class _GrpcJsFleetWatch(FleetWatch):
    def __init__(
        self, told: SimpleQueue[Json], tell: Callable[[Json], None], send_signal: Callable[[int], None]
    ) -> None:
        self._told = told
        self._tell = tell
        self._send_signal = send_signal

    def next(self) -> Json:
        told = self._told.get(timeout=PATIENCE_S)
        if "message" not in told:
            raise _failure(told)
        answer: Json = told["message"]
        return answer

    def stop_reading(self) -> None:
        """By stopping the whole program: a stream of its own that is paused takes 16 messages more, however large."""
        self._send_signal(signal.SIGSTOP)

    def rest(self) -> tuple[list[Json], Refusal]:
        self._send_signal(signal.SIGCONT)
        answers = []
        told = self._told.get(timeout=PATIENCE_S)
        while "message" in told:
            answers.append(told["message"])
            told = self._told.get(timeout=PATIENCE_S)
        failure = _failure(told)
        if not isinstance(failure, Refusal):
            raise failure
        return answers, failure

    def close(self) -> None:
        self._tell({"leave": True})


def _failure(told: Json) -> Exception:
    """The error that was told; an AssertionError if it is none of the server's, or not to be decoded."""
    if "error" not in told:
        return AssertionError(told["fault"])
    error = told["error"]
    return Refusal(error["status"], error["message"], error["details"])
