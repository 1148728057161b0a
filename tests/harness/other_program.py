"""Another program that has the data file open: a Python process with a SQLite connection."""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

_PROGRAM: Final = """
import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
for line in sys.stdin:
    try:
        answer = db.execute(json.loads(line)).fetchall()
    except sqlite3.Error as failure:
        answer = str(failure)
    print(json.dumps(answer), flush=True)
db.close()
"""


class OtherProgram:
    """A sqlite3 shell of sorts. A context manager: leaving it closes its connection, as `.quit` does."""

    def __init__(self, data: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(data)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.quit()

    def ask(self, statement: str) -> Any:
        """The rows of a statement, as lists, or what SQLite says is wrong."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(statement) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def quit(self) -> None:
        """Closes the connection and ends."""
        self._process.communicate()

    def kill(self) -> None:
        """SIGKILL: the connection is not closed."""
        self._process.kill()
        self._process.communicate()


def refusal_elsewhere(data: Path) -> str:
    """What a store in another process says when it cannot open the file; empty if it can."""
    program = (
        "import asyncio, pathlib, sys\n"
        "from blockyard_server.engine.store_protocol import StoreRefused\n"
        "from blockyard_server.store.sqlite.store import SqliteStore\n"
        "store = SqliteStore(pathlib.Path(sys.argv[1]))\n"
        "try:\n"
        "    store.open()\n"
        "except StoreRefused as refused:\n"
        "    print(refused)\n"
        "else:\n"
        "    asyncio.run(store.close())\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(data)], capture_output=True, text=True, check=True)
    return ended.stdout
