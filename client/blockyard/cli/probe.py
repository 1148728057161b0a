"""Tries to reach a server before a command calls it, and says in a sentence why that cannot work.

It says only what is certain: what it does not understand is left to the call itself. It reads TLS by Python's own
library, which tells errors apart by numbers; gRPC has a text for them, after seconds of retries.
"""

import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Final, TypeAlias

from blockyard._defaults import DEFAULT_ADDRESS
from blockyard._target import Server, decode_servers, names_a_form_of_grpc
from blockyard._tls import TlsFiles
from blockyard.cli.failures import CommandFailed, ExitCode
from blockyard.credentials import Tls
from blockyard.errors import InvalidTarget

TIMEOUT_S: Final = 3.0
"""For all servers of the address together."""
ANSWER_S: Final = 1.0
"""A server that says nothing for so long is left to the call itself."""
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
_UNIX: Final = "unix:"
_HTTP2: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""How a client of HTTP/2 begins, with settings that change nothing (RFC 9113, 3.4)."""
_TLS_ALERT: Final = 0x15
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAMES: Final = frozenset({62, 64})
_NOT_TRUSTED: Final = frozenset({2, 18, 19, 20, 21})
"""Numbers of X509_V_ERR, which are OpenSSL's interface."""

Connect: TypeAlias = Callable[[], socket.socket]


class _Fault(Exception):
    """Why a server cannot be called, and what to do."""

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what)
        self.next_step: Final = next_step


_NOT_THERE: Final = (
    "Start one with `blockyard serve`, or say where it is with --address, BLOCKYARD_ADDRESS or --context."
)


def probe(target: str, tls: Tls | None) -> None:
    """Tries each server of the target, unless it is of a form that only gRPC understands, or behind a proxy.

    Raises:
        CommandFailed: None of them can be called.
        OSError, ValueError: A file of `tls` cannot be read, or is not what it should be.
    """
    if target.startswith(_UNIX):
        path = target.removeprefix(_UNIX)
        _try_each(target, [(target, lambda: _connect_unix(path), None)], tls)
    elif not names_a_form_of_grpc(target):
        _probe_list(target, tls)


def _probe_list(target: str, tls: Tls | None) -> None:
    try:
        servers = decode_servers(target)
    except InvalidTarget as error:
        # gRPC would take port 443, or look for a host of this whole name.
        raise CommandFailed(
            f"{error}.",
            next_step=f"Write it as {DEFAULT_ADDRESS}, in --address or BLOCKYARD_ADDRESS; several with commas between.",
            exit_code=ExitCode.USAGE,
        ) from error
    # Only an only server may be behind a proxy.
    if len(servers) == 1 and any(os.environ.get(name) for name in _PROXIES):
        return
    timeout_s = TIMEOUT_S / len(servers)
    name = servers[0].host

    def connecting(server: Server) -> Connect:
        return lambda: socket.create_connection((server.host, server.port), timeout=timeout_s)

    _try_each(target, [(str(server), connecting(server), name) for server in servers], tls)


def _try_each(target: str, servers: list[tuple[str, Connect, str | None]], tls: Tls | None) -> None:
    """Until one can be called; each is its name, how to connect to it, and what its certificate should be for."""
    context = None if tls is None else _tls_context(tls)
    faults = []
    for server, connect, name in servers:
        try:
            if tls is None:
                _greet(connect)
            elif (host := tls.server_name or name) and context is not None:
                _shake_hands(connect, context, host, with_certificate=tls.cert is not None)
            else:
                connect().close()
        except _Fault as fault:
            faults.append((server, str(fault), fault.next_step))
        except (OSError, UnicodeError) as error:
            faults.append((server, getattr(error, "strerror", None) or str(error) or "no answer", _NOT_THERE))
        else:
            return
    causes = [cause if len(faults) == 1 else f"{server}: {cause}" for server, cause, _ in faults]
    nobody = all(next_step == _NOT_THERE for _, _, next_step in faults)
    what = f"No service answers at {target}" if nobody else f"The service at {target} cannot be called"
    raise CommandFailed(
        f"{what}: {'; '.join(causes)}.",
        next_step=" ".join(dict.fromkeys(next_step for _, _, next_step in faults)),
        exit_code=ExitCode.NO_ANSWER,
    )


