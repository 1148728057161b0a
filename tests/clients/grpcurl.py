"""The real grpcurl, as a person runs it: one process for each call, all that it knows of the API by reflection."""

import copy
import json
import re
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from tests.clients.real_client import PATIENCE_S, EndedWatch, FleetWatch, HealthWatch, Json, RealClient, Refusal

GRPCURL: Final = Path(sys.executable).with_name("grpcurl")
FAILED_CALL_EXIT_CODE: Final = 64
"""Added to the number of the status."""

_DETAIL = re.compile(r"^\s+\d+\)\t(\{.*\})$", re.MULTILINE)


class Grpcurl(RealClient):
    """Runs grpcurl against one server. A context manager."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._token: str | None = None
        self._reflection_token: str | None = None
        self._threads = ThreadPoolExecutor(thread_name_prefix="grpcurl")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def with_token(self, token: str | None) -> Self:
        """It asks for the API with the first token all the same: of what that meets grpcurl shows no details."""
        other = copy.copy(self)
        other._token = token
        other._reflection_token = self._reflection_token or token
        return other

    def run(self, *arguments: str, options: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        """Runs `grpcurl -plaintext OPTIONS ADDRESS ARGUMENTS` to its end."""
        return subprocess.run(
            self._command(options, arguments), capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )

    def invoke(self, method: str, request: Json, *, options: tuple[str, ...] = ()) -> Json:
        """Calls a method by its full name. Raises Refusal."""
        done = self.run(method, options=("-d", json.dumps(request), *options))
        if done.returncode:
            raise _refusal(done.stderr)
        answer: Json = json.loads(done.stdout)
        return answer

    def submit(self, method: str, request: Json) -> "Future[Json]":
        return self._threads.submit(self.invoke, f"blockyard.v1.{method}", request)

    def watch_health(self) -> HealthWatch:
        return _GrpcurlWatch(self._command((), ("grpc.health.v1.Health/Watch",)))

    def watch(self, request: Json) -> FleetWatch:
        return _GrpcurlFleetWatch(self._command(("-d", json.dumps(request)), ("blockyard.v1.Allocator/Watch",)))

    def duration(self, milliseconds: int) -> object:
        return f"{milliseconds / 1000}s"

    def _command(self, options: tuple[str, ...], arguments: tuple[str, ...]) -> list[str]:
        tokens = (("-rpc-header", self._token), ("-reflect-header", self._reflection_token))
        headers = [word for flag, token in tokens if token for word in (flag, f"authorization: Bearer {token}")]
        return [str(GRPCURL), "-plaintext", *headers, *options, self.address, *arguments]


class _GrpcurlWatch(HealthWatch):
    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._first = ""

    def first_state(self) -> str:
        assert self._process.stdout is not None
        while not self._first.endswith("}\n"):
            line = self._process.stdout.readline()
            assert line, "the watch ended before its first state"
            self._first += line
        return _states(self._first)[0]

    def ended(self) -> EndedWatch:
        out, err = self._process.communicate(timeout=PATIENCE_S)
        assert self._process.returncode > FAILED_CALL_EXIT_CODE
        return EndedWatch(_states(self._first + out), _refusal(err))


class _GrpcurlFleetWatch(FleetWatch):
    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def next(self) -> Json:
        assert self._process.stdout is not None
        text = ""
        while not text.endswith("\n}\n"):
            line = self._process.stdout.readline()
            assert line, "the watch has ended"
            text += line
        answer: Json = json.loads(text)
        return answer

    def stop_reading(self) -> None:
        """By not reading what it writes: when the pipe is full, it waits itself."""

    def rest(self) -> tuple[list[Json], Refusal]:
        out, err = self._process.communicate(timeout=PATIENCE_S)
        documents = re.split(r"(?<=^\})\n", out, flags=re.MULTILINE)
        return [json.loads(text) for text in documents if text.strip()], _refusal(err)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def _states(documents: str) -> list[str]:
    return re.findall(r'"status": "(\w+)"', documents)


def _refusal(text: str) -> Refusal:
    """Reads what grpcurl prints for people: the code in its Go spelling, the message, the numbered details."""
    code = re.search(r"^  Code: (\w+)$", text, re.MULTILINE)
    message = re.search(r"^  Message: (.*)$", text, re.MULTILINE)
    assert code is not None, f"grpcurl failed without a status: {text}"
    assert message is not None, f"grpcurl shows no message: {text}"
    status = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", code[1]).upper()
    return Refusal(status, message[1], [json.loads(detail) for detail in _DETAIL.findall(text)])
