"""The server's certificate and its key, read again when their files change, without a restart (docs/adr/0027).

gRPC asks for them at each handshake, in a thread of its own. New files are taken only if they are right together. Until
they are, the ones before go on: a half-written file or a wrong key must not lock anybody out.
"""

import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

LOOK_INTERVAL_S: Final = 1.0
"""The files are looked at no more often than this."""
MAX_FILE_BYTES: Final = 1024 * 1024
"""Of each file. A bundle with all public certificate authorities has a quarter of this."""
MIN_RSA_BITS: Final = 2048

_log = logging.getLogger(__name__)

_Signature = tuple[tuple[int, int, int, int, int], ...]


class CertificateRefused(Exception):
    """The files cannot be used; the message says which, and why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where they are. All are PEM."""

    certificate: Path
    """The server's certificate, then those that lead to its authority."""
    key: Path
    """The private key of the first certificate, without a password."""
    client_ca: Path | None = None
    """The authorities whose client certificates are let in."""

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that is given."""
        return (self.certificate, self.key) if self.client_ca is None else (self.certificate, self.key, self.client_ca)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What the files held, checked."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    not_before: datetime
    not_after: datetime


class Certificates:
    """The certificate in use. Its methods may be called in any thread."""

    def __init__(self, files: CertificateFiles, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Reads the files. Raises CertificateRefused. A test may stand in for the clock."""
        self._files = files
        self._monotonic = monotonic
        self._looking = threading.Lock()
        self._looked_s = monotonic()
        self._taken = _signature(files)
        """The state of the files when they were last read and taken."""
        self._refused: _Signature | None = None
        """Their state when they were last refused."""
        self._told = False
        """That refusal was counted."""
        self._loaded = _load(files)
        self.reload_failures = 0
        """Changes of the files that were not taken."""
        _tell_validity(files, self._loaded)
        if stat.S_IMODE(files.key.stat().st_mode) & stat.S_IROTH:
            _log.warning("every user of this machine can read the private key %s: chmod 600 it", files.key)

    @property
    def not_after_s(self) -> float:
        """When the certificate in use ends, in seconds since the epoch."""
        return self._loaded.not_after.timestamp()

    def credentials(self, *, for_clients_with_certificates: bool = False) -> grpc.ServerCredentials:
        """For one port. It always presents the newest certificate that is right.

        `for_clients_with_certificates`: it lets only clients in whose certificate is of one of the authorities.
        """
        given = self._loaded

        def configured(loaded: _Loaded) -> grpc.ServerCertificateConfiguration:
            authorities = loaded.client_ca if for_clients_with_certificates else None
            return grpc.ssl_server_certificate_configuration([(loaded.key, loaded.chain)], authorities)

        def newer() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            self.look()
            loaded = self._loaded
            if loaded is given:
                return None  # gRPC goes on with what it has
            given = loaded
            return configured(loaded)

        return grpc.dynamic_ssl_server_credentials(
            configured(given),
            cast("Any", newer),  # its type does not know None
            require_client_authentication=for_clients_with_certificates,
        )

    def look(self) -> None:
        """Takes the files if they have changed and are right. Does nothing if somebody has just looked."""
        if self._monotonic() - self._looked_s < LOOK_INTERVAL_S or not self._looking.acquire(blocking=False):
            return
        try:
            self._looked_s = self._monotonic()
            self._take()
        finally:
            self._looking.release()

    def _take(self) -> None:
        found = _signature(self._files)
        if found == self._taken:
            self._refused = None
            return
        try:
            loaded = _load(self._files)
        except CertificateRefused as refused:
            self._refuse(found, refused)
            return
        if found != _signature(self._files):
            return  # they change just now: the next look decides
        self._loaded = loaded
        self._taken, self._refused = found, None
        _log.info("took the new certificate %s, valid until %s", self._files.certificate, loaded.not_after.isoformat())
        _tell_validity(self._files, loaded)

    def _refuse(self, found: _Signature, refused: CertificateRefused) -> None:
        """Counts and tells a state of the files once, at the second look: at the first they may still be written."""
        if found != self._refused:
            self._refused, self._told = found, False
        elif not self._told:
            self._told = True
            self.reload_failures += 1
            _log.error("the new certificate is not taken, the one before goes on: %s", refused)


def _signature(files: CertificateFiles) -> _Signature:
    """What changes when a file is written, replaced, or made readable. Files behind links are meant."""
    found = []
    for path in files.all:
        try:
            its = path.stat()
        except OSError as error:
            found.append((error.errno or 0, 0, 0, 0, 0))
        else:
            found.append((its.st_dev, its.st_ino, its.st_size, its.st_mtime_ns, its.st_ctime_ns))
    return tuple(found)


def _load(files: CertificateFiles) -> _Loaded:
    """Raises CertificateRefused."""
    chain, key = _read(files.certificate), _read(files.key)
    client_ca = None if files.client_ca is None else _read(files.client_ca)
    first = _certificates(files.certificate, chain)[0]
    if files.client_ca is not None and client_ca is not None:
        _certificates(files.client_ca, client_ca)
    _expect_usable_key(files.certificate, first)
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError as error:
        raise CertificateRefused(f"the private key {files.key} has a password: the server cannot know it") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateRefused(f"{files.key} has no private key in PEM that can be read") from error
    if private.public_key() != first.public_key():
        message = f"the private key {files.key} does not belong to the first certificate of {files.certificate}"
        raise CertificateRefused(message)
    return _Loaded(chain, key, client_ca, first.not_valid_before_utc, first.not_valid_after_utc)


def _certificates(path: Path, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateRefused(f"{path} has no certificate in PEM that can be read") from error


def _expect_usable_key(path: Path, certificate: x509.Certificate) -> None:
    """GRPC takes other kinds, too, and then no handshake succeeds. Raises CertificateRefused."""
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateRefused(f"the key of the certificate {path} is of an unknown kind") from error
    if isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1 | SECP384R1):
        return
    message = (
        f"the key of the certificate {path} is of a kind that TLS clients cannot use: it must be ECDSA P-256, ECDSA "
        f"P-384, or RSA with {MIN_RSA_BITS} bits or more"
    )
    raise CertificateRefused(message)


def _read(path: Path) -> bytes:
    """All of a file. Raises CertificateRefused."""
    try:
        with open(path, "rb", opener=_opener) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CertificateRefused(f"{path} is not a file")
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CertificateRefused(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise CertificateRefused(f"{path} is longer than {MAX_FILE_BYTES} bytes")
    return data


def _opener(path: str, flags: int) -> int:
    """Without blocking: the path may lead to a pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _tell_validity(files: CertificateFiles, loaded: _Loaded) -> None:
    """A clock may be wrong, so that a certificate which seems to have ended is served anyway."""
    now = datetime.now(UTC)
    if now >= loaded.not_after:
        _log.error("the certificate %s has ended at %s", files.certificate, loaded.not_after.isoformat())
    elif now < loaded.not_before:
        _log.error("the certificate %s is not valid before %s", files.certificate, loaded.not_before.isoformat())
