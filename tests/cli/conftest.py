"""A real server for each module's tests, on a free port, and the command line as a user has it."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from blockyard import Client
from blockyard.cli import main
from tests.harness.process import SERVER_PYTHON

COMMAND = (sys.executable, "-c", "import sys; from blockyard.cli import main; sys.exit(main())")
"""`blockyard`, whether or not its script is on the PATH."""


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


class CommandLine:
    """Runs `blockyard`: a call in this process, because hundreds of tests do it; `start` in a process of its own."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(
        self, *arguments: str, environment: Mapping[str, str] | None = None, encoding: str = "utf-8"
    ) -> Finished:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            for name in [name for name in os.environ if name.startswith("BLOCKYARD_")]:
                patch.delenv(name)
            for name, value in self.environment(environment or {}).items():
                patch.setenv(name, value)
            code = main(arguments)
        return Finished(code, *(_content(stream) for stream in (out, err)))

    def start(self, *arguments: str, python: str = sys.executable) -> subprocess.Popen[str]:
        """Starts a command that does not end by itself; in a session of its own, so that no terminal is near."""
        return subprocess.Popen(
            [python, *COMMAND[1:], *arguments],
            env=self.environment({}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Only what a command needs: nothing of the developer's own settings."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
        return {**kept, "XDG_CONFIG_HOME": "/nowhere", "BLOCKYARD_ADDRESS": self.address, **more}


def _content(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the module's server is."""
    data = tmp_path_factory.mktemp("data") / "blockyard.db"
    with serving(data) as found:
        yield found


class serving:  # noqa: N801  # read as `with serving(data) as address`
    """A server process for the time of a block."""

    def __init__(self, data: Path, *options: str) -> None:
        arguments = ["serve", "--listen", "127.0.0.1:0", "--data", str(data), "--log-level", "WARNING", *options]
        self.process = CommandLine("").start(*arguments, python=SERVER_PYTHON)
        self.lines: list[str] = []

    def __enter__(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.match(r"Serving on (\S+), data in ", line)
        if found is None:
            _, err = self.process.communicate()
            raise AssertionError(f"the server did not start: {line}{err}")
        return found[1]

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate()


@pytest.fixture
def blockyard(address: str) -> CommandLine:
    """The command line, which knows where the server is."""
    return CommandLine(address)


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """The SDK, to look at what a command has done."""
    with Client(address) as client:
        yield client


@pytest.fixture
def fleet(client: Client) -> str:
    """A fresh fleet with one 8-block instance `node-1` with label gpu=a100 and resource gpu=8."""
    name = f"f-{uuid4().hex[:12]}"
    client.create_fleet(name)
    client.create_instance(name, "node-1", total_blocks=8, labels={"gpu": "a100"}, resources={"gpu": 8})
    return name
