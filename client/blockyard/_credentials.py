"""What a client proves itself with, out of its arguments: the metadata of its calls, and how its channels are opened.

A token is as good as the identity that it stands for, so it leaves the machine only encrypted.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import grpc

from blockyard._channel import Connection, connection
from blockyard._defaults import CALLER_KEY
from blockyard._target import is_on_this_machine
from blockyard._tls import TlsFiles
from blockyard._token import AUTHORIZATION, Bearer, ConstantToken, Metadata, TokenFile, TokenFunction, TokenSource
from blockyard.credentials import Tls
from blockyard.errors import CallFailed, Unavailable

MAX_METADATA_BYTES: Final = 8_192
"""Of what a user adds, keys and values: half of what servers take."""
INSECURE_TOKEN: Final = "BLOCKYARD_INSECURE_TOKEN"
"""The environment's word that a token may be read by others."""
_KEY: Final = re.compile(r"[0-9a-z_.-]+")
_VALUE: Final = re.compile(r"[\x20-\x7e]*")

ExtraMetadata: TypeAlias = Mapping[str, str | bytes]
Token: TypeAlias = str | Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The arguments of a client that are about who calls, as they were given."""

    token: Token | None = None
    token_file: str | os.PathLike[str] | None = None
    tls: Tls | None = None
    channel: grpc.ChannelCredentials | None = None
    """Made by the user."""
    metadata: ExtraMetadata | None = None

    def connection(self, target: str | None) -> Connection:
        """Where to connect to, as `_channel.connection` says."""
        server_name = self.tls.server_name if self.tls else None
        return connection(target, server_name=server_name, open_secret=self.is_secret and not self.is_encrypted)

    def for_channel(self) -> grpc.ChannelCredentials | TlsFiles | None:
        """What the channel is opened with; None: plain text.

        Raises:
            OSError, ValueError: A file cannot be read, or is not what it should be; or both kinds are given.
        """
        if self.tls is None:
            return self.channel
        if self.channel is not None:
            raise ValueError("tls and credentials exclude each other: both say how the channel is encrypted")
        return TlsFiles(self.tls)

    def for_calls(self, target: str, caller: Metadata) -> Metadata | Bearer:
        """The metadata of every call, beside the caller's. `target` is as gRPC takes it.

        Raises:
            OSError: The token's file cannot be read.
            ValueError: There is a token, and it would go over a network in plain text; or something cannot be sent.
        """
        extra = checked_metadata(self.metadata)
        if self.is_secret and not self._is_private(target):
            raise ValueError(
                f"the token would go to {target} in plain text, and whoever is on the way could use it: "
                "give tls=Tls(), or connect to a Unix socket or to 127.0.0.1; "
                f"{INSECURE_TOKEN}=1 in the environment sends it nevertheless"
            )
        source = self._source()
        if source is None:
            return (*caller, *extra)
        if any(key == AUTHORIZATION for key, _ in extra):
            raise ValueError("metadata has authorization, and a token is given too: one of them would be lost")
        return Bearer(source, (*caller, *extra))

    @property
    def is_secret(self) -> bool:
        """Whether calls say something that nobody else may read."""
        has_token = self.token is not None or self.token_file is not None
        return has_token or AUTHORIZATION in (self.metadata or {})

    @property
    def is_encrypted(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        return self.tls is not None or (self.channel is not None and not _says_plain_text(self.channel))

    def _is_private(self, target: str) -> bool:
        return self.is_encrypted or is_on_this_machine(target) or os.environ.get(INSECURE_TOKEN) == "1"

    def _source(self) -> TokenSource | None:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file exclude each other")
        if self.token_file is not None:
            return TokenFile(self.token_file)
        if self.token is None:
            return None
        return TokenFunction(self.token) if callable(self.token) else ConstantToken(self.token)


def is_refusal(failure: CallFailed) -> bool:
    """Whether the server does not take the credentials of the call, which it has not carried out."""
    return failure.status == "UNAUTHENTICATED"


def may_be_about_credentials(failure: CallFailed) -> bool:
    """Whether other credentials might help. A server that refuses a certificate only ends the connection."""
    return is_refusal(failure) or (isinstance(failure, Unavailable) and failure.reason is None)


def checked_metadata(metadata: ExtraMetadata | None) -> Metadata:
    """The user's own metadata, as pairs.

    Raises:
        ValueError: A key or a value that cannot be sent, or one that has an argument of its own.
        TypeError: Values that are neither str nor bytes.
    """
    pairs = tuple((metadata or {}).items())
    for key, value in pairs:
        if not _KEY.fullmatch(key) or key.startswith("grpc-"):
            raise ValueError(f"metadata {key!r}: keys have small letters, digits, `_`, `.`, `-`, and no `grpc-` before")
        if key == CALLER_KEY:
            raise ValueError(f"metadata {key!r}: the argument caller says it")
        if not isinstance(value, bytes if key.endswith("-bin") else str):
            raise TypeError(f"metadata {key!r}: bytes belong to keys that end with `-bin`, and str to all others")
        if isinstance(value, str) and not _VALUE.fullmatch(value):
            raise ValueError(f"metadata {key!r}: the value has characters that are not printable ASCII")
    size = sum(len(key) + len(value) for key, value in pairs)
    if size > MAX_METADATA_BYTES:
        raise ValueError(f"metadata has {size} bytes; at most {MAX_METADATA_BYTES} are sent")
    return pairs


def _says_plain_text(credentials: grpc.ChannelCredentials) -> bool:
    """Whether they are gRPC's own way to say that there are none (`insecure_channel_credentials`)."""
    return "insecure" in type(getattr(credentials, "_credentials", None)).__name__.lower()
