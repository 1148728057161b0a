"""Reads an issuer's JWKS, out of a file or over HTTPS: bounded in time and size, and never led to another place."""

import http.client
import socket
import ssl
import urllib.error
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import unquote, urlsplit

from blockyard_server.rpc.auth.auth_file import IssuerEntry
from blockyard_server.rpc.auth.regular_file import read_regular_file

MAX_JWKS_BYTES: Final = 256 * 1024
TIMEOUT_S: Final = 5.0
FILE_INTERVAL_S: Final = 2.0
HTTPS_INTERVAL_S: Final = 600.0


class JwksFailed(Exception):
    """The keys could not be read; the message says why."""


class JwksSource(Protocol):
    """Where the keys are."""

    interval_s: float
    """How often it is asked."""
    is_local: bool
    """It answers at once."""

    def read(self) -> bytes | None:
        """The document; None if it is surely the same as the last time. Waits. Raises JwksFailed."""
        ...

    def forget(self) -> None:
        """What was read could not be used: the next `read` gives the document, changed or not."""

    def abort(self) -> None:
        """Makes a `read` that is under way in another thread end soon."""


def source_of(issuer: IssuerEntry) -> JwksSource:
    """The source that the issuer's entry names."""
    url = urlsplit(issuer.jwks)
    return FileSource(Path(unquote(url.path))) if url.scheme == "file" else HttpsSource(issuer.jwks, issuer.ca)


Signature = tuple[int, ...]


def signature_of(path: Path) -> Signature | None:
    """What changes whenever a file, or the file that a symbolic link leads to, is another one. None: there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


class FileSource:
    """A file, such as one that Kubernetes mounts and replaces by another symbolic link."""

    interval_s = FILE_INTERVAL_S
    is_local = True

    def __init__(self, path: Path) -> None:
        self._path = path
        self._signature: Signature | None = None

    def read(self) -> bytes | None:
        """The file's content."""
        signature = signature_of(self._path)
        if signature is not None and signature == self._signature:
            return None
        self._signature = None
        try:
            data = read_regular_file(self._path, MAX_JWKS_BYTES + 1).data
        except (OSError, ValueError) as error:
            raise JwksFailed(f"{self._path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        _check_size(data)
        self._signature = signature
        return data

    def forget(self) -> None:
        """The next `read` reads."""
        self._signature = None

    def abort(self) -> None:
        """A file is read as long as it takes."""


class HttpsSource:
    """An HTTPS address. Proxies of the environment are used, redirects are not followed."""

    interval_s = HTTPS_INTERVAL_S
    is_local = False

    def __init__(self, url: str, ca: str | None, *, timeout_s: float = TIMEOUT_S) -> None:
        self._url = url
        self._ca = ca
        self._timeout_s = timeout_s
        self._sockets: list[socket.socket] = []

    def read(self) -> bytes | None:
        """The answer's body."""
        request = urllib.request.Request(self._url, headers={"Accept": "application/json"})  # noqa: S310  # https alone, by the rule of the auth file
        try:
            with self._opener().open(request, timeout=self._timeout_s) as answer:
                if answer.status != http.HTTPStatus.OK:
                    raise JwksFailed(f"{self._url} answers {answer.status}")
                data: bytes = answer.read(MAX_JWKS_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                raise JwksFailed(f"{self._url} answers {error.code}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise JwksFailed(f"{self._url} cannot be read: {getattr(error, 'reason', None) or error}") from error
        finally:
            self._sockets.clear()
        _check_size(data)
        return data

    def forget(self) -> None:
        """Every `read` asks again."""

    def abort(self) -> None:
        """Ends the connection: a host that sends a byte now and then would keep the thread for hours."""
        for connected in list(self._sockets):
            with suppress(OSError):
                socket.socket.shutdown(connected, socket.SHUT_RDWR)

    def _opener(self) -> urllib.request.OpenerDirector:
        """Only what is needed: no handler for redirects, for other schemes, for passwords."""
        opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            _Https(ssl.create_default_context(cafile=self._ca), self._sockets),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.HTTPDefaultErrorHandler(),
        ):
            opener.add_handler(handler)
        return opener


class _Https(urllib.request.HTTPSHandler):
    """Opens connections whose sockets are known, so that another thread can end them."""

    def __init__(self, context: ssl.SSLContext, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._tls = context
        self._sockets = sockets

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Sends the request."""
        make: Any = partial(_Connection, context=self._tls, sockets=self._sockets)
        return self.do_open(make, req)


class _Connection(http.client.HTTPSConnection):
    def __init__(self, host: str, *, timeout: float, context: ssl.SSLContext, sockets: list[socket.socket]) -> None:
        super().__init__(host, timeout=timeout, context=context)
        self._sockets = sockets

    def connect(self) -> None:
        super().connect()
        self._sockets.append(self.sock)


def _check_size(data: bytes) -> None:
    if len(data) > MAX_JWKS_BYTES:
        raise JwksFailed(f"the keys are larger than {MAX_JWKS_BYTES} bytes")
