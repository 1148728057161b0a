"""A real server in a process of its own, started as a user starts it: `blockyard serve`."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

EXIT_PATIENCE_S: Final = 60
"""A server that has not ended so long after SIGTERM never will."""


@dataclass(frozen=True)
class ServerProcess:
    """A server that is serving."""

    address: str
    data: Path
    """Its SQLite file."""
    process: "subprocess.Popen[str]"
    log: Path
    """What it writes to stderr."""

    def terminate(self) -> None:
        """Asks it to drain."""
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def server_process(folder: Path, *options: str) -> Iterator[ServerProcess]:
    """Serves from `folder` on a free port while the block runs, then drains. `options` are those of the command."""
    data, log = folder / "blockyard.db", folder / "server.log"
    script = "import sys; from blockyard.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, "serve", "--listen", "127.0.0.1:0", "--data", str(data), *options]
    with log.open("a", encoding="utf-8") as errors, _started(command, errors) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        found = re.match(r"Serving on (\S+), data in ", line)
        assert found, f"the server did not start: {line}{log.read_text(encoding='utf-8')}"
        try:
            yield ServerProcess(found[1], data, server, log)
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(EXIT_PATIENCE_S)
            except subprocess.TimeoutExpired:
                server.kill()
                raise


def _started(command: list[str], errors: TextIO) -> "subprocess.Popen[str]":
    # Nothing of the developer's own settings.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BLOCKYARD_")}
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True
    )
