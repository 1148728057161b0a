"""An auth file, a clock, and who logs in: for the tests of the authenticator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from blockyard_server.rpc.auth.authenticator import Certificate, Metadata, Unauthenticated
from blockyard_server.rpc.auth.file_authenticator import FileAuthenticator
from blockyard_server.rpc.auth.principal import Principal
from blockyard_server.rpc.auth.tokens import new_token
from tests.auth.issuer import AUDIENCE, ISS, NOW_S, jwks, key_for, public_jwk

FIRST, SECOND, OTHER = new_token(), new_token(), new_token()
VIEWER = 'grant = [{ role = "viewer", fleets = ["*"] }]\n'
SCHEDULER = 'grant = [{ role = "scheduler", fleets = ["train-*"] }]\n'
SUBJECT = "system:serviceaccount:train:scheduler"
SPIFFE = "spiffe://corp.example/ns/train/sa/scheduler"
PEER: Certificate = {"peer_spiffe_id": [SPIFFE.encode()]}
MAP = (
    'map = { tenant = "kubernetes.io/namespace", grant = [{ role = "scheduler", fleets = ["{tenant}-*", "common"] }],'
    " weight = 3, limits = { watches = 5 } }\n"
)


class World:
    """A file, a clock, and an authenticator of both."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "auth.toml"
        self.jwks = folder / "jwks.json"
        self.jwks.write_bytes(jwks(public_jwk(key_for("ES256"), "k1")))
        self.now_s = NOW_S
        self.issuer = (
            f'[[issuer]]\nname = "k8s"\niss = "{ISS}"\naudience = "{AUDIENCE}"\njwks = "{self.jwks.as_uri()}"\n'
        )

    def write(self, *parts: str) -> None:
        self.path.write_text("".join(parts))
        self.path.chmod(0o600)

    def open(self, *parts: str) -> FileAuthenticator:
        self.write(*parts)
        return FileAuthenticator(self.path, now=lambda: self.now_s)


def principal(text: str, id_: str = "sched-a", tenant: str = "train") -> str:
    return f'[[principal]]\nid = "{id_}"\ntenant = "{tenant}"\n{text}\n'


def tokens(*lines: str) -> str:
    return f"tokens = [{', '.join(lines)}]\n"


def bearer(token: str) -> Metadata:
    return (("user-agent", "x"), ("authorization", f"Bearer {token}"), ("te", "trailers"))


def login(of: FileAuthenticator, token: str, certificate: Certificate | None = None) -> Principal:
    return of.authenticate(bearer(token), certificate or {})


def refusal(of: FileAuthenticator, metadata: Metadata, certificate: Certificate | None = None) -> tuple[str, str, str]:
    with pytest.raises(Unauthenticated) as refused:
        of.authenticate(metadata, certificate or {})
    return refused.value.scheme, refused.value.hint, refused.value.subject


@asynccontextmanager
async def followed(of: FileAuthenticator) -> AsyncIterator[None]:
    of.start()
    try:
        yield
    finally:
        await of.stop()


def knows(of: FileAuthenticator, token: str) -> Any:
    """A check for `eventually`: the token is somebody's."""

    async def check() -> bool:
        try:
            login(of, token)
        except Unauthenticated:
            return False
        return True

    return check


def failed_times(of: FileAuthenticator, times: int) -> Any:
    """A check for `eventually`: so many files were refused."""

    async def check() -> bool:
        return of.status.failures >= times

    return check
