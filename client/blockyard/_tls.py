"""TLS from the client's side: which files, what they hold, and whether they have changed since.

gRPC cannot be told of new certificates while a channel is open. So the owner of a channel looks here from time to time,
and opens a new one (`_channels`).
"""

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import grpc

from blockyard.credentials import Tls

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""More than all authorities of the public web take."""

_log = logging.getLogger("blockyard.credentials")

Stamp: TypeAlias = tuple[tuple[int, int, int], ...]
"""Of each file what changes when it is written or replaced: time, size and number."""


@dataclass(frozen=True, slots=True)
class _Material:
    """What the files hold."""

    stamp: Stamp
    ca: bytes | None
    cert: bytes | None
    key: bytes | None


class TlsFiles:
    """The files of a `Tls` as they were when they were last good.

    Raises:
        OSError: One of them cannot be read.
        ValueError: One of them is not what it should be.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._material = self._read()

    def credentials(self) -> grpc.ChannelCredentials:
        """What a channel is opened with."""
        material = self._material
        return grpc.ssl_channel_credentials(material.ca, material.key, material.cert)

    def look(self) -> bool:
        """Whether the files have changed. If what they hold now is of no use, the log says so, and all stays."""
        try:
            if self._stamp() == self._material.stamp:
                return False
            self._material = self._read()
        except (OSError, ValueError) as error:
            _log.warning("the TLS files have changed, and are of no use; the ones before are used on: %s", error)
            return False
        _log.info("the TLS files have changed: new connections use what they hold now")
        return True

    def _paths(self) -> list[str]:
        tls = self._tls
        return [os.fspath(path) for path in (tls.ca, tls.cert, tls.key) if path is not None]

    def _stamp(self) -> Stamp:
        found = [Path(path).stat() for path in self._paths()]
        return tuple((each.st_mtime_ns, each.st_size, each.st_ino) for each in found)

    def _read(self) -> _Material:
        stamp = self._stamp()
        tls = self._tls
        material = _Material(stamp, *(None if path is None else _content(path) for path in (tls.ca, tls.cert, tls.key)))
        self._check(material)
        if self._stamp() != stamp:
            raise ValueError("the files were written while they were read")
        return material

    def _check(self, material: _Material) -> None:
        """Raises ValueError. Without it, gRPC would fail each connection, and say nothing of the file."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if material.ca is not None:
            try:
                context.load_verify_locations(cadata=material.ca.decode("ascii", errors="replace"))
            except (ssl.SSLError, ValueError):
                raise ValueError(f"{os.fspath(self._tls.ca or '')}: no certificate in PEM is in there") from None
        if self._tls.cert is not None:
            try:
                context.load_cert_chain(self._tls.cert, self._tls.key, password=_refuse_password)
            except ssl.SSLError as error:
                what = f"{os.fspath(self._tls.cert)} and {os.fspath(self._tls.key or '')}"
                raise ValueError(
                    f"{what}: not a certificate in PEM and its key ({error.reason or 'unreadable'})"
                ) from None


def _content(path: str | os.PathLike[str]) -> bytes:
    with Path(path).open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{os.fspath(path)}: more than {MAX_FILE_BYTES} bytes")
    return content


def _refuse_password() -> str:
    raise ValueError("the key is encrypted, and gRPC takes only keys that are not")
