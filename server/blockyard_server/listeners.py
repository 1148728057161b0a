"""Which listeners the settings ask for, and none that would let strangers in unless the settings say so.

A port that other machines reach needs two things: to ask who calls, and to keep what is said from others. An
operator who wants to go without has to say it aloud (docs/adr/0027).
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blockyard_server.rpc.admin_socket import AdminSocket
from blockyard_server.rpc.auth.authenticator import Authenticator
from blockyard_server.rpc.listen import Listener, PortListener, is_loopback
from blockyard_server.settings import Settings

if TYPE_CHECKING:
    from blockyard_server.rpc.tls import Certificates

_log = logging.getLogger(__name__)


class ListenRefused(Exception):
    """The server would be open to strangers, or has no certificate; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """All of a server's."""

    all: tuple[Listener, ...]
    """Those with and without TLS in the order of the settings, those for client certificates, the admin socket."""
    certificates: "Certificates | None"
    """What those with TLS present."""


def listeners_of(settings: Settings, authenticator: Authenticator | None) -> Listeners:
    """Reads the certificates, but takes no address yet. Raises ListenRefused."""
    certificates = _certificates(settings)
    with_tls = certificates is not None and not settings.insecure_no_tls
    ports = [
        PortListener(address, authenticator, certificates.credentials() if with_tls and certificates else None)
        for address in settings.listen_addresses
    ]
    if certificates is not None:
        ports += [
            PortListener(
                address,
                authenticator,
                certificates.credentials(for_clients_with_certificates=True),
                by_certificate=True,
                flag="--mtls-listen",
            )
            for address in settings.mtls_addresses
        ]
    for port in ports:
        _expect_no_strangers(port, settings)
    sockets = [] if settings.admin_socket is None else [AdminSocket(settings.admin_socket)]
    _warn(settings)
    return Listeners((*ports, *sockets), certificates)


def _certificates(settings: Settings) -> "Certificates | None":
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    # cryptography takes 9 MB, which a server without TLS does not spend.
    from blockyard_server.rpc.tls import CertificateFiles, CertificateRefused, Certificates  # noqa: PLC0415 - see above

    try:
        return Certificates(CertificateFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca))
    except CertificateRefused as refused:
        raise ListenRefused(f"{refused}; give other files with --tls-cert, --tls-key, --tls-client-ca") from refused


def _expect_no_strangers(port: PortListener, settings: Settings) -> None:
    """Expects that only this machine reaches it, or that it asks who calls and speaks TLS. Raises ListenRefused."""
    try:
        if is_loopback(port.address):
            return
    except (OSError, UnicodeError) as error:
        raise ListenRefused(f"cannot listen on {port.address}: {getattr(error, 'strerror', error)}") from error
    where = f"{port.flag} {port.address}"
    refusals = []
    if port.authenticator is None and not settings.insecure_no_auth:
        refusals.append(
            f"{where} would let everybody who reaches this port do everything: "
            "give --auth-file, or say --insecure-no-auth"
        )
    if port.credentials is None and not settings.insecure_no_tls:
        refusals.append(
            f"{where} would send everything over the network in plaintext: "
            "give --tls-cert and --tls-key, or say --insecure-no-tls"
        )
    if refusals:
        raise ListenRefused("; and ".join(refusals))


def _warn(settings: Settings) -> None:
    """The log says it, too, for later readers."""
    if settings.insecure_no_auth:
        _log.warning("--insecure-no-auth: everybody who reaches the ports of this server may do everything")
    if settings.insecure_no_tls:
        _log.warning("--insecure-no-tls: everybody between clients and --listen can read and change everything")