def _connect_unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(TIMEOUT_S)
    try:
        connection.connect(path.removeprefix("//") if path.startswith("///") else path)
    except BaseException:
        connection.close()
        raise
    return connection


def _greet(connect: Connect) -> None:
    """Begins as a client in plain text does. Raises OSError, and _Fault if TLS is spoken there."""
    with connect() as connection:
        connection.settimeout(ANSWER_S)
        try:
            connection.sendall(_HTTP2)
            answer = connection.recv(9)
        except TimeoutError:
            return
        except OSError:
            answer = b""
    if answer and answer[0] != _TLS_ALERT:
        return
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE  # nothing is sent
    with suppress(OSError), connect() as connection:
        connection.settimeout(ANSWER_S)
        anybody.wrap_socket(connection).close()
        raise _Fault(
            "the server speaks TLS, and plain text was asked for",
            "Give --ca with the file of the authority that signed its certificate, or --tls if that is a public one.",
        )


def _shake_hands(connect: Connect, context: ssl.SSLContext, name: str, *, with_certificate: bool) -> None:
    """Agrees on TLS as the call will do. Raises OSError, and _Fault."""
    with connect() as connection:
        try:
            encrypted = context.wrap_socket(connection, server_hostname=name)
        except ssl.SSLCertVerificationError as error:
            fault = _fault_of_certificate(error, name)
            if fault is not None:
                raise fault from error
            return
        except ssl.SSLError as error:
            if error.reason == "WRONG_VERSION_NUMBER":
                raise _Fault(
                    "the server does not speak TLS there", "Check the port; --no-tls calls it in plain text."
                ) from error
            return
        with encrypted:
            encrypted.settimeout(ANSWER_S)
            try:
                ended = not encrypted.recv(1)
            except TimeoutError:
                return
            except OSError:
                ended = True
        if ended:
            # In TLS 1.3 a server sees the client's certificate, or that there is none, after the handshake.
            raise _Fault(
                "the server ended the connection after the TLS handshake",
                "It may not accept the client certificate: check --cert and --key, and until when it is valid."
                if with_certificate
                else "It may want a client certificate: give --cert and --key, or take its port for tokens.",
            )


def _fault_of_certificate(error: ssl.SSLCertVerificationError, name: str) -> _Fault | None:
    match error.verify_code:
        case code if code == _EXPIRED:
            return _Fault(
                "the server's certificate has expired", "Renew it at the server; or check the clock of this machine."
            )
        case code if code == _NOT_YET_VALID:
            return _Fault(
                "the server's certificate is not valid yet", "Check the clocks of this machine and of the server."
            )
        case code if code in _OTHER_NAMES:
            return _Fault(
                f"the server's certificate is not for {name}",
                "Write the address with a name that the certificate has, or give that name with --server-name.",
            )
        case code if code in _NOT_TRUSTED:
            return _Fault(
                f"the server's certificate is signed by no trusted authority ({error.verify_message})",
                "Check --ca: its file has to hold the authority that signed the server's certificate.",
            )
        case _:
            return None


def _tls_context(tls: Tls) -> ssl.SSLContext | None:
    """What gRPC would trust and show. None: that is not known. Raises OSError, ValueError."""
    TlsFiles(tls)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_TRUSTED_FIRST | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.set_alpn_protocols(["h2"])
    ca = os.environ.get("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH") if tls.ca is None else os.fspath(tls.ca)
    try:
        known = (
            files("grpc").joinpath("_cython", "_credentials", "roots.pem").read_text("ascii")
            if ca is None
            else Path(ca).read_text("ascii", errors="replace")
        )
        context.load_verify_locations(cadata=known)
    except (OSError, ValueError, ssl.SSLError):
        return None
    if tls.cert is not None:
        context.load_cert_chain(tls.cert, tls.key)
    return context
