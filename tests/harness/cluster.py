"""A PostgreSQL with a synchronous standby, whose primary can be killed and whose standby takes its place."""

import time
from types import TracebackType
from typing import Final, Self

from tests.harness.postgres import PASSWORD, USER, Postgres
from tests.harness.process import free_port

BOUND_S: Final = 60.0
"""A standby follows within this."""
POLL_S: Final = 0.02


class Cluster:
    """A primary whose commits wait for a standby. A context manager: leaving it removes both."""

    def __init__(self) -> None:
        self.primary = Postgres()
        self.standby: Postgres | None = None
        self._ports = (self.primary.port, free_port())

    def __enter__(self) -> Self:
        self.primary.start()
        try:
            self.attach_standby()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.remove()

    def attach_standby(self) -> None:
        """Makes a standby of the primary; from then on no commit is answered before the standby has it on its disk."""
        [port] = set(self._ports) - {self.primary.port}
        self.standby = Postgres(primary=self.primary, port=port)
        self.standby.start()
        self.primary.configure(synchronous_standby_names=f"standby_{self.standby.port}")
        self.primary.reload()
        deadline = time.monotonic() + BOUND_S
        while self.primary.ask("SELECT sync_state FROM pg_stat_replication") != [("sync",)]:
            assert time.monotonic() < deadline, "the standby does not follow"
            time.sleep(POLL_S)

    def kill_primary(self) -> None:
        """SIGKILL: nobody waits for its sessions, and what it has not sent is lost."""
        self.primary.kill()

    def promote_standby(self) -> None:
        """The standby becomes the primary, without a standby of its own: `attach_standby` makes the next one."""
        assert self.standby is not None, "there is no standby"
        self.standby.configure(synchronous_standby_names="")
        self.standby.promote()
        dead, self.primary, self.standby = self.primary, self.standby, None
        dead.remove()

    def promotions(self) -> int:
        """How many there have been, as the primary says: each begins a timeline of the log."""
        [(segment,)] = self.primary.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        return int(str(segment)[:8], base=16) - 1

    def url(self, database: str) -> str:
        """Both places, of which the one that takes writes is meant; the same after every fail-over."""
        places = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return f"postgresql://{USER}:{PASSWORD}@{places}/{database}?target_session_attrs=read-write"

    def remove(self) -> None:
        """Kills both and removes their folders."""
        for server in (self.primary, self.standby):
            if server is not None:
                server.remove()
