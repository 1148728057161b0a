"""Servers that know their callers by a table, and clients with a token."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import grpc.aio

from blockyard_server.domain.policy import Grant, Policy, Role
from blockyard_server.engine.service import Service
from blockyard_server.rpc.auth.authenticator import Certificate, Metadata, Unauthenticated
from blockyard_server.rpc.auth.principal import Principal
from blockyard_server.rpc.server import EdgeSettings, build_server
from tests.rpc.wire import Blockyard


class TableAuthenticator:
    """Knows the principals of a table by their tokens."""

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        self.principals = dict(principals)

    def authenticate(self, metadata: Metadata, certificate: Certificate) -> Principal:  # noqa: ARG002 - the protocol's
        """As in the protocol."""
        tokens = [str(value).removeprefix("Bearer ") for key, value in metadata if key == "authorization"]
        if not tokens:
            raise Unauthenticated("none", "no token")
        if tokens[0] not in self.principals:
            raise Unauthenticated("bearer", "unknown token")
        return self.principals[tokens[0]]

    def note_refusal(self, peer: str, stranger: Unauthenticated) -> None:
        """As in the protocol."""

    def is_still_valid(self, principal: Principal) -> bool:
        """As in the protocol."""
        return principal in self.principals.values()


def principal(role: Role, *, tenant: str = "t1", fleets: str = "*", callers: frozenset[str] = frozenset()) -> Principal:
    """One with one role."""
    return Principal(f"{role.value}-of-{tenant}", tenant, "token:test", Policy([Grant(role, (fleets,))]), callers)


class Known:
    """A server on a real port, and clients of it."""

    def __init__(self, address: str, authenticator: TableAuthenticator, stack: AsyncExitStack) -> None:
        self.address = address
        self.authenticator = authenticator
        self._stack = stack

    async def client(self, token: str | None, **metadata: str) -> Blockyard:
        """A client with a token, or without one; more metadata by its keys with `_` for `-`."""
        pairs = [("authorization", f"Bearer {token}")] if token is not None else []
        pairs += [(key.replace("_", "-"), value) for key, value in metadata.items()]
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(self.address))
        return Blockyard(channel, pairs)


@asynccontextmanager
async def knowing(
    service: Service, principals: Mapping[str, Principal], settings: EdgeSettings | None = None
) -> AsyncIterator[Known]:
    """The edge over a service, for these principals by their tokens."""
    authenticator = TableAuthenticator(principals)
    edge = build_server(service, settings, authenticator)
    port = edge.bind("127.0.0.1:0")
    await edge.start()
    try:
        async with AsyncExitStack() as stack:
            yield Known(f"127.0.0.1:{port}", authenticator, stack)
    finally:
        await edge.stop(grace_s=0)
