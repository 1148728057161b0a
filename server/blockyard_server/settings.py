"""What can be set, and what each setting means. Validated as a whole before anything is opened.

Each field's metadata has its help; the flag is the name with dashes (`--max-batch`), the environment variable
the name in capitals after `BLOCKYARD_` (`BLOCKYARD_MAX_BATCH`). Units are in the names.
"""

import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from platformdirs import user_data_path

from blockyard._defaults import DEFAULT_ADDRESS, DEFAULT_PORT

DEFAULT_OPS_PORT: Final = 9350
"""For examples: there is none unless asked for."""
MIN_RETENTION_S: Final = 600.0
"""Longer than any call that the SDK and the command line make by themselves, retries included (the longest of their
timeouts is five minutes): no retry of theirs may meet a token that was forgotten. A test compares the two."""
MIN_JOURNAL_RETENTION_S: Final = 60.0
"""Servers that share a database, and watches that begin again, follow the journal: they are given at least this."""
MAX_LISTENERS: Final = 8
"""Ports of one server: each has its own part of what may be connected and may wait."""
MAX_SOCKET_PATH_BYTES: Final = 103
"""Systems allow 103 to 107 in the path of a Unix socket."""
MAX_REQUEST_BYTES: Final = 1024 * 1024
"""Unless it is set: to parse so much garbage holds all others up for 60 ms. A batch of 1000 operations has 1048 bytes
for each, which is as much as its token, holder and labels take; only long annotations or many names take more."""
ON_OR_OFF: Final = ("on", "off")
LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
_DATABASES = ("postgresql://", "postgres://")
_CREDENTIALS = re.compile(r"(?<=//).*@|\?.*")
_MAX_PORT = 65_535


class SettingsRefused(Exception):
    """A setting is out of its limits; the message names it and says what is allowed."""


def _setting(default: Any, help_: str, *, least: float | None = None, most: float | None = None) -> Any:
    return field(default=default, metadata={"help": help_, "least": least, "most": most})


