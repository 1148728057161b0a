"""Which servers a target names, as gRPC takes it: one server, or several behind one channel.

gRPC looks up one name by itself, again after each lost connection. A list it takes only as addresses, all of one
family; so the names in a list are looked up here, once, and IPv4 addresses beside IPv6 ones are written as such.
"""

import logging
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

from blockyard.errors import InvalidTarget

MAX_SERVERS: Final = 64
"""The longest list: each of its servers gets a connection and a health watch from every client."""
_MAX_PORT: Final = 65_535
_HOST_PORT: Final = re.compile(r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
_GRPC_FORMS: Final = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")

_log = logging.getLogger(__name__)
# A library logs only where the program asks for it, and never to stderr by default.
logging.getLogger("blockyard").addHandler(logging.NullHandler())

Address: TypeAlias = IPv4Address | IPv6Address
Lookup: TypeAlias = Callable[[str], Sequence[Address]]
"""The addresses of a name; OSError or UnicodeError if it has none."""


@dataclass(frozen=True, slots=True)
class Server:
    """One entry of a target."""

    host: str
    """A name or an address, without brackets."""
    port: int

    def __str__(self) -> str:
        """HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """What a channel is opened to."""

    name: str
    """As gRPC takes it."""
    several: bool
    """Whether it may be more than one server: calls go round, and a server that says NOT_SERVING gets none."""
    authority: str | None = None
    """The name that TLS certificates are checked against; None: gRPC takes it from `name`."""


def names_a_form_of_grpc(text: str) -> bool:
    """Whether it is written in gRPC's own way, as `dns:///…` and `unix:…`, and so is gRPC's to understand."""
    return text.startswith(_GRPC_FORMS)


def is_on_this_machine(target: str) -> bool:
    """Whether all of what a target names, as gRPC takes it, is on this machine: Unix sockets and loopback addresses.

    A name may have other addresses when gRPC looks it up; only `localhost` never leaves the machine (RFC 6761).
    """
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    for form in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        if target.startswith(form):
            target = target.removeprefix(form)
            break
    hosts = [_HOST_PORT.fullmatch(entry) for entry in target.split(",")]
    return all(found is not None and _is_loopback(found["host"].strip("[]")) for found in hosts)


def _is_loopback(host: str) -> bool:
    try:
        address: Address = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


def decode_servers(text: str) -> tuple[Server, ...]:
    """The servers of `HOST:PORT` or `HOST:PORT,HOST:PORT,…`, each once, in their order.

    Raises:
        InvalidTarget: It is not of this form.
    """
    entries = [entry.strip() for entry in text.split(",")]
    if len(entries) > MAX_SERVERS:
        raise InvalidTarget(f"the target names {len(entries)} servers; at most {MAX_SERVERS} are allowed")
    servers = []
    for entry in entries:
        found = _HOST_PORT.fullmatch(entry)
        if found is None or int(found["port"]) > _MAX_PORT:
            where = "" if len(entries) == 1 else f" in {text!r}"
            raise InvalidTarget(f"{entry!r}{where} is not an address of the form HOST:PORT")
        servers.append(Server(found["host"].strip("[]"), int(found["port"])))
    return tuple(dict.fromkeys(servers))


def decode_target(text: str, lookup: Lookup | None = None) -> Target:
    """What to connect to. A list is several servers, and so is a `dns:` name: it may have several addresses.

    Anything else is one server, and goes to gRPC as it is. `lookup` stands in for the system's where a test says so.

    Raises:
        InvalidTarget: A list is malformed, or none of its names has an address.
    """
    if names_a_form_of_grpc(text):
        return Target(text, several=text.startswith("dns:") or "," in text)
    if "," not in text:
        return Target(text, several=False)
    servers = decode_servers(text)
    return Target(_static(_addresses(servers, lookup or _look_up)), several=True, authority=str(servers[0]))


def _addresses(servers: Sequence[Server], lookup: Lookup) -> list[tuple[Sequence[Address], int]]:
    """The addresses and the port of each server that has any."""
    found: list[tuple[Sequence[Address], int]] = []
    failures = []
    for server in servers:
        try:
            found.append((lookup(server.host), server.port))
        except (OSError, UnicodeError) as error:
            failures.append(f"{server.host}: {getattr(error, 'strerror', None) or error}")
    if not found:
        raise InvalidTarget(f"no server of the target has an address ({'; '.join(failures)})")
    # Where names come and go with their servers, one that is down must not keep a client from the others.
    for failure in failures:
        _log.warning("a server of the target is left out: %s", failure)
    return found


def _static(found: Sequence[tuple[Sequence[Address], int]]) -> str:
    """The addresses as gRPC writes them: all as IPv4 if each server has such a one, else all as IPv6."""
    if all(any(address.version == 4 for address in addresses) for addresses, _ in found):  # noqa: PLR2004 - IPv4
        fours = [f"{a}:{port}" for addresses, port in found for a in addresses if isinstance(a, IPv4Address)]
        return "ipv4:" + ",".join(dict.fromkeys(fours))
    sixes = [f"[{_as_six(address)}]:{port}" for addresses, port in found for address in addresses]
    return "ipv6:" + ",".join(dict.fromkeys(sixes))


def _as_six(address: Address) -> str:
    return f"::ffff:{address}" if isinstance(address, IPv4Address) else str(address)


def _look_up(host: str) -> Sequence[Address]:
    try:
        return (ip_address(host),)
    except ValueError:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ip_address(str(place[0])) for *_, place in found]
