"""An issuer of JWTs: real keys of each kind, and an HTTPS server on 127.0.0.1 that can misbehave."""

import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

ISS: Final = "https://issuer.example"
AUDIENCE: Final = "blockyard"
NOW_S: Final = 1_900_000_000.0
"""The time of tests that stop the clock."""
JWKS_MEDIA: Final = "application/json"

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@cache
def key_for(algorithm: str, number: int = 0) -> PrivateKey:
    """A private key. `number` tells keys of one kind apart; each is made once, since making one takes long."""
    del number
    if algorithm.startswith(("RS", "PS")):
        return rsa.generate_private_key(65537, 2048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    curves: dict[str, ec.EllipticCurve] = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    return ec.generate_private_key(curves[algorithm])


def public_jwk(key: PrivateKey, key_id: str, **members: object) -> dict[str, Any]:
    """The public half, as it stands in a JWKS."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        found: Any = jwt.algorithms.RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        found = jwt.algorithms.ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        found = jwt.algorithms.OKPAlgorithm.to_jwk(public, as_dict=True)
    return {key: value for key, value in found.items() if key != "key_ops"} | {"kid": key_id, "use": "sig", **members}


def jwks(*keys: Mapping[str, object]) -> bytes:
    """A document of these keys."""
    return json.dumps({"keys": keys}).encode()


def claims(**others: object) -> dict[str, Any]:
    """The claims of a JWT that is right at NOW_S; None leaves one out."""
    all_ = {
        "iss": ISS,
        "aud": AUDIENCE,
        "sub": "system:serviceaccount:train:scheduler",
        "iat": NOW_S - 10,
        "nbf": NOW_S - 10,
        "exp": NOW_S + 3600,
        "kubernetes.io": {"namespace": "train", "serviceaccount": {"name": "scheduler"}},
    } | others
    return {name: value for name, value in all_.items() if value is not None}


def signed(
    algorithm: str = "ES256", key_id: str = "k1", key: Any = None, header: Mapping[str, Any] | None = None, **other: Any
) -> str:
    """A JWT with those claims."""
    return jwt.encode(
        claims(**other), key_for(algorithm) if key is None else key, algorithm, {"kid": key_id, **(header or {})}
    )


@dataclass
class Site:
    """What the server answers, and what it was asked."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    mode: str = "whole"
    """whole: the body. hang: nothing. drip: a byte of the header now and then, without an end."""
    asked: int = 0
    asked_event: threading.Event = field(default_factory=threading.Event)
    """Set by each request."""
    dropped: threading.Event = field(default_factory=threading.Event)
    """Set once a client has gone before it had its answer."""
    closing: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    ca: str = ""


class _Handler(BaseHTTPRequestHandler):
    server: "_Server"

    def do_GET(self) -> None:
        self.server.site.asked += 1
        self.server.site.asked_event.set()
        try:
            self._answer(self.server.site)
        except OSError:
            self.server.site.dropped.set()

    def _answer(self, site: Site) -> None:
        if site.mode == "hang":
            if not self.rfile.read(1):  # until the client has gone
                site.dropped.set()
        elif site.mode == "drip":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
            while not site.closing.wait(0.01):
                self.wfile.write(b"x")
        else:
            self.send_response(site.status)
            for name, value in site.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(site.body)))
            self.end_headers()
            self.wfile.write(site.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Requests are counted, not logged."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    site: Site

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust the certificate is no fault of the test."""


@contextmanager
def served(folder: Path) -> Iterator[Site]:
    """Serves a site over HTTPS while the block runs."""
    certificate, key = make_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.site = Site(url=f"https://127.0.0.1:{server.server_port}/jwks", ca=str(certificate))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server.site
    finally:
        server.site.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "issuer.pem", folder / "issuer.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


def make_client(folder: Path, *names: x509.GeneralName) -> tuple[Path, bytes, bytes]:
    """A client's certificate with these names: the file of its authority, the certificate, its key, in PEM."""
    authority, key = make_certificate(folder)
    signer = serialization.load_pem_private_key(key.read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    own = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]))
        .issuer_name(x509.load_pem_x509_certificate(authority.read_bytes()).subject)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return (
        authority,
        certificate.public_bytes(serialization.Encoding.PEM),
        own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
