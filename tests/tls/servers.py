"""Real servers with several listeners, and who knows their callers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from blockyard.v1 import access_pb2
from blockyard_server.app import RunningServer, running_server
from blockyard_server.rpc.auth.authenticator import Authenticator, Certificate, Metadata, Unauthenticated
from blockyard_server.rpc.auth.principal import Principal
from blockyard_server.settings import Settings
from tests.rpc.wire import Blockyard

PORT = "127.0.0.1:0"


class ByName:
    """Knows whoever has a certificate by its first name, and whoever has the token `good`. For tests alone."""

    def authenticate(self, metadata: Metadata, certificate: Certificate) -> Principal:
        """As in the protocol."""
        for key, value in metadata:
            if key == "authorization":
                if value == "Bearer good":
                    return Principal("by-token", "train", "token:good")
                raise Unauthenticated("bearer", "unknown")
        names = [name.decode() for name in certificate.get("x509_subject_alternative_name", ())]
        if not names:
            raise Unauthenticated("none", "no certificate")
        return Principal(names[0], "train", f"dns:{names[0]}")

    def note_refusal(self, peer: str, stranger: Unauthenticated) -> None:
        """As in the protocol."""

    def is_still_valid(self, principal: Principal) -> bool:
        """As in the protocol."""
        return principal.is_known


@asynccontextmanager
async def serving(
    folder: Path, *, authenticator: Authenticator | None = None, **settings: Any
) -> AsyncIterator[RunningServer]:
    """A server on SQLite; on a free port unless the settings say where."""
    given = {"listen": PORT, "data": folder / "blockyard.db", "drain_grace_s": 1.0, **settings}
    async with running_server(Settings(**given), authenticator=authenticator) as running:
        yield running


async def who_am_i(channel: grpc.aio.Channel, token: str | None = None) -> tuple[str, str, str]:
    """The principal, the tenant and how it proved who it is, as the server sees the client of a channel."""
    metadata = [("authorization", f"Bearer {token}")] if token is not None else []
    answer = await Blockyard(channel, metadata).access.WhoAmI(access_pb2.WhoAmIRequest())
    return answer.principal, answer.tenant, answer.via


async def refused_status(call: Any) -> grpc.StatusCode:
    """The status of a call that gets no answer of a server."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()
