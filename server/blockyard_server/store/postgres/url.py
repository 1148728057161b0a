"""The URL of a PostgreSQL: checked, completed, and shown without its password."""

import re
from dataclasses import dataclass, field
from typing import Final

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from blockyard_server.engine.store_protocol import StoreRefused

CONNECT_TIMEOUT_S: Final = 2
"""For each host of the URL. The least that libpq keeps to."""
KEEPALIVE_IDLE_S: Final = 5
KEEPALIVE_INTERVAL_S: Final = 2
KEEPALIVE_COUNT: Final = 3
"""A host that vanished is noticed by the system within about ten seconds, also on a connection that says nothing."""
UNANSWERED_MS: Final = 10_000
"""How long the system sends again what nobody acknowledges."""

_DEFAULTS: Final = {
    "target_session_attrs": "read-write",  # of several hosts, the one that is the primary now
    "application_name": "blockyard",
    "connect_timeout": str(CONNECT_TIMEOUT_S),
    "keepalives_idle": str(KEEPALIVE_IDLE_S),
    "keepalives_interval": str(KEEPALIVE_INTERVAL_S),
    "keepalives_count": str(KEEPALIVE_COUNT),
    "tcp_user_timeout": str(UNANSWERED_MS),
    "client_encoding": "UTF8",
}
_SCHEME: Final = re.compile(r"postgres(?:ql)?://")
_UNAMBIGUOUS: Final = re.compile(r"(?:[^@/?]*@)?[^@]*")
"""After the scheme: one @ at most, which ends user and password. libpq reads others, too, but takes parts of a password
for a port, a database's name or a host, and says them in its messages."""
_PORT: Final = re.compile(r"(?:[0-9]{1,5})?")
_MISREAD: Final = (
    "the database's URL cannot be read: it must be postgresql://user:password@host:port/name?option=value, and in a "
    "user's name or a password, wherever it stands, / @ ? # % are written as %2F %40 %3F %23 %25"
)


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """Where a database is. What the URL itself says counts more than the defaults."""

    conninfo: str = field(repr=False)
    """For the driver; with the password."""
    shown: str
    """For people; without it."""


def parse_url(url: str) -> DatabaseUrl:
    """Raises StoreRefused. No message quotes the URL: there may be a password in it."""
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise StoreRefused("the database's URL must begin with postgresql://, as in postgresql://user@host:5432/name")
    if not _UNAMBIGUOUS.fullmatch(url, scheme.end()):
        raise StoreRefused(_MISREAD)
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except ProgrammingError:
        raise StoreRefused(_MISREAD) from None
    places = (given.get(name, "") for name in ("host", "hostaddr", "dbname"))
    if any("@" in place for place in places) or not all(map(_PORT.fullmatch, given.get("port", "").split(","))):
        raise StoreRefused(_MISREAD)
    return DatabaseUrl(make_conninfo(**(_DEFAULTS | given)), _shown(given))


def _shown(given: dict[str, str]) -> str:
    hosts = (given.get("host") or given.get("hostaddr") or "").split(",")
    ports = given.get("port", "").split(",")
    ports = ports * len(hosts) if len(ports) == 1 else ports
    places = ",".join(f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
    user = f"{given['user']}@" if given.get("user") else ""
    return f"postgresql://{user}{places}/{given.get('dbname', '')}"
