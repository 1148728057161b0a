"""What can be set, and what each setting means. Validated as a whole before anything is opened.

Each field's metadata has its help; the flag is the name with dashes (`--max-batch`), the environment variable
the name in capitals after `BLOCKYARD_` (`BLOCKYARD_MAX_BATCH`). Units are in the names.
"""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from platformdirs import user_data_path

from blockyard._defaults import DEFAULT_ADDRESS, DEFAULT_PORT

DEFAULT_METRICS_PORT: Final = 9350
"""For examples: metrics are off unless asked for."""
MIN_RETENTION_S: Final = 600.0
"""Longer than any call that the SDK and the command line make by themselves, retries included (the longest of their
timeouts is five minutes): no retry of theirs may meet a token that was forgotten. A test compares the two."""
MIN_JOURNAL_RETENTION_S: Final = 60.0
"""Servers that share a database, and watches that begin again, follow the journal: they are given at least this."""
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
_DATABASES = ("postgresql://", "postgres://")
_CREDENTIALS = re.compile(r"(?<=//).*@|\?.*")
_MAX_PORT = 65_535


class SettingsRefused(Exception):
    """A setting is out of its limits; the message names it and says what is allowed."""


def _setting(default: Any, help_: str, *, least: float | None = None, most: float | None = None) -> Any:
    return field(default=default, metadata={"help": help_, "least": least, "most": most})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Defaults serve a laptop. Raises SettingsRefused."""

    listen: str = _setting(DEFAULT_ADDRESS, "Address and port to serve on. Port 0 takes a free one.")
    data: Path = field(
        default_factory=lambda: user_data_path("blockyard") / "blockyard.db",
        metadata={
            "help": "The SQLite file with all data. Made at the first start. Not together with --database.",
            "least": None,
            "most": None,
        },
    )
    database: str | None = field(
        default=None,
        repr=False,  # there may be a password in it
        metadata={
            "help": "A PostgreSQL for all data, instead of --data, as postgresql://user@host:5432/name. Any number of"
            " servers may share one. Give a password in the variable, not on the command line.",
            "least": None,
            "most": None,
        },
    )
    database_schema: str = _setting(
        "",
        "The schema of the tables in --database. Empty: the only one that has them, else the first of the search path.",
    )
    max_batch: int = _setting(512, "The most requests of one fleet that share a transaction.", least=1, most=10_000)
    max_waiting: int = _setting(
        10_000, "The most requests that may wait; the server refuses one more with OVERLOADED.", least=1, most=1_000_000
    )
    max_linger_s: float = _setting(
        0.05,
        "How long a busy server may wait for more requests before it begins a transaction, in seconds.",
        least=0,
        most=1,
    )
    readers: int = _setting(4, "Database connections for reading.", least=1, most=64)
    sweep_interval_s: float = _setting(
        1.0, "The time between two sweeps of ended leases, in seconds; with --database below 60.", least=0.01, most=3600
    )
    retention_s: float = _setting(
        604_800.0,
        "How long ended allocations and their tokens are remembered at least, in seconds of server running time.",
        least=MIN_RETENTION_S,
        most=320_000_000,
    )
    journal_retention_s: float = _setting(
        2_592_000.0,
        "How long each change of a fleet is kept in its journal at least, for events, watch and verify, in seconds.",
        least=MIN_JOURNAL_RETENTION_S,
        most=320_000_000,
    )
    restart_grace_s: float | None = _setting(
        None,
        "A start renews every live lease by its whole TTL, or by at most this many seconds if this is set. Then a"
        " start with a clock that is ahead may end longer leases while their holders work.",
        least=0,
        most=320_000_000,
    )
    max_connections: int = _setting(
        10_000,
        "The most connections; the server closes one more at once. Fewer if the limit of open files requires it.",
        least=16,
        most=60_000,
    )
    drain_grace_s: float = _setting(
        10.0,
        "How long the server may take to stop, in seconds: reads under way have half of it, changes nearly all.",
        least=0,
        most=3600,
    )
    hold_format: bool = _setting(
        False,
        "While this server runs, no server raises the format of a fleet: you can still undo an upgrade.",
    )
    audit_interval_s: float = _setting(
        60.0,
        "The time between two rounds of verification in the background, in seconds. 0: none. A round checks a part.",
        least=0,
        most=86_400,
    )
    metrics_listen: str = _setting(
        "", "Address and port of metrics for Prometheus, such as 127.0.0.1:9350. Empty: none."
    )
    log_level: str = _setting("INFO", f"What is logged: {', '.join(LOG_LEVELS)}.")

    def __post_init__(self) -> None:
        """Checks every setting against its limits."""
        for setting in fields(self):
            value, least, most = getattr(self, setting.name), setting.metadata["least"], setting.metadata["most"]
            if least is not None and value is not None and not least <= value <= most:
                message = f"{setting.name} is {value}, and must be between {least} and {most}"
                raise SettingsRefused(message)
        if self.log_level not in LOG_LEVELS:
            message = f"log_level is {self.log_level!r}, and must be one of {', '.join(LOG_LEVELS)}"
            raise SettingsRefused(message)
        if self.database is not None and not self.database.startswith(_DATABASES):
            message = f"database must begin with {_DATABASES[0]}, as in postgresql://user@host:5432/name"
            raise SettingsRefused(message)
        _check_address("listen", self.listen, DEFAULT_PORT)
        if self.metrics_listen:
            _check_address("metrics_listen", self.metrics_listen, DEFAULT_METRICS_PORT)

    @property
    def place(self) -> str:
        """Where the data is, for people: without user, password and options."""
        return str(self.data) if self.database is None else _CREDENTIALS.sub("", self.database)


def _check_address(name: str, value: str, example_port: int) -> None:
    address = _ADDRESS.fullmatch(value)
    if address is None or int(address[2]) > _MAX_PORT:
        message = f"{name} is {value!r}, and must be HOST:PORT, such as 127.0.0.1:{example_port}"
        raise SettingsRefused(message)