def _help(text: str) -> dict[str, str | None]:
    """The metadata of a setting without limits."""
    return {"help": text, "least": None, "most": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Defaults serve a laptop. Raises SettingsRefused."""

    listen: str = _setting(
        DEFAULT_ADDRESS,
        "Address and port to serve on; several with commas between, or none. Port 0 takes a free one. With --tls-cert"
        " they speak TLS.",
    )
    mtls_listen: str = _setting(
        "", "The same for clients with a certificate of --tls-client-ca; nobody else is let in there. Empty: none."
    )
    admin_socket: Path | None = field(
        default=None,
        metadata=_help(
            "A Unix socket for the administrators of this machine, made with mode 0600: whoever may open it may do"
            " everything."
        ),
    )
    tls_cert: Path | None = field(
        default=None,
        metadata=_help(
            "The server's certificate and those that lead to its authority, in PEM. Read again when it changes, as the"
            " two other files are."
        ),
    )
    tls_key: Path | None = field(
        default=None, metadata=_help("The private key of --tls-cert, in PEM, without a password.")
    )
    tls_client_ca: Path | None = field(
        default=None, metadata=_help("The authorities whose client certificates --mtls-listen lets in, in PEM.")
    )
    auth_file: Path | None = field(
        default=None,
        metadata=_help("Who may call, and what each may do. Without, everybody who reaches a port may do everything."),
    )
    insecure_no_auth: bool = _setting(
        False, "Serve other machines without --auth-file: everybody who reaches the port may do everything."
    )
    insecure_no_tls: bool = _setting(
        False, "Serve other machines on --listen in plaintext: everybody in between can read and change everything."
    )
    data: Path = field(
        default_factory=lambda: user_data_path("blockyard") / "blockyard.db",
        metadata=_help("The SQLite file with all data. Made at the first start. Not together with --database."),
    )
    database: str | None = field(
        default=None,
        repr=False,  # there may be a password in it
        metadata=_help(
            "A PostgreSQL for all data, instead of --data, as postgresql://user@host:5432/name. Any number of servers"
            " may share one. Give a password in the variable, not on the command line."
        ),
    )
    database_schema: str = _setting(
        "",
        "The schema of the tables in --database. Empty: the only one that has them, else the first of the search path.",
    )
    max_batch: int = _setting(512, "The most requests of one fleet that share a transaction.", least=1, most=10_000)
    max_waiting: int = _setting(
        10_000, "The most requests that may wait; the server refuses one more with OVERLOADED.", least=1, most=1_000_000
    )
    max_open_cancellations: int = _setting(
        100_000,
        "The most tokens that a tenant may cancel on a fleet before they are granted, while they are remembered. Holds"
        " where callers are asked who they are.",
        least=1,
        most=100_000_000,
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
    max_request_bytes: int = _setting(
        MAX_REQUEST_BYTES,
        "The largest request, in bytes. While a large one is parsed, all others wait: 60 ms for a mebibyte at worst.",
        least=65_536,
        most=16_777_216,
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
    ops_listen: str = _setting(
        "", "Address and port of /metrics, /livez and /readyz over HTTP, such as 127.0.0.1:9350. Empty: none."
    )
    metrics_listen: str = _setting("", "The old name of --ops-listen, which has the metrics and more.")
    metrics_fleets: int = _setting(
        50,
        "The most fleets, and the most tenants, that have metrics of their own, by what they do; _other stands for the"
        " rest.",
        least=0,
        most=200,
    )
    reflection: str = _setting(
        "on", "Whether tools such as grpcurl may ask for the service's descriptions (server reflection): on or off."
    )
    log_level: str = _setting("INFO", f"What is logged: {', '.join(LOG_LEVELS)}.")

    def __post_init__(self) -> None:
        """Checks every setting against its limits."""
        for setting in fields(self):
            value, least, most = getattr(self, setting.name), setting.metadata["least"], setting.metadata["most"]
            if least is not None and value is not None and not least <= value <= most:
                message = f"{setting.name} is {value}, and must be between {least} and {most}"
                raise SettingsRefused(message)
        if self.reflection not in ON_OR_OFF:
            message = f"reflection is {self.reflection!r}, and must be on or off"
            raise SettingsRefused(message)
        if self.log_level not in LOG_LEVELS:
            message = f"log_level is {self.log_level!r}, and must be one of {', '.join(LOG_LEVELS)}"
            raise SettingsRefused(message)
        if self.database is not None and not self.database.startswith(_DATABASES):
            message = f"database must begin with {_DATABASES[0]}, as in postgresql://user@host:5432/name"
            raise SettingsRefused(message)
        self._check_listeners()
        self._check_tls()
        for name in ("ops_listen", "metrics_listen"):
            if getattr(self, name):
                _check_address(name, getattr(self, name), DEFAULT_OPS_PORT)
        if self.ops_listen and self.metrics_listen:
            raise SettingsRefused("ops_listen and metrics_listen are both given, and the second is its old name")

    def _check_listeners(self) -> None:
        addresses = [*self.listen_addresses, *self.mtls_addresses]
        for name, each in (("listen", self.listen_addresses), ("mtls_listen", self.mtls_addresses)):
            for address in each:
                _check_address(name, address, DEFAULT_PORT)
        if len(addresses) > MAX_LISTENERS:
            message = f"listen and mtls_listen have {len(addresses)} addresses, and must have at most {MAX_LISTENERS}"
            raise SettingsRefused(message)
        twice = {address for address in addresses if addresses.count(address) > 1 and not address.endswith(":0")}
        if twice:
            raise SettingsRefused(f"listen and mtls_listen name {min(twice)} twice, and must name each address once")
        if not addresses and self.admin_socket is None:
            raise SettingsRefused("listen, mtls_listen and admin_socket are all empty, and one of them must be given")
        if self.admin_socket is not None and len(os.fsencode(self.admin_socket.absolute())) > MAX_SOCKET_PATH_BYTES:
            message = f"the path of admin_socket must have at most {MAX_SOCKET_PATH_BYTES} bytes: {self.admin_socket}"
            raise SettingsRefused(message)
        if self.insecure_no_auth and self.auth_file is not None:
            raise SettingsRefused("insecure_no_auth and auth_file are both given, and contradict each other")

    def _check_tls(self) -> None:
        """What is not used must not seem to protect anything."""
        if (self.tls_cert is None) != (self.tls_key is None):
            raise SettingsRefused("tls_cert and tls_key must be given together")
        if (self.tls_client_ca is None) != (not self.mtls_addresses):
            raise SettingsRefused("mtls_listen and tls_client_ca must be given together")
        if self.mtls_addresses and self.tls_cert is None:
            raise SettingsRefused("mtls_listen needs tls_cert and tls_key")
        plain = self.insecure_no_tls or not self.listen_addresses
        if self.tls_cert is not None and plain and not self.mtls_addresses:
            message = "tls_cert is given, and no listener would use it: leave out insecure_no_tls, or name a listener"
            raise SettingsRefused(message)

    @property
    def ops_address(self) -> str:
        """Where operators' tools ask; empty: nowhere."""
        return self.ops_listen or self.metrics_listen

    @property
    def listen_addresses(self) -> tuple[str, ...]:
        """Where clients without a certificate connect to."""
        return _addresses(self.listen)

    @property
    def mtls_addresses(self) -> tuple[str, ...]:
        """Where clients with a certificate connect to."""
        return _addresses(self.mtls_listen)

    @property
    def place(self) -> str:
        """Where the data is, for people: without user, password and options."""
        return str(self.data) if self.database is None else _CREDENTIALS.sub("", self.database)


def _addresses(text: str) -> tuple[str, ...]:
    """The parts between commas."""
    return tuple(part.strip() for part in text.split(",")) if text else ()


def _check_address(name: str, value: str, example_port: int) -> None:
    address = _ADDRESS.fullmatch(value)
    if address is None or int(address[2]) > _MAX_PORT:
        message = f"{name} is {value!r}, and must be HOST:PORT, such as 127.0.0.1:{example_port}"
        raise SettingsRefused(message)
