"""A real PgBouncer between servers and a PostgreSQL of the tests: the system's own, since there is no wheel of it."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg

from tests.harness.postgres import BOUND_S, PASSWORD, POLL_S, USER, Postgres
from tests.harness.process import free_port

PROGRAM: Final = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
"""Where it is. None: it is not installed."""
MISSING: Final = "PgBouncer is not installed: there is no pgbouncer in PATH or /usr/sbin"


class Pooler:
    """One PgBouncer. A context manager: leaving it kills it. `mode` is its pool_mode, `settings` are its own."""

    def __init__(self, postgres: Postgres, mode: str, **settings: str) -> None:
        assert PROGRAM is not None, MISSING
        self.port = free_port()
        self._program = PROGRAM
        self._folder = Path(tempfile.mkdtemp(prefix="blockyard-pooler-"))
        self._config = self._folder / "pgbouncer.ini"
        self._log = self._folder / "log.txt"
        self._owner = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "plain",
            "auth_file": str(self._folder / "users.txt"),
            "admin_users": USER,
            "pool_mode": mode,
            **settings,
        }
        self._databases = f"[databases]\n* = host=127.0.0.1 port={postgres.port}\n"
        (self._folder / "users.txt").write_text(f'"{USER}" "{PASSWORD}"\n')
        self._write()
        for path in (self._folder, *self._folder.iterdir()):
            if self._owner is not None:
                os.chown(path, self._owner, -1)

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([self._program, str(self._config)], stderr=log, user=self._owner)
        self._expect_answer()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(BOUND_S)
        shutil.rmtree(self._folder)

    def url(self, database: str) -> str:
        """The same database through the pooler."""
        return re.sub(r"@127\.0\.0\.1:\d+/", f"@127.0.0.1:{self.port}/", database)

    def change_mode(self, mode: str) -> None:
        """Has it pool otherwise from now on, also the clients that are connected."""
        assert self._process is not None
        self._settings["pool_mode"] = mode
        self._write()
        self._process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + BOUND_S
        while ("pool_mode", mode) not in [row[:2] for row in self.show("CONFIG")]:
            assert time.monotonic() < deadline, "it does not read its settings"
            time.sleep(POLL_S)

    def show(self, what: str) -> list[tuple[object, ...]]:
        """What it says of itself: POOLS, SERVERS, CONFIG."""
        with psycopg.ClientCursor(psycopg.connect(self._console, autocommit=True)) as cursor:
            cursor.execute(f"SHOW {what}".encode())
            rows = cursor.fetchall()
            cursor.connection.close()
        return rows

    @property
    def _console(self) -> str:
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/pgbouncer"

    def _write(self) -> None:
        lines = [f"{name} = {value}\n" for name, value in self._settings.items()]
        self._config.write_text(f"{self._databases}[pgbouncer]\n{''.join(lines)}")

    def _expect_answer(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + BOUND_S
        while True:
            try:
                psycopg.connect(self._console).close()
            except psycopg.OperationalError:
                code = self._process.poll()
                assert code is None, f"PgBouncer ended with exit code {code}: {self._log.read_text()}"
                assert time.monotonic() < deadline, f"PgBouncer does not answer: {self._log.read_text()}"
                time.sleep(POLL_S)
            else:
                return
