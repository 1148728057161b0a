"""Where the server listens: ports with or without TLS. Each listener has a gRPC server of its own.

It decides who is asked for an identity there, and how: gRPC does not even request a certificate unless it demands one,
so clients with a certificate and clients with a token have different ports (docs/adr/0027).
"""

import socket
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Protocol

import grpc

from blockyard_server.rpc.auth.authenticator import Authenticator


class Listener(Protocol):
    """One place to listen at."""

    @property
    def authenticator(self) -> Authenticator | None:
        """Who is asked who calls. None: nobody, and everybody may do everything."""
        ...

    @property
    def by_certificate(self) -> bool:
        """Every client has shown a certificate."""
        ...

    @property
    def is_port(self) -> bool:
        """It is in the network, and shares the limits of connections and waiting calls with the others that are."""
        ...

    @property
    def replaces_connections(self) -> bool:
        """Connections end after a while, so that clients show who they are, and see the newest certificate."""
        ...

    def bind(self, server: grpc.aio.Server) -> str:
        """Takes the address for this server, and returns it as clients name it. Raises OSError, which says why not."""
        ...

    def close(self) -> None:
        """Gives back what `bind` has taken, once the server has stopped."""
        ...


@dataclass(frozen=True, slots=True)
class PortListener:
    """A port."""

    address: str
    """`host:port`; port 0 takes a free one."""
    authenticator: Authenticator | None = None
    credentials: grpc.ServerCredentials | None = None
    """Of TLS. None: plaintext."""
    by_certificate: bool = False
    flag: str = "--listen"
    """The setting that asks for it, for messages."""

    @property
    def is_port(self) -> bool:
        """As in the protocol."""
        return True

    @property
    def replaces_connections(self) -> bool:
        """As in the protocol."""
        return self.credentials is not None or self.authenticator is not None

    def bind(self, server: grpc.aio.Server) -> str:
        """As in the protocol."""
        address = self.address
        try:
            _try_address(address)
        except (OSError, UnicodeError) as error:
            raise self._refused(getattr(error, "strerror", None) or str(error)) from error
        try:
            if self.credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, self.credentials)
        except RuntimeError as error:
            raise self._refused("the address is in use or not of this machine") from error
        return f"{address.rpartition(':')[0]}:{port}"

    def close(self) -> None:
        """GRPC has given the port back."""

    def _refused(self, reason: str) -> OSError:
        advice = f"choose another {self.flag}, or stop the program that has this one"
        return OSError(f"cannot listen on {self.address}: {reason}; {advice}")


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches a `host:port`. Raises OSError if the host has no address."""
    return all(_is_loopback(place[0]) for *_, place in _places(address))


def _is_loopback(host: str) -> bool:
    found = ip_address(host)
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return (mapped or found).is_loopback


def _places(address: str) -> list[tuple[Any, ...]]:
    """What the system finds for a `host:port`, as getaddrinfo says it. Raises OSError."""
    host, _, port = address.rpartition(":")
    return [*socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)]


def _try_address(address: str) -> None:
    """Binds the address for a moment, because gRPC tells its own log, and not us, why it cannot. Raises OSError."""
    refusals: list[OSError] = []
    found = _places(address)
    for family, kind, protocol, _, place in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as refusal:
            refusals.append(refusal)
    # A name may have addresses that this machine cannot serve on; gRPC is content with one.
    if len(refusals) == len(found):
        raise refusals[0]
