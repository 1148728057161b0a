"""Runs the command that prints a token (`token_command` of a context), with an end and a bound."""

import contextlib
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO, Final

from blockyard.cli.failures import CommandFailed

TIMEOUT_S: Final = 30.0
"""It may ask another host, and not a person."""
MAX_OUTPUT_BYTES: Final = 32_768
"""Of what it prints, and of what it complains; a token is shorter."""


class TokenCommand:
    """The command as a function, as the SDK takes it: it is called for the first token, and when that is refused."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(words)

    def __call__(self) -> str:
        """What it prints. Raises CommandFailed: it cannot be started, fails, prints too much or nothing, or hangs."""
        try:
            process = subprocess.Popen(  # noqa: S603  # the user's own words; no shell reads them
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise self._failed(f"cannot be started: {getattr(error, 'strerror', None) or error}") from error
        printed, complaint = self._outputs(process)
        if process.returncode:
            last = complaint.decode(errors="replace").strip().splitlines()[-1:]
            raise self._failed(f"ended with {process.returncode}{': ' if last else ''}{''.join(last)[:500]}")
        token = printed.decode("ascii", errors="replace").strip()
        if not token:
            raise self._failed("printed nothing")
        return token

    def _outputs(self, process: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
        """All of both outputs, once it has ended."""
        streams = (process.stdout, process.stderr)
        readers = [_Reader(stream) for stream in streams if stream is not None]
        deadline = time.monotonic() + TIMEOUT_S
        ended = False
        try:
            for reader in readers:
                reader.join(max(0.0, deadline - time.monotonic()))
            if any(reader.is_alive() for reader in readers):
                raise self._failed(f"has not ended after {TIMEOUT_S:g} seconds")
            if any(len(reader.content) > MAX_OUTPUT_BYTES for reader in readers):
                raise self._failed(f"printed more than {MAX_OUTPUT_BYTES} bytes")
            process.wait(max(0.0, deadline - time.monotonic()))
            ended = True
        except subprocess.TimeoutExpired:
            raise self._failed(f"has not ended after {TIMEOUT_S:g} seconds") from None
        finally:
            if not ended:
                _kill(process)
        return readers[0].content, readers[1].content

    def _failed(self, what: str) -> CommandFailed:
        return CommandFailed(
            f"The command for the token, `{shlex.join(self._words)}`, {what}.",
            next_step="Try it by itself; `blockyard context show` says where it is configured.",
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With what it has started: that may hold the pipes, also when the command itself has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


class _Reader(threading.Thread):
    """Reads a pipe to its end, or to a little more than the bound."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__(name="blockyard-token-command", daemon=True)
        self._stream = stream
        self.content = b""
        self.start()

    def run(self) -> None:
        with self._stream:
            self.content = self._stream.read(MAX_OUTPUT_BYTES + 1)
