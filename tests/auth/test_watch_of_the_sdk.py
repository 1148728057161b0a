"""A watch of the SDK whose token is revoked by a real auth file: what its end is to the SDK, and how it goes on."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from blockyard import AsyncClient, CallFailed, Client, CredentialsExpired, Event, RetryPolicy, Unauthenticated
from blockyard.reasons import Reason
from blockyard_server.engine.clock import SystemClock
from blockyard_server.engine.engine import Engine, EngineSettings
from blockyard_server.rpc.auth.file_authenticator import FileAuthenticator
from blockyard_server.rpc.server import EdgeSettings, build_server
from blockyard_server.store.sqlite.store import SqliteStore
from tests.auth.world import FIRST, OTHER, SCHEDULER, SECOND, World, principal, tokens
from tests.harness.models import copy_data_file
from tests.harness.patience import eventually

FLEET: Final = "train-1"
QUICK: Final = RetryPolicy(initial_s=0.001, max_s=0.01)
ADMIN: Final = principal(tokens(OTHER.toml()) + 'grant = [{ role = "admin", fleets = ["*"] }]\n', "admin", "ops")

Follow = Callable[[str, Path], AbstractAsyncContextManager[Callable[[], Awaitable[Event]]]]
"""Watches the fleet from its first event on, with the token in a file: gives what waits for the next event."""


@asynccontextmanager
async def blocking(address: str, token_file: Path) -> AsyncIterator[Callable[[], Awaitable[Event]]]:
    with Client(address, token_file=token_file, retry=QUICK) as client, client.watch(FLEET, from_revision=1) as watch:
        yield lambda: asyncio.to_thread(next, watch)


@asynccontextmanager
async def awaiting(address: str, token_file: Path) -> AsyncIterator[Callable[[], Awaitable[Event]]]:
    async with AsyncClient(address, token_file=token_file, retry=QUICK) as client:
        watch = client.watch(FLEET, from_revision=1)
        yield lambda: anext(watch)
        await watch.close()


@pytest.fixture(params=[blocking, awaiting], ids=["blocking", "asyncio"])
def follow(request: pytest.FixtureRequest) -> Follow:
    found: Follow = request.param
    return found


class Guarded:
    """A server with an auth file, which looks at the credentials of its streams all the time."""

    def __init__(self, world: World, address: str, authenticator: FileAuthenticator, admin: AsyncClient) -> None:
        self.address = address
        self.admin = admin
        self._world = world
        self._authenticator = authenticator

    async def take_only(self, token: str) -> None:
        """From now on this is the scheduler's one token: a line of the auth file."""
        self._world.write(ADMIN, principal(tokens(token) + SCHEDULER))
        assert await self._authenticator.reload_now()


@pytest.fixture
async def guarded(world: World, tmp_path: Path) -> AsyncIterator[Guarded]:
    """It has a fleet, and takes the first token."""
    copy_data_file(tmp_path / "blockyard.db")
    engine = Engine(SqliteStore(tmp_path / "blockyard.db"), SystemClock(), EngineSettings())
    authenticator = world.open(ADMIN, principal(tokens(FIRST.toml()) + SCHEDULER))
    edge = build_server(engine, EdgeSettings(recheck_s=0.01), authenticator)
    address = f"127.0.0.1:{edge.bind('127.0.0.1:0')}"
    await engine.start()
    await edge.start()
    try:
        async with AsyncClient(address, token=OTHER.secret) as admin:
            await admin.create_fleet(FLEET)
            yield Guarded(world, address, authenticator, admin)
    finally:
        await edge.stop(grace_s=0)
        await engine.stop()


@pytest.fixture
def ends(caplog: pytest.LogCaptureFixture) -> Callable[[], list[CallFailed]]:
    """What the streams of the watch have ended with: after each the SDK says so, and opens the next one."""
    caplog.set_level(logging.INFO, "blockyard.watch")

    def found() -> list[CallFailed]:
        said = [record.args for record in caplog.records if record.name == "blockyard.watch"]
        return [each for args in said if isinstance(args, tuple) for each in args if isinstance(each, CallFailed)]

    return found


async def test_a_watch_goes_on_with_the_token_that_its_file_has_by_then(
    guarded: Guarded, follow: Follow, tmp_path: Path, ends: Callable[[], list[CallFailed]]
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(FIRST.secret)
    async with follow(guarded.address, token_file) as next_event:
        revisions = [(await next_event()).revision]
        waiting = asyncio.ensure_future(next_event())
        token_file.write_text(SECOND.secret)
        await guarded.take_only(SECOND.toml())

        async def has_ended() -> bool:
            return bool(ends())

        await eventually(has_ended, "the stream ended")
        for node in ("n1", "n2"):
            await guarded.admin.create_instance(FLEET, node, total_blocks=8)
        revisions += [(await waiting).revision, (await next_event()).revision]

    assert revisions == [1, 2, 3]
    assert [(type(end), end.reason) for end in ends()] == [(CredentialsExpired, Reason.CREDENTIALS_EXPIRED)]


async def test_a_watch_without_another_token_raises_what_the_server_says_to_the_old_one(
    guarded: Guarded, follow: Follow, tmp_path: Path, ends: Callable[[], list[CallFailed]]
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(FIRST.secret)
    async with follow(guarded.address, token_file) as next_event:
        await next_event()
        await guarded.take_only(SECOND.toml())
        with pytest.raises(Unauthenticated) as raised:
            await next_event()

    assert (type(raised.value), raised.value.reason) == (Unauthenticated, Reason.UNAUTHENTICATED)
    assert [(type(end), end.reason) for end in ends()] == [(CredentialsExpired, Reason.CREDENTIALS_EXPIRED)]
